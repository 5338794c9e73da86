"""The kernel ``beam_search`` of the ``array-api`` backend; see :class:`ctcx.plugin.Backend`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ctcx._arrays.facts import index_dtype, is_undecided, library_name
from ctcx._core.context import Context
from ctcx._core.gradient import block_shape, denominator
from ctcx._core.greedy import frames_inside
from ctcx._core.kernels import loop_for, run
from ctcx._core.prefix_beam import Beam, Frame, PrefixBeam
from ctcx._core.spans import label_frames

if TYPE_CHECKING:
    from ctcx._core.loops.base import Loop
    from ctcx._typing import Array

__all__ = ["beam_search"]

_INFINITY = float("inf")


def beam_search(
    logits: Array,
    logit_lengths: Array,
    *,
    blank: int,
    width: int,
    top: int,
    max_classes: int | None,
) -> tuple[Array, Array]:
    """Labels (N, top, T) of the best entries, and logarithms of their probabilities (N, top)."""
    constants = (blank, width, top, max_classes)
    return cast("tuple[Array, Array]", run(_beam_search, (logits, logit_lengths), constants))


def _beam_search(
    logits: Array, logit_lengths: Array, constants: tuple[int, int, int, int | None]
) -> tuple[Array, Array]:
    blank, width, top, max_classes = constants
    context = Context.of(logits, logit_lengths)
    xp = context.xp
    context = context._replace(index_dtype=index_dtype(xp, context.device))
    library = library_name(logits)
    loop = loop_for(library)
    rows, frames, classes = logits.shape
    # Of the blank alone there is no label; it stands in for one, with probability 0.
    count = max(1, min(width + 1, classes - 1, max_classes or width + 1))
    sorts = context.index_dtype == xp.int64 or library == "jax"
    beams = PrefixBeam(rows, classes, count, width, loop, context, sorts=sorts)
    beam = beams.first()
    if not is_undecided(rows, frames) and 0 in (rows, frames):
        labels = xp.full((rows, top, frames), -1, dtype=xp.int32, device=context.device)
        log_probs = xp.reshape(beam.total, (rows, width))[:, :top]
        return labels, xp.where(logit_lengths[:, None] == 0, log_probs, float("nan"))
    by_frame, wrong = _frames(logits, logit_lengths, blank, count, loop, context)

    def source(first: int, size: int) -> Frame:
        return Frame(*(part[first : first + size, ...] for part in by_frame))

    def step(beam: Beam, frame: Frame, _: Any) -> tuple[Beam, tuple[Array, Array]]:
        return beams.step(beam, Frame(*(part[0, ...] for part in frame)))

    beam, past = loop.scan(step, beam, source, first=0, blocks=frames, size=1)
    labels = _labels(past, rows, frames, top, loop, context)
    total = xp.reshape(beam.total, (rows, width))[:, :top]
    log_probs = total + (beam.rest + beam.taken)[:, None]
    alive = (total > -_INFINITY) & ~wrong[:, None]
    labels = xp.where(alive[:, :, None], labels, -1)
    # Rounding must not make a probability of more than 1.
    log_probs = xp.where(wrong[:, None], float("nan"), xp.minimum(log_probs, 0.0))
    return xp.astype(labels, xp.int32), log_probs


def _frames(
    logits: Array, logit_lengths: Array, blank: int, count: int, loop: Loop, context: Context
) -> tuple[Frame, Array]:
    """Read what the frames say, arrays (T, N, ...), and which sequences hold wrong values (N,).

    Past a sequence's end, and all along a wrong one, a frame says the blank with probability 1.
    """
    xp, classes = context.xp, logits.shape[2]
    inside, in_range = frames_inside(logit_lengths, logits.shape[1], context)
    is_blank = xp.arange(classes, dtype=xp.int32, device=context.device) == blank

    def block(rows: slice, frames: slice) -> tuple[Array, ...]:
        part = context.cast(logits[rows, frames, :])
        largest = xp.max(part, axis=2)
        peak = xp.where(xp.isfinite(largest), largest, 0.0)
        _, _, spread = denominator(part, peak, inside[rows, frames], context, all_inside=False)
        others = xp.where(is_blank[None, None, :], -_INFINITY, part)
        best = loop.largest(xp.reshape(others, (-1, classes)), count, context)
        best = xp.reshape(best, (*largest.shape, count))
        values = xp.take_along_axis(others, best, axis=2) - peak[:, :, None]
        return largest, peak, spread, values - spread[:, :, None], best

    real = context.dtype
    templates: list[tuple[tuple[int, ...], Any]] = [((), real)] * 3
    templates += [((count,), real), ((count,), context.index_dtype)]
    largest, peak, spread, values, best = loop.assemble(
        block, logits.shape[:2], templates, block_shape(*logits.shape), context
    )
    wrong = xp.any(inside & ~(largest < _INFINITY), axis=1) | ~in_range
    inside = inside & ~wrong[:, None]
    blanks = (context.cast(logits[:, :, blank]) - peak) - spread
    parts = (
        logits,
        peak,
        spread,
        inside,
        xp.where(inside, blanks, 0.0),
        xp.where(inside[:, :, None], values, -_INFINITY),
        best,
    )
    turned = (xp.permute_dims(part, (1, 0, *range(2, part.ndim))) for part in parts)
    return Frame(*turned), wrong


def _labels(past: Any, rows: int, frames: int, top: int, loop: Loop, context: Context) -> Array:
    """Labels of the best entries (N, top, T), by following each back to the first frame."""
    xp = context.xp
    start = xp.broadcast_to(context.arange(0, top)[None, :], (rows, top))

    def back(place: Array, _: Any, origin: tuple[Array, Array]) -> tuple[Array, tuple[Array]]:
        source, added = (xp.take_along_axis(part, place, axis=1) for part in origin)
        return source, (added[None, ...],)

    _, said = loop.scan(back, start + 0, lambda *_: (), first=0, blocks=frames, size=1, past=past)
    (said,) = loop.joined(said, xp)
    said = xp.reshape(xp.permute_dims(xp.flip(said, axis=0), (1, 2, 0)), (-1, frames))
    ones = xp.astype(said >= 0, context.index_dtype)
    so_far = xp.cumulative_sum(ones, axis=1, dtype=context.index_dtype)
    first, _ = label_frames(2 * so_far - ones, frames, context)
    there = context.arange(0, frames)[None, :] < so_far[:, -1:]
    labels = xp.take_along_axis(said, xp.where(there, first, 0), axis=1)
    return xp.reshape(xp.where(there, labels, -1), (rows, top, frames))
