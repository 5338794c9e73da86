"""The kernel for searches with phrases, with an n-gram model, and in chunks."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from ctcx_cpu import _native
from ctcx_cpu._host import TYPES, integers, rows
from ctcx_cpu.kernels import number_of_threads

if TYPE_CHECKING:
    from collections.abc import Iterable

    import ctcx

    WeightedPhrases = tuple[tuple[tuple[int, ...], float], ...]

__all__ = ["guided_search"]

_models: WeakKeyDictionary[ctcx.NGram, object] = WeakKeyDictionary()


def guided_search(
    logits: Any,
    logit_lengths: Any,
    *,
    blank: int,
    width: int,
    max_classes: int | None,
    entries: tuple[Any, ...],
    phrases: WeightedPhrases,
    model: ctcx.NGram | None,
    model_weight: float,
    label_bonus: float,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """Add frames to beams: a kernel for :class:`ctcx.plugin.Backend`, which states the contract.

    Parameters
    ----------
    logits, logit_lengths
        (N, T, C) and (N,), of NumPy; float32 or float64.
    blank, width, max_classes, entries, phrases, model, model_weight, label_bonus
        As for any kernel of this operation.
    num_threads
        How many threads to use at most; default: ``CTCX_NUM_THREADS``, or the usable cores.

    Returns
    -------
    array (N, W, L + T), and four arrays (N, W)
        Labels, int32, and numbers, float64; -1 and NaN for a sequence with a length or logit that
        is not allowed.
    """
    x, (count, frames) = rows(logits), logits.shape[:2]
    before = np.ascontiguousarray(entries[0], dtype=np.int32)
    labels = np.empty((count, width, before.shape[2] + frames), dtype=np.int32)
    numbers = np.empty((4, count, width))
    _native.guided_search(
        x,
        integers(logit_lengths),
        before,
        np.stack(entries[1:]),
        labels,
        numbers,
        TYPES[x.dtype],
        blank,
        max_classes or 0,
        _phrases(phrases) if phrases else None,
        None if model is None else _ngrams(model),
        model_weight,
        label_bonus,
        number_of_threads(num_threads),
    )
    return labels, *numbers


@lru_cache(maxsize=8)
def _phrases(phrases: WeightedPhrases) -> object:
    labels = np.fromiter(chain.from_iterable(one for one, _ in phrases), np.int32)
    lengths = np.array([len(one) for one, _ in phrases], np.int64)
    return _native.phrases(labels, lengths, np.array([weight for _, weight in phrases]))


def _ngrams(model: ctcx.NGram) -> object:
    """Return the compiled model, which is kept for as long as the model itself."""
    if (found := _models.get(model)) is None:
        places = {gram[0]: i for i, gram in enumerate(one for one in model.grams if len(one) == 1)}
        separator = -1 if model.separator is None else model.tokens.index(model.separator)
        found = _models[model] = _native.ngrams(
            *_strings(places),
            *_strings(model.tokens),
            np.array([len(gram) for gram in model.grams], np.int32),
            np.array([places[word] for gram in model.grams for word in gram], np.int32),
            np.array([gram[0] for gram in model.grams.values()], np.float64),
            np.array([gram[1] for gram in model.grams.values()], np.float64),
            separator,
            model.order,
        )
    return found


def _strings(strings: Iterable[str]) -> tuple[bytes, Any]:
    """Return texts one after another, and where they end."""
    parts = [string.encode("utf-8", "surrogatepass") for string in strings]
    return b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.int64)
