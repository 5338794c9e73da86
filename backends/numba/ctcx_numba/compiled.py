"""All that Numba compiles: loss and gradient of some sequences of a batch, in plain loops.

A sequence is walked forward and back in blocks of frames (Graves et al. 2006, section 4.1). With
b_i the blank before label i, l_i that label, and y the softmax of a frame:

    forward     b_i <- (b_i + l_(i-1)) y_blank
                l_i <- (l_i + b_i + [label i differs from label i-1] l_(i-1)) y_(label i)
    gradient    y_c - sum over states of class c of alpha beta / likelihood

Instead of y = exp(x - top) / sum, with the largest logit at the top, it takes exp(x - top), and
adds log(sum) to the loss. So a frame that is certain multiplies by exactly 1, and costs no digits.

All is float64, whatever the logits are, and a probability is m 2**e, its mantissa m in one array
and its whole exponent e in another: nothing underflows at any length. What is impossible has the
exponent ``NEVER``. README.md says why the loops are written as they are.
"""

from __future__ import annotations

import logging
import math
import threading
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit, types

__all__ = ["compiled_for", "scratch_for"]

logger = logging.getLogger("ctcx_numba")

LARGEST_LOSS = 1.8e8  # nats; above it, a loss is +inf on every backend
LOWEST = -4e8  # nats; a class that is less likely beside the best makes a loss +inf
NEVER = -(2**40)
LANES = 8
MOST_STATES = 2**17  # of a block
GAP = 128  # elements behind each array

INFINITY, NAN = math.inf, math.nan
LN_2, LOG2_E = math.log(2), 1 / math.log(2)
LN_2_HIGH, LN_2_LOW = 0.6931469440460205, 2.3651392480160473e-07  # 22 bits, and the rest
ROUNDER = 1.5 * 2.0**52  # x + ROUNDER is rounded to a whole number, in the last bits
ROUNDER_BITS = int(np.float64(ROUNDER).view(np.int64))
ALL_BITS, FRACTION, ONE = 2**63 - 1, 2**52 - 1, 1023 << 52  # of a float64, ONE being those of 1.0

OPTIONS = {"nogil": True, "error_model": "numpy"}
# Only `batch` is called from Python; the rest compiles faster without wrappers.
INNER = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


class Numbers(NamedTuple):
    m: Any  # of numbers m 2**e
    e: Any


class Scratch(NamedTuple):
    """Memory for one sequence at a time.

    State rows are (2, width + 2): blanks, then labels, number i at i + 1, ``NEVER`` on either side.
    """

    row: Any  # logits of a frame, then -inf: the class of what is past the last label
    powers: Any  # exp(logit - top) of the frame
    classes: Any  # (width) of the labels; unsigned, so that Numba counts none from the end
    skip: Any  # (width + 1) added to the exponent of label i-1 on its way to label i: 0, or NEVER
    occupancy: Any  # (width)
    blanks: Numbers  # (block) emissions
    labels: Numbers  # (block, width) emissions
    alpha: Numbers  # rows before and after each frame of a block
    kept: Numbers  # a row before each block
    beta: Numbers  # the two rows of the frame that the way back is at


def scratch_for(frames: int, count: int, classes: int) -> Scratch:
    """Make scratch memory for sequences of up to so many frames and labels."""
    width = _width(count)
    block = max(1, frames if frames * width <= MOST_STATES else math.isqrt(frames))
    padded = -(-classes // LANES) * LANES
    return Scratch(
        row=_array(-math.inf, padded + 1),
        powers=_array(0.0, padded),
        classes=_array(np.uint64(0), width),
        skip=_array(0, width + 1),
        occupancy=_array(0.0, width),
        blanks=_numbers(block),
        labels=_numbers(block, width),
        alpha=_numbers(block + 1, 2, width + 2),
        kept=_numbers(max(1, -(-frames // block)), 2, width + 2),
        beta=_numbers(2, 2, width + 2),
    )


def _array(fill: Any, *shape: int) -> Any:
    # LLVM adds up in another order if an array begins shortly behind another: hence the gap.
    return np.full(math.prod(shape) + GAP, fill)[:-GAP].reshape(shape)


def _numbers(*shape: int) -> Numbers:
    return Numbers(_array(1.0, *shape), _array(NEVER, *shape))


def _width(count: int) -> int:
    return (count // LANES + 1) * LANES  # as many blanks, or more, in whole vectors


width_of = njit(**INNER)(_width)


@njit(**INNER)
def larger(a, b):
    return a if a > b else b  # max() asks for NaN too, which LLVM makes no vectors of


@njit(**INNER, fastmath={"contract"})
def exponential(x):
    """Exp of x <= 0 as m 2**k, with m from 0.7 to 1.42 (Cody and Waite 1980, chapter 6)."""
    x = larger(x, LOWEST)
    shifted = x * LOG2_E + ROUNDER
    whole = shifted - ROUNDER
    r = (x - whole * LN_2_HIGH) - whole * LN_2_LOW
    m = 1 / 39916800 + r * (1 / 479001600)  # Taylor's series: |r| is at most log(2) / 2
    m = 1 / 362880 + r * (1 / 3628800 + r * m)
    m = 1 / 5040 + r * (1 / 40320 + r * m)
    m = 1 / 120 + r * (1 / 720 + r * m)
    m = 1 / 6 + r * (1 / 24 + r * m)
    m = 1 + r * (1 + r * (1 / 2 + r * m))
    return m, np.float64(shifted).view(np.int64) - ROUNDER_BITS


@njit(**INNER)
def power_of_two(k):
    """2.0**k, and 0 from -1023 down."""
    return np.int64((larger(k, -1023) + 1023) << 52).view(np.float64)


@njit(**INNER)
def apart(v, e):
    """Return v 2**e, for a positive v, as m 2**e with m in [1, 2)."""
    bits = np.float64(v).view(np.int64)
    return np.int64(bits & FRACTION | ONE).view(np.float64), e + (bits >> 52) - 1023


@njit(**INNER)
def read(logits, r, row):
    """Copy a row as float64; return its largest logit, and whether it has a NaN or +inf."""
    wrong = False
    top = -ALL_BITS
    for c in range(logits.shape[1]):
        x = np.float64(logits[r, c])
        fine = x < INFINITY
        wrong |= not fine
        x = x if fine else -INFINITY
        row[c] = x
        # As integers, negative floats are in the opposite order; LLVM wants integers for a maximum.
        bits = np.float64(x).view(np.int64)
        top = larger(top, bits ^ ((bits >> 63) & ALL_BITS))
    largest = np.int64(top ^ ((top >> 63) & ALL_BITS)).view(np.float64)
    return (largest if largest > -INFINITY else 0.0), wrong


@njit(**INNER, fastmath={"reassoc", "contract"})
def exponentials_of_row(row, top, powers):
    """Return how many logits are the largest, and the sum of exp(logit - top) of all others."""
    ties = 0
    rest = 0.0
    for c in range(powers.size):
        x = row[c] - top
        m, k = exponential(x)
        power = m * power_of_two(k)
        powers[c] = power
        ties += x == 0
        rest += power if x < 0 else 0.0
    return ties, rest


@njit(**INNER)
def write(powers, scale, grad, r):
    for c in range(grad.shape[1]):
        grad[r, c] = powers[c] * scale


@njit(**INNER, fastmath={"contract"})
def emit(row, top, classes, m, e, u, width):
    """Exp of the logits of the labels, apart."""
    for i in range(width):
        m[u, i] = row[classes[i]] - top
    for i in range(width):
        m[u, i], e[u, i] = exponential(m[u, i])


@njit(**INNER, fastmath={"contract"})
def forward(m, e, u, y, k, lm, le, skip, width):
    """Alphas after a frame from those before it; y 2**k is the emission of the blank."""
    for i in range(width):
        b, l, before = e[u, 0, i + 1], e[u, 1, i + 1], e[u, 1, i]
        bm, lm_old, before_m = m[u, 0, i + 1], m[u, 1, i + 1], m[u, 1, i]
        high = larger(b, before)
        v = bm * power_of_two(b - high) + before_m * power_of_two(before - high)
        m[u + 1, 0, i + 1], e[u + 1, 0, i + 1] = apart(v * y, high + k)
        before += skip[i]
        high = larger(larger(b, l), before)
        v = bm * power_of_two(b - high) + lm_old * power_of_two(l - high)
        v += before_m * power_of_two(before - high)
        m[u + 1, 1, i + 1], e[u + 1, 1, i + 1] = apart(v * lm[u, i], high + le[u, i])


@njit(**INNER, fastmath={"reassoc", "contract"})
def backward(m, e, old, am, ae, u, y, k, lm, le, skip, width, v_all, e_all, occupancy):
    """Betas before a frame from those behind it; return the occupancy of the blanks."""
    new = 1 - old
    scale = 1 / v_all
    total = 0.0
    for i in range(width):
        b, l, after = e[old, 0, i + 1], e[old, 1, i + 1], e[old, 0, i + 2]
        bm, lm_old, after_m = m[old, 0, i + 1], m[old, 1, i + 1], m[old, 0, i + 2]
        high = larger(b, l)
        v = bm * power_of_two(b - high) + lm_old * power_of_two(l - high)
        total += am[u + 1, 0, i + 1] * v * power_of_two(ae[u + 1, 0, i + 1] + high - e_all)
        m[new, 0, i + 1], e[new, 0, i + 1] = apart(v * y, high + k)
        skipped = e[old, 1, i + 2] + skip[i + 1]
        high = larger(larger(l, after), skipped)
        v = lm_old * power_of_two(l - high) + after_m * power_of_two(after - high)
        v += m[old, 1, i + 2] * power_of_two(skipped - high)
        share = am[u + 1, 1, i + 1] * v * power_of_two(ae[u + 1, 1, i + 1] + high - e_all)
        occupancy[i] = share * scale
        m[new, 1, i + 1], e[new, 1, i + 1] = apart(v * lm[u, i], high + le[u, i])
    return total * scale


@njit(**INNER)
def likelihood(m, e, u, count):
    """Sum of the paths, which end in the last blank or the last label."""
    b, l = e[u, 0, count + 1], e[u, 1, count]
    high = larger(b, l)
    v = m[u, 0, count + 1] * power_of_two(b - high) + m[u, 1, count] * power_of_two(l - high)
    return v, high


@njit(**INNER)
def copy_row(of, u, to, v, width):
    for kind in range(2):
        for i in range(width + 2):
            to.m[v, kind, i] = of.m[u, kind, i]
            to.e[v, kind, i] = of.e[u, kind, i]


@njit(**INNER)
def set_up(labels, n, count, blank, num_classes, scratch):
    """Prepare a sequence; return False if it has a label that is not allowed."""
    classes, skip, alpha, beta = scratch.classes, scratch.skip, scratch.alpha, scratch.beta
    width = width_of(count)
    for i in range(width):
        skip[i] = 0
        classes[i] = scratch.row.size - 1
        if i < count:
            label = labels[n, i]
            if label < 0 or label >= num_classes or label == blank:
                return False
            classes[i] = label
            if i > 0 and label == labels[n, i - 1]:
                skip[i] = NEVER
    skip[width] = 0
    for kind in range(2):
        for i in range(width + 2):
            alpha.e[0, kind, i] = beta.e[0, kind, i] = beta.e[1, kind, i] = NEVER
    alpha.m[0, 0, 1], alpha.e[0, 0, 1] = 1.0, 0  # a path begins as from the first blank,
    beta.m[0, 0, count + 1], beta.e[0, 0, count + 1] = 1.0, 0  # and ends as into the last one
    return True


def batch(
    logits, num_frames, per_sequence, per_frame, labels, logit_lengths, label_lengths, blank, mine,
    scratch, losses, grad,
):  # fmt: skip
    """Compute the losses of the sequences ``mine``, and their gradient if ``grad`` has classes.

    Frame t of sequence n is the row ``n * per_sequence + t * per_frame`` of ``logits`` and of
    ``grad``. Labels and lengths may have any values.
    """
    row, powers, classes, skip, occupancy, blanks, emitted, alpha, kept, beta = scratch
    bm, be, lm, le, am, ae = blanks.m, blanks.e, emitted.m, emitted.e, alpha.m, alpha.e
    block, num_classes = bm.size, logits.shape[1]
    for n in mine:
        first, frames, count = n * per_sequence, logit_lengths[n], label_lengths[n]
        wrong = not 0 <= frames <= num_frames
        frames = num_frames if wrong else frames
        wrong = wrong or not 0 <= count <= labels.shape[1]
        wrong = wrong or not set_up(labels, n, count, blank, num_classes, scratch)
        width = width_of(count)
        blocks = larger(1, (frames + block - 1) // block)
        loss, log_sums, old, v_all, e_all = NAN, 0.0, 0, 1.0, 0
        # All blocks forward, then all back. The last is visited once: its alphas are still there.
        visits = 0 if wrong else 2 * blocks - 1 if grad.shape[1] > 0 else blocks
        for visit in range(visits):
            again = visit >= blocks
            at = 2 * blocks - 2 - visit if again else visit
            begin, end = at * block, min(frames, (at + 1) * block)
            if again:
                copy_row(kept, at, alpha, 0, width)
            else:
                copy_row(alpha, block if visit > 0 else 0, alpha, 0, width)
                copy_row(alpha, 0, kept, at, width)
            for t in range(begin, end):
                r, u = first + t * per_frame, t - begin
                top, bad = read(logits, r, row)
                if not again:
                    wrong |= bad
                    ties, rest = exponentials_of_row(row, top, powers)
                    some = ties > 0  # classes that are not masked
                    log_sums += math.log1p(ties - 1 + rest) if some else 0.0
                    write(powers, 1 / (ties + rest) if some else 0.0, grad, r)
                emit(row, top, classes, lm, le, u, width)
                bm[u], be[u] = exponential(row[blank] - top)
                forward(am, ae, u, bm[u], be[u], lm, le, skip, width)
            if visit == blocks - 1:
                v_all, e_all = likelihood(am, ae, end - begin, count)
                loss = larger(log_sums - (math.log(v_all) + e_all * LN_2), 0.0)
                loss = NAN if wrong else loss if loss <= LARGEST_LOSS else INFINITY
                if not loss < INFINITY:
                    break
            if visit >= blocks - 1 and grad.shape[1] > 0:
                for t in range(end - 1, begin - 1, -1):
                    r, u = first + t * per_frame, t - begin
                    grad[r, blank] -= backward(
                        beta.m, beta.e, old, am, ae, u, bm[u], be[u], lm, le, skip, width, v_all,
                        e_all, occupancy,
                    )  # fmt: skip
                    old = 1 - old
                    for i in range(count):
                        grad[r, classes[i]] -= occupancy[i]
        losses[n] = loss
        for t in range(frames if loss < INFINITY else 0, num_frames):
            for c in range(grad.shape[1]):
                grad[first + t * per_frame, c] = NAN if t < frames and loss != INFINITY else 0.0


_lock = threading.Lock()
_compiled: dict[str, Any] = {}


def compiled_for(dtype: str) -> Any:
    """Return ``batch`` for logits of float32 or float64, compiled by the first call that asks.

    It has one signature: contiguous rows that may be read-only, however the caller's arrays lie.
    """
    with _lock:
        if dtype not in _compiled:
            real, whole = getattr(types, dtype), types.int64
            scratch = numba.typeof(scratch_for(1, 1, 1))
            rows = types.Array(real, 2, "C", readonly=True)
            signature = types.void(
                rows, whole, whole, whole, whole[:, ::1], whole[::1], whole[::1], whole, whole[:],
                scratch, types.float64[::1], real[:, ::1],
            )  # fmt: skip
            try:
                found = njit(signature, cache=True, **OPTIONS)(batch)
                # Processes that write at once may leave the code of another dtype in this place.
                if found.signatures != [signature.args]:
                    raise ValueError(found.signatures)
            except Exception as error:  # noqa: BLE001 - a full disk, a damaged file, no folder, ...
                logger.warning("compiled code is not kept on disk: %r", error)
                found = njit(signature, **OPTIONS)(batch)
            _compiled[dtype] = found
        return _compiled[dtype]
