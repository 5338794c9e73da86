"""The exceptions of ctcx.

* CTCError
    * CTCInputError (ValueError): the caller's arrays or options are wrong
        * InfeasibleError: infeasible="raise", and a sequence can't emit its labels
    * BackendError (RuntimeError): no backend could be used; the message has the table of candidates
        * UnknownBackendError: a name that no plugin registered
        * BackendRejectedError: the named backend can't take this call, with the reason
    * KernelError (RuntimeError): a kernel returned something wrong, tried to end the process, or
      raised what can't be printed
    * PluginError: a plugin is broken (raised only under CTCX_STRICT_PLUGINS=1)

Warnings: PluginWarning (UserWarning), once for each plugin that could not be used.
"""

from __future__ import annotations

import reprlib

from ctcx._isolation import attempt, attempt_at_once

__all__ = [
    "BackendError",
    "BackendRejectedError",
    "CTCError",
    "CTCInputError",
    "InfeasibleError",
    "KernelError",
    "PluginError",
    "PluginWarning",
    "UnknownBackendError",
    "is_ordinary",
    "one_line",
    "printable",
    "short_repr",
    "shown",
]


class CTCError(Exception):
    """Base of all exceptions that ctcx defines. They can be pickled, to cross processes."""

    def __reduce__(self) -> tuple[object, ...]:
        return _recreated, (type(self), self.args, self.__dict__)


def _recreated(
    kind: type[CTCError], args: tuple[object, ...], attributes: dict[str, object]
) -> CTCError:
    """Make an error again without its ``__init__``, which takes more than the message."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class CTCInputError(CTCError, ValueError):
    """An argument is wrong: the message says which, where, its value, and what was expected.

    Attributes
    ----------
    argument : str
        Name of the argument, as in the signature.
    sequence : int or None
        Index of the first sequence of the batch that is wrong, where that can be told.
    position : int or tuple of int or None
        Where in that sequence: the label's position, or the (frame, class) of a logit.
    value : object
        The offending value (never a whole array).
    """

    def __init__(
        self,
        message: str,  # noqa: ARG002 - see below
        *,
        argument: str,
        sequence: int | None = None,
        position: int | tuple[int, ...] | None = None,
        value: object = None,
    ) -> None:
        # The message is kept by BaseException.__new__. A call of __init__ of the base classes would
        # add nothing, and is more than torch.compile can trace, which then shows no message.
        self.argument = argument
        self.sequence = sequence
        self.position = position
        self.value = value


class InfeasibleError(CTCInputError):
    """Under ``infeasible="raise"``: some sequences have no path that emits their labels.

    Attributes
    ----------
    sequences : tuple of int
        Their indices in the batch. A backend that computes a batch part by part, as the one for
        dask.array does, stops at a part: the message says at which, and others may have more.
    """

    def __init__(self, message: str, *, sequences: tuple[int, ...]) -> None:
        super().__init__(message, argument="labels", sequence=sequences[0] if sequences else None)
        self.sequences = sequences


class BackendError(CTCError, RuntimeError):
    """No backend could be used. The message carries every candidate with its reason."""


class UnknownBackendError(BackendError):
    """A backend was named that no plugin registered."""


class BackendRejectedError(BackendError):
    """The backend that was named can't take this call."""


class KernelError(CTCError, RuntimeError):
    """A kernel has a fault: the message says what it returned, and what was expected.

    The result of every kernel is looked at before the caller gets it: library, device, shape and
    dtype; where values are checked, also that no loss is NaN or negative. The same error stands
    for ``SystemExit`` and other exceptions of a kernel that would end the process, and for those
    whose ``str()`` or ``repr()`` raises.

    Attributes
    ----------
    backend : str
        Name of the backend.
    provenance : str
        Distribution and version of its plugin, such as ``"ctcx-numba 0.2"``.
    operation : str
        ``"loss"``, ``"loss_and_grad"``, ``"align"``, ``"occupancies"`` or ``"sample_paths"``.
    """

    def __init__(self, message: str, *, backend: str, provenance: str, operation: str) -> None:
        super().__init__(message)
        self.backend = backend
        self.provenance = provenance
        self.operation = operation


class PluginError(CTCError):
    """A plugin is broken. Raised only when ``CTCX_STRICT_PLUGINS`` is on; else it is a warning."""


class PluginWarning(UserWarning):
    """A plugin could not be used and was left out; the rest goes on."""


def is_ordinary(error: BaseException) -> bool:
    """Whether it is an `Exception` that the code that catches it can print or log."""
    if not issubclass(type(error), Exception):  # isinstance() may run code of the plugin's
        return False
    return all(attempt_at_once(words, error)[1] is None for words in (str, repr))


def one_line(error: BaseException) -> str:
    """Type and message of an exception, without its further lines; whatever its ``str()`` does."""
    name = printable(type(error).__name__)
    text, failed = attempt(str, error)
    if failed is not None:
        return f"{name} (its message can't be printed)"
    lines = str.strip(text).splitlines()
    return f"{name}: {printable(lines[0])}" if lines else name


def short_repr(value: object) -> str:
    """``repr()`` of what a caller passed, without the middle where it is long.

    Python writes no integers of more than 4,300 digits, and a class may refuse to be written.
    """
    text: str | None
    text, failed = attempt(reprlib.repr, value)
    if failed is None and text is not None:
        return text
    if isinstance(value, int):
        return f"an int of {value.bit_length()} bits"
    return f"a {printable(type(value).__qualname__)} (its repr() fails)"


def shown(value: object) -> str:
    """``repr()`` of an object of a plugin, cut where it is long; whatever its ``repr()`` does."""
    text, failed = attempt(repr, value)
    if failed is None:
        return printable(text, 200)
    return f"a {printable(type(value).__qualname__)} (its repr() fails)"


def printable(text: str, limit: int = 500) -> str:
    """Text of a plugin as one line that any terminal and any encoding takes, cut where it is long.

    Control characters and halves of surrogate pairs become question marks.
    """
    words = " ".join(str.split(str.__getitem__(text, slice(4 * limit))))
    line = "".join(c if c.isprintable() else "?" for c in words)
    return line if len(line) <= limit else f"{line[:limit]}..."
