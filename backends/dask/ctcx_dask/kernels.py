"""The operations on dask arrays: what the public functions return, to be computed later."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ctcx import CTCInputError
from ctcx_dask.blocks import Part, call_in_blocks

if TYPE_CHECKING:
    from ctcx_dask.blocks import Lazy

__all__ = ["align", "beam_search", "greedy", "loss", "loss_and_grad"]

_LOSS = Part("n")
_ALIGNMENT = tuple(map(Part, ("nt", "nt", "ns", "ns", "nt", "ns", "n", "n")))
_DECODED = (Part("nk", -1), Part("n"), Part("nk", -1), Part("nk", -1), Part("nk", 0), Part("n"))
_BEAMS = (Part("nbk", -1), *[Part("nb")] * 4, Part("nbk", -1), Part("n"))


def loss(**call: Any) -> Lazy:
    """Losses (N,), or reduced."""
    _check_reduction(call)
    (losses,) = call_in_blocks("ctc_loss", (_LOSS,), call)
    return _total(losses, call)


def loss_and_grad(**call: Any) -> tuple[Lazy, ...]:
    """Losses, gradient and feasibility."""
    _check_reduction(call)
    grad = Part("tnc" if call["time_major"] else "ntc")
    losses, grads, feasible = call_in_blocks("ctc_loss_and_grad", (_LOSS, grad, Part("n")), call)
    return _total(losses, call), grads, feasible


def align(**call: Any) -> tuple[Lazy, ...]:
    """All parts of an alignment."""
    return call_in_blocks("ctc_align", _ALIGNMENT, call)


def greedy(**call: Any) -> tuple[Lazy, ...]:
    """All parts of what a greedy decoder returns, as wide as there are frames."""
    return call_in_blocks("ctc_greedy", _DECODED, call)


def beam_search(**call: Any) -> tuple[Lazy, ...]:
    """All parts of what a beam search returns, as wide as there are frames."""
    if call["state"] is not None:
        msg = (
            "state must be None on dask arrays, as there is none before the frames are computed: "
            "search whole sequences, or compute the logits first"
        )
        raise CTCInputError(msg, argument="state")
    return call_in_blocks("ctc_beam_search", _BEAMS, call)


def _check_reduction(call: dict[str, Any]) -> None:
    """Refuse a mean of an unknown number of losses."""
    logits = call["logits"]
    unknown = logits.ndim == 3 and math.isnan(logits.shape[1 if call["time_major"] else 0])
    if call["reduction"] in ("mean", "mean_per_label") and unknown:
        msg = (
            f'reduction="{call["reduction"]}" divides by the number of sequences, and that of '
            f'logits is unknown: call logits.compute_chunk_sizes() first, or pass reduction="sum"'
        )
        raise CTCInputError(msg, argument="reduction", value=call["reduction"])


def _total(losses: Lazy, call: dict[str, Any]) -> Lazy:
    """Add up what each block adds to a reduced loss."""
    reduced = call["reduction"] != "none" and losses.ndim == 1
    return losses.sum(dtype=losses.dtype) if reduced else losses
