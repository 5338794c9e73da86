"""Forward-backward over the CTC lattice with other rules than CTC's, for what TensorFlow offers.

ctcx's kernels know one lattice, the right one. Two things that TensorFlow computes need another:
labels that never merge, and states that can be entered and left anywhere at a finite price. Plain
whole-array steps in a log domain that is shifted in every frame; no kernel, and no need of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ctcx._arrays.facts import device_of, namespace_of

if TYPE_CHECKING:
    from ctcx._typing import Array, ArrayModule

__all__ = ["Rules", "frame_mask", "log_softmax", "occupancies", "one_hot"]

_NEVER = float("-inf")


class Rules(NamedTuple):
    """Logarithms of the weights of what a path may do; 0 is free, -inf forbidden."""

    stay: float
    """To emit the same label again in the next frame."""
    skip: Array
    """(N, S): to enter label i from label i-1, without a blank between them."""
    elsewhere: float
    """To start in any state but the first, in the forward direction only."""
    end_labels: Array
    end_blanks: Array
    """(N, S) and (N, S + 1): to end in that state."""


def occupancies(
    labels: Array, blanks: Array, frames: Array, rules: Rules
) -> tuple[Array, Array, Array]:
    """Loss, and how probable each label state and the blank are at each frame.

    Parameters
    ----------
    labels, blanks
        (T, N, S) and (T, N): log probabilities of each label and of the blank; no NaN.
    frames
        (N,): lengths.
    rules
        What paths may do.

    Returns
    -------
    loss (N,), labels (T, N, S), blanks (T, N)
        The latter two add up to 1 in every frame, or are 0 where no path exists. What they say of
        frames past a length means nothing.
    """
    xp = namespace_of(labels)
    forward = _forward(xp, labels, blanks, rules)
    backward, loss = _backward(xp, labels, blanks, frames, rules)
    label_rows, blank_rows = [], []
    for (a_labels, a_blanks), (b_labels, b_blanks) in zip(forward, backward, strict=True):
        joint = xp.concat([a_labels + b_labels, a_blanks + b_blanks], axis=1)
        weight = xp.exp(joint - _shift(xp, joint))
        weight = weight / _at_least_tiny(xp, xp.sum(weight, axis=1, keepdims=True))
        label_rows.append(weight[:, : labels.shape[2]])
        blank_rows.append(xp.sum(weight[:, labels.shape[2] :], axis=1))
    if not label_rows:
        return loss, labels, blanks
    return loss, xp.stack(label_rows), xp.stack(blank_rows)


def _forward(
    xp: ArrayModule, labels: Array, blanks: Array, rules: Rules
) -> list[tuple[Array, Array]]:
    """At each frame, log weights of all beginnings that end in each state."""
    on_label = xp.full_like(rules.end_labels, rules.elsewhere)
    on_blank = xp.full_like(rules.end_blanks, rules.elsewhere)
    on_blank = xp.concat([xp.zeros_like(on_blank[:, :1]), on_blank[:, 1:]], axis=1)
    rows = []
    for t in range(labels.shape[0]):
        to_blank = xp.concat([on_blank[:, :1], xp.logaddexp(on_blank[:, 1:], on_label)], axis=1)
        to_label = xp.logaddexp(on_label + rules.stay, on_blank[:, :-1])
        skipped = xp.logaddexp(to_label[:, 1:], on_label[:, :-1] + rules.skip[:, 1:])
        on_label = xp.concat([to_label[:, :1], skipped], axis=1) + labels[t, ...]
        on_blank = to_blank + blanks[t, :, None]
        shift = _shift(xp, xp.concat([on_label, on_blank], axis=1))
        on_label, on_blank = on_label - shift, on_blank - shift
        rows.append((on_label, on_blank))
    return rows


def _backward(
    xp: ArrayModule, labels: Array, blanks: Array, frames: Array, rules: Rules
) -> tuple[list[tuple[Array, Array]], Array]:
    """At each frame, log weights of all endings that follow each state; and the loss."""
    end_label, end_blank = rules.end_labels, rules.end_blanks
    after_label, after_blank = end_label, end_blank
    total = xp.zeros_like(blanks[0, :]) if labels.shape[0] else xp.zeros_like(end_blank[:, 0])
    rows = []
    for t in range(labels.shape[0] - 1, -1, -1):
        rows.append((after_label, after_blank))
        via_label = after_label + labels[t, ...]
        via_blank = after_blank + blanks[t, :, None]
        from_blank = xp.concat(
            [xp.logaddexp(via_blank[:, :-1], via_label), via_blank[:, -1:]], axis=1
        )
        from_label = xp.logaddexp(via_label + rules.stay, via_blank[:, 1:])
        skipped = xp.logaddexp(from_label[:, :-1], via_label[:, 1:] + rules.skip[:, 1:])
        from_label = xp.concat([skipped, from_label[:, -1:]], axis=1)
        shift = _shift(xp, xp.concat([from_label, from_blank], axis=1))
        inside = (frames > t)[:, None]
        total = total + xp.where(inside, shift, xp.zeros_like(shift))[:, 0]
        after_label = xp.where(inside, from_label - shift, end_label)
        after_blank = xp.where(inside, from_blank - shift, end_blank)
    loss = -(total + after_blank[:, 0])
    return rows[::-1], xp.where(loss > 0, loss, xp.zeros_like(loss))


def _shift(xp: ArrayModule, values: Array) -> Array:
    """Largest of each row (N, 1), or 0 where that is -inf."""
    top = xp.max(values, axis=1, keepdims=True)
    return xp.where(top > _NEVER, top, xp.zeros_like(top))


def _at_least_tiny(xp: ArrayModule, total: Array) -> Array:
    return xp.where(total > 0, total, xp.ones_like(total))


def log_softmax(xp: ArrayModule, logits: Array) -> Array:
    """Along the last axis; rows of -inf only stay so."""
    top = xp.max(logits, axis=-1, keepdims=True)
    shifted = logits - xp.where(top > _NEVER, top, xp.zeros_like(top))
    total = xp.sum(xp.exp(shifted), axis=-1, keepdims=True)
    return shifted - xp.log(_at_least_tiny(xp, total))


def frame_mask(xp: ArrayModule, frames: Array, count: int) -> Array:
    """(N, T, 1): whether a frame is inside its sequence."""
    device = device_of(frames)
    return (xp.arange(count, dtype=frames.dtype, device=device)[None, :] < frames[:, None])[
        :, :, None
    ]


def one_hot(labels: Array, classes: int, dtype: Any) -> Array:
    """One-hot (N, S, C); zeros for what is no class."""
    xp = namespace_of(labels)
    device = device_of(labels)
    every = xp.arange(classes, dtype=labels.dtype, device=device)
    return xp.astype(labels[:, :, None] == every, dtype)
