"""Decoding with the scores that other libraries return; ctcx's own are of probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctcx._api.greedy import ctc_greedy
from ctcx._arrays.facts import device_of
from ctcx._inputs.prepare import prepare_logits

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["greedy_with_logits"]


def greedy_with_logits(
    logits: Array, logit_lengths: Any, *, blank: int, time_major: bool, merge_repeated: bool
) -> tuple[Array, Array]:
    """Labels (N, K), -1 past a sequence's own, and minus the sum of the largest logits (N, 1)."""
    found = ctc_greedy(
        logits, logit_lengths, blank=blank, time_major=time_major, merge_repeated=merge_repeated
    )
    call = prepare_logits(logits, logit_lengths, blank, time_major=time_major)
    xp, lengths = call.facts.xp, call.logit_lengths
    device = device_of(call.logits, traced=call.facts.traced)
    frame = xp.arange(0, call.logits.shape[1], dtype=lengths.dtype, device=device)
    largest = xp.astype(xp.max(call.logits, axis=2), found.score.dtype)
    inside = frame[None, :] < lengths[:, None]
    return found.labels, xp.sum(xp.where(inside, -largest, 0.0), axis=1)[:, None]
