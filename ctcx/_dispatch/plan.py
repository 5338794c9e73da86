"""What calls of one form have in common: the backend, and the form of its results.

The calls of a training loop differ in values alone. The first call of a form selects a backend and
checks the form of the result in full. Its plan is kept with the form, in
:class:`ctcx._inputs.prepare.KernelInputs`, and later calls look it up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._plugins.backend import Feature

if TYPE_CHECKING:
    from ctcx._dispatch.decision import Decision
    from ctcx._typing import Array

__all__ = ["Plan"]


class Plan:
    """A decision, and what follows from it.

    Attributes
    ----------
    decision
        With a backend selected.
    checks_values, takes_weights
        Whether the backend has these features.
    """

    __slots__ = ("_results", "checks_values", "decision", "takes_weights")

    def __init__(self, decision: Decision) -> None:
        entry = decision.selected
        assert entry is not None  # noqa: S101 - else there is no plan
        self.decision = decision
        self.checks_values = Feature.CHECKS_VALUES in entry.backend.features
        self.takes_weights = Feature.WEIGHTS in entry.backend.features
        self._results: tuple[tuple[Any, ...], ...] = ()

    def remember(self, result: Any) -> None:
        """Keep the form of a result, of NumPy or PyTorch, that has passed the full check."""
        self._results = tuple(map(_form, _arrays(result)))

    def fits(self, result: Any, logits: Array) -> bool:
        """Whether a result has the form that was kept, and doesn't share memory with the logits.

        False is no verdict: the full check follows.
        """
        arrays = _arrays(result)
        if not self._results or len(arrays) != len(self._results):
            return False
        for array, (kind, dtype, shape, device) in zip(arrays, self._results):  # noqa: B905 - equal
            if (
                type(array) is not kind
                or array.dtype != dtype
                or array.shape != shape
                or (device is not None and array.device != device)
            ):
                return False
        last = arrays[-1]
        if isinstance(logits, np.ndarray):
            if last.flags.owndata and logits.flags.owndata:  # a third of the time of the other
                return last is not logits
            return not np.may_share_memory(last, logits)
        return bool(last.data_ptr() != logits.data_ptr())


def _arrays(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)  # a named one, too


def _form(array: Any) -> tuple[Any, ...]:
    """Type, dtype, shape and device, which is None for NumPy."""
    kind = type(array)
    return kind, array.dtype, array.shape, None if kind is np.ndarray else array.device
