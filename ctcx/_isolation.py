"""Run the code of plugins so that nothing it raises ends the process, while the user still can.

``SystemExit``, ``KeyboardInterrupt`` and other exceptions that are no `Exception` end a process
where no code catches them. A plugin that raises one is broken, and its fault is recorded like any
other. What an application's own signals raise goes on to the application: Ctrl-C, and whatever its
signal handlers raise, such as ``SystemExit`` on SIGTERM or a timeout on SIGALRM.
"""

from __future__ import annotations

import dis
import functools
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType, TracebackType

__all__ = ["attempt", "attempt_at_once", "forget_interrupt", "is_the_users"]


# A class of a plugin may have attributes of these names that run code of its own.
_CONTEXT: Any = vars(BaseException)["__context__"].__get__
_TRACEBACK: Any = vars(BaseException)["__traceback__"].__get__


def attempt(function: Callable[..., Any], /, *args: Any) -> tuple[Any, BaseException | None]:
    """Call code of a plugin that may take long, such as an import.

    A KeyboardInterrupt is the user's if, and only if, the handler of SIGINT ran meanwhile. It is
    raised even where the plugin has swallowed it or turned it into something else.

    Returns
    -------
    result
        Of the function; None if it raised.
    error
        What it raised; None if it did not.

    Raises
    ------
    BaseException
        What a signal raised.
    """
    listener = _Listener.installed()
    if listener is None:
        return attempt_at_once(function, *args)
    result = error = None
    try:
        result = function(*args)
    except BaseException as raised:  # noqa: BLE001 - whatever a plugin raises
        error = raised
    finally:
        listener.remove()
    if listener.heard:
        own = issubclass(type(error), KeyboardInterrupt)
        raise error if own else KeyboardInterrupt from error  # type: ignore[misc]
    if error is not None:
        if _is_of_a_handler(error):
            raise error
        forget_interrupt()
    return result, error


def attempt_at_once(
    function: Callable[..., Any], /, *args: Any
) -> tuple[Any, BaseException | None]:
    """Do the same without listening to SIGINT, which would take microseconds.

    Whose a KeyboardInterrupt is, is told by :func:`is_the_users`.
    """
    try:
        return function(*args), None
    except BaseException as error:
        if is_the_users(error):
            raise
        forget_interrupt()
        return None, error


def forget_interrupt() -> None:
    """Keep CPython from ending the process by SIGINT when it exits.

    It does so where a KeyboardInterrupt has left the latest ``exec`` of a string, even if the
    exception was caught.
    """
    exec("")  # noqa: S102


def is_the_users(error: BaseException) -> bool:
    """Whether an exception that came out of a plugin was raised by a signal of the application.

    Python's own handler of SIGINT leaves no trace. It runs in the main thread, between two
    instructions or inside a call; so a KeyboardInterrupt that starts at a ``raise`` is not its.
    """
    if _is_of_a_handler(error):
        return True
    return (
        issubclass(type(error), KeyboardInterrupt)  # isinstance() may run code of the plugin's
        and threading.current_thread() is threading.main_thread()
        and _is_pythons_own(signal.getsignal(signal.SIGINT))
        and not all(map(_starts_at_a_raise, _interrupts(error)))
    )


class _Listener:
    """Python's own handler of SIGINT, which also notes that it ran."""

    def __init__(self, before: Callable[[int, FrameType | None], Any]) -> None:
        self.heard = False
        self._before = before

    @classmethod
    def installed(cls) -> _Listener | None:
        """Make one, in place of Python's own; None where another handler or thread is at work."""
        before: Any = signal.getsignal(signal.SIGINT)
        if not _is_pythons_own(before):
            return None
        listener = cls(before)
        try:
            signal.signal(signal.SIGINT, listener)
        except ValueError:  # signals belong to the main thread
            return None
        return listener

    def remove(self) -> None:
        """Put back what was there, unless the plugin has installed a handler of its own."""
        current: object = signal.getsignal(signal.SIGINT)
        if current is self:
            signal.signal(signal.SIGINT, self._before)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.heard = True
        self._before(number, frame)


def _is_pythons_own(handler: object) -> bool:
    return handler is signal.default_int_handler or isinstance(handler, _Listener)


def _is_of_a_handler(error: BaseException) -> bool:
    """Whether it passed through a signal handler that the application has installed."""
    handlers = set(_codes_of_handlers())
    return any(trace.tb_frame.f_code in handlers for trace in _traces(error))


def _codes_of_handlers() -> Iterator[CodeType]:
    """Code of all signal handlers that are written in Python and not part of this module."""
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while isinstance(handler, functools.partial):
            handler = handler.func
        if not callable(handler) or isinstance(handler, _Listener):
            continue
        for function in (handler, getattr(type(handler), "__call__")):  # noqa: B004, B009
            code = getattr(function, "__code__", None)  # methods have that of their function
            if code is not None:
                yield code


def _interrupts(error: BaseException | None) -> Iterator[BaseException]:
    """Give a KeyboardInterrupt and those during whose handling it was raised."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if issubclass(type(error), KeyboardInterrupt):
            yield error
        error = _CONTEXT(error)


def _starts_at_a_raise(error: BaseException) -> bool:
    traces = list(_traces(error))
    if not traces:
        return False
    code, index = traces[-1].tb_frame.f_code, traces[-1].tb_lasti
    return dis.opname[code.co_code[index]] == "RAISE_VARARGS"


def _traces(error: BaseException) -> Iterator[TracebackType]:
    trace = _TRACEBACK(error)
    while trace is not None:
        yield trace
        trace = trace.tb_next
