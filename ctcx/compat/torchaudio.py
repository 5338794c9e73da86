"""``torchaudio.functional.forced_align`` and ``merge_tokens``, on any array library.

>>> import numpy as np
>>> from ctcx.compat.torchaudio import forced_align, merge_tokens
>>> log_probs = np.log([[[0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]])  # (B, T, C)
>>> tokens, scores = forced_align(log_probs, np.asarray([[1, 2]]))
>>> tokens
array([[1, 0, 2]])
>>> [(span.token, span.start, span.end) for span in merge_tokens(tokens[0], scores[0])]
[(1, 0, 1), (2, 2, 3)]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NoReturn

from ctcx._api.align import ctc_align
from ctcx._arrays.facts import (
    any_traced,
    device_of,
    index_dtype,
    is_array,
    namespace_of,
)
from ctcx._arrays.tensor_forms import hidden_from_dynamo
from ctcx._errors import InfeasibleError, short_repr
from ctcx._inputs.host_data import as_integer, plain, to_lists
from ctcx.compat._shared.argument_names import in_terms, refuse, renamed, shape_of
from ctcx.compat.torch._errors import CTCInputRuntimeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctcx._typing import Array, ArrayModule

__all__ = ["TokenSpan", "forced_align", "merge_tokens"]

_TERMS = {
    "logits": "log_probs",
    "labels": "targets",
    "logit_lengths": "input_lengths",
    "label_lengths": "target_lengths",
}


class InfeasibleRuntimeError(InfeasibleError, RuntimeError):
    """No path emits the targets, for which torchaudio raises `RuntimeError`."""

    def __init__(self, message: str, *, sequences: tuple[int, ...]) -> None:
        super().__init__(message, sequences=sequences)
        self.argument = "targets"


@dataclass
class TokenSpan:
    """A token with its frames and score, as :func:`merge_tokens` lists them.

    Attributes
    ----------
    token : int
        The class.
    start : int
        Its first frame.
    end : int
        The frame after its last one.
    score : float
        Mean of the scores of its frames.

    Notes
    -----
    ``len()`` is the number of frames.
    """

    token: int
    start: int
    end: int
    score: float

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.end - self.start


@hidden_from_dynamo
def forced_align(
    log_probs: Array,
    targets: Array,
    input_lengths: Array | Sequence[int] | None = None,
    target_lengths: Array | Sequence[int] | None = None,
    blank: int = 0,
) -> tuple[Array, Array]:
    """Most probable path that emits the targets, as ``torchaudio.functional.forced_align``.

    Parameters
    ----------
    log_probs : array (B, T, C)
        Logarithms of probabilities, as from ``log_softmax``. Of any array library.
    targets : array of int (B, L)
        Without blanks; padding past ``target_lengths`` is ignored.
    input_lengths : array of int (B,), optional
        Frames of each sequence; default: T.
    target_lengths : array of int (B,), optional
        Targets of each sequence; default: L.
    blank : int
        Class of the blank; unlike in torchaudio, negative ones count from the end.

    Returns
    -------
    aligned_tokens : array (B, T)
        The class of each frame, in the dtype of ``targets``; the blank past a sequence's length.
    scores : array (B, T)
        The values of ``log_probs`` at these classes, in their dtype; 0 past a sequence's length.
        Differentiable where ``log_probs`` are.

    Raises
    ------
    InfeasibleError
        No path emits the targets; says how many frames are needed. Also a ``RuntimeError``. Where
        values can't be read, as under ``jax.jit``, the sequence has tokens of -1 and scores of
        -inf instead.
    CTCInputError
        Wrong ranks, shapes, dtypes, libraries or devices; a target out of range or equal to the
        blank; lengths out of range; NaN or +inf inside a sequence. Also a ``RuntimeError``.

    Examples
    --------
    >>> import numpy as np
    >>> from ctcx.compat.torchaudio import forced_align
    >>> log_probs = np.log(np.full((2, 4, 3), 1 / 3))
    >>> forced_align(log_probs, np.asarray([[1, 1], [2, 0]]), [4, 3], [2, 1])[0]
    array([[1, 0, 1, 1],
           [2, 2, 2, 0]])
    """
    if not is_array(log_probs) or log_probs.ndim != 3:
        _refuse("log_probs", "have shape (B, T, C)", log_probs)
    if not is_array(targets) or targets.ndim != 2:
        _refuse("targets", "have shape (B, L)", targets)
    with in_terms(_TERMS, CTCInputRuntimeError):
        log_probs, targets = plain("logits", log_probs), plain("labels", targets)
        try:
            found = ctc_align(log_probs, targets, input_lengths, target_lengths, blank=blank)
        except InfeasibleError as error:
            told = renamed(str(error), _TERMS)
            told = told.replace('infeasible="empty"', 'ctcx.ctc_align(..., infeasible="empty")')
            raise InfeasibleRuntimeError(told, sequences=error.sequences) from None
    xp, name = namespace_of(log_probs), str(targets.dtype).rpartition(".")[2]
    wide = _wide_integers(xp, log_probs)
    dtype = wide if name == "int64" else getattr(xp, name)  # JAX may have no int64
    classes = xp.astype(found.classes, wide)
    inside, feasible = classes >= 0, found.feasible[:, None]
    index = xp.where(inside, classes, xp.zeros_like(classes))[:, :, None]
    scores = xp.take_along_axis(log_probs, index, axis=2)[:, :, 0]
    nothing = xp.zeros_like(scores)
    scores = xp.where(inside, scores, xp.where(feasible, nothing, -float("inf")))
    padding = blank % log_probs.shape[2]
    tokens = xp.where(feasible & ~inside, xp.full_like(classes, padding), classes)
    return xp.astype(tokens, dtype), scores


def merge_tokens(tokens: Array, scores: Array, blank: int = 0) -> list[TokenSpan]:
    """Merge equal neighbours and leave out blanks, as ``torchaudio.functional.merge_tokens``.

    Parameters
    ----------
    tokens : array of int (T,)
        Tokens of one sequence, from :func:`forced_align`. Negative ones are left out.
    scores : array (T,)
        Their scores.
    blank : int
        Class of the blank; never negative, since the number of classes isn't known here.

    Returns
    -------
    list of TokenSpan
        One for each stretch of equal tokens, in order.

    Raises
    ------
    CTCInputError
        They aren't two arrays (T,), or the blank is negative. Also a ``RuntimeError``.

    Examples
    --------
    >>> import numpy as np
    >>> from ctcx.compat.torchaudio import merge_tokens
    >>> merge_tokens(np.asarray([0, 2, 2, 0]), np.asarray([-0.1, -0.5, -1.0, -0.1]))
    [TokenSpan(token=2, start=1, end=3, score=-0.75)]
    """
    for argument, array in (("tokens", tokens), ("scores", scores)):
        if not is_array(array) or array.ndim != 1:
            _refuse(argument, "have shape (T,): pass one sequence", array)
    if tokens.shape != scores.shape:
        _refuse("scores", f"have shape {tuple(tokens.shape)}, as tokens have", scores)
    index = as_integer(blank)
    if index is None or index < 0:
        got = short_repr(blank)
        refuse("blank", "be the class of the blank, from 0", got, CTCInputRuntimeError)
    values = to_lists(plain("scores", scores))
    found, start = [], 0
    for token, stretch in groupby(to_lists(plain("tokens", tokens))):
        end = start + sum(1 for _ in stretch)
        if token >= 0 and token != index:
            mean = sum(values[start:end]) / (end - start)
            found.append(TokenSpan(token, start, end, mean))
        start = end
    return found


def _wide_integers(xp: ArrayModule, array: Array) -> Any:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return xp.int64  # torch.compile can't follow the question below
    return index_dtype(xp, device_of(array, traced=any_traced(array)))


def _refuse(argument: str, expected: str, value: object) -> NoReturn:
    refuse(argument, expected, shape_of(value), CTCInputRuntimeError)
