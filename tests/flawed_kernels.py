"""A plugin of deliberately wrong kernels, each wrong in one way, and of right ones beside them.

The right kernel is a plain forward-backward in float64, written apart from the kit's oracle. A flaw
changes one thing of it. ``BACKENDS`` says what each is about.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np

import ctcx
from ctcx.plugin import OPERATIONS, Backend, Decline, Feature, Namespace, hookimpl, load_kernel

COMPLETE = frozenset({Feature.GRAD, Feature.DETERMINISTIC, Feature.NONCONTIGUOUS})
LARGEST_LOSS = 1.8e8
CALLS = {"count": 0}
MEMORY = {}
SCRATCH = {"alpha": np.zeros((0, 0))}


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A forward-backward whose parts can be exchanged."""

    real: type = np.float64
    skips_between_repeats: bool = False
    normalised: bool = True
    linear: bool = False
    hopeless_loss: float = np.inf
    hopeless_grad: float = 0.0
    loss_of_nan: float = np.nan
    clamp: bool = True
    scratch: bool = False
    softmax_in_grad: float = 1.0
    blank_in_grad: bool = True
    every_state: bool = True

    def __call__(self, logits, labels, blank, *, grad=True):
        """Return loss and gradient of one sequence; without ``grad`` that is 0."""
        frames = len(logits)
        states = np.full(2 * len(labels) + 1, blank)
        states[1::2] = labels
        hopeless = self.hopeless_loss, np.full(logits.shape, self.hopeless_grad)
        if not (logits < np.inf).all():
            return self.loss_of_nan, np.full(logits.shape, np.nan)
        if frames == 0:
            return (0.0, logits) if not len(labels) else hopeless
        with np.errstate(all="ignore"):
            log_probs = logits - logits.max(axis=1, keepdims=True)
            log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
            emitted = log_probs[:, states].astype(self.real)
            alpha, offsets = self.recurse(emitted, states)
            end = np.logaddexp.reduce(alpha[-1, -2:])
            loss = -float(end + offsets)
            if not loss <= LARGEST_LOSS:
                return hopeless
            clamped = max(0.0, loss) if self.clamp else loss
            if not grad:
                return clamped, 0.0
            # The reverse recursion is the same one on everything reversed.
            beta, _ = self.recurse(emitted[::-1, ::-1], states[::-1])
            beta = beta[::-1, ::-1]
            joint = alpha + beta - emitted
            joint = np.where(np.isneginf(emitted), -np.inf, joint)
            best = joint.max(axis=1, keepdims=True) if self.normalised else end
            weights = np.exp(joint - best)
            if self.normalised:
                weights /= weights.sum(axis=1, keepdims=True)
        slope = self.softmax_in_grad * np.exp(log_probs)
        kept = np.ones(len(states), dtype=bool)
        if not self.blank_in_grad:
            kept &= states != blank
        if not self.every_state:
            kept[:] = False
            kept[np.unique(states, return_index=True)[1]] = True
        places = np.flatnonzero(kept)[np.argsort(states[kept], kind="stable")]
        classes, first = np.unique(states[places], return_index=True)
        if len(places):
            slope[:, classes] -= np.add.reduceat(weights[:, places], first, axis=1)
        return clamped, slope

    def recurse(self, emitted, states):
        """Return log-alpha, shifted in each frame, and the sum of the shifts."""
        alpha = SCRATCH["alpha"] if self.scratch else np.empty(0)
        if alpha.shape != emitted.shape:
            alpha = np.full(emitted.shape, -np.inf, self.real)
            SCRATCH["alpha"] = alpha
        alpha[0] = -np.inf
        alpha[0, :2] = emitted[0, :2]
        skip = np.zeros(len(states), dtype=bool)
        skip[2:] = (np.arange(2, len(states)) % 2 == 1) & (states[2:] != states[:-2])
        if self.skips_between_repeats:
            skip[3::2] = True
        total = self.real(0)
        for t in range(len(emitted)):
            if t:
                old = alpha[t - 1].copy()
                new = old.copy()
                new[1:] = np.logaddexp(new[1:], old[:-1])
                new[2:] = np.where(skip[2:], np.logaddexp(new[2:], old[:-2]), new[2:])
                alpha[t] = new + emitted[t]
            if self.scratch:
                time.sleep(0)
            if self.normalised:
                shift = alpha[t].max()
                if shift == -np.inf:
                    return np.full_like(alpha, -np.inf), total
                alpha[t] -= shift
                total += shift
            if self.linear:  # plain probabilities, the largest of a frame 1, in float32
                alpha[t] = np.log(np.exp(alpha[t]).astype(np.float32))
        return alpha.copy() if self.scratch else alpha, total


def run(
    logits,
    labels,
    logit_lengths,
    label_lengths,
    *,
    blank,
    kernel,
    grad,
    before=None,
    after=None,
    with_lengths=None,
):
    """Apply ``kernel`` to each sequence, with what a flaw does to the batch before and after."""
    if before is not None:
        logits, labels, logit_lengths, label_lengths, blank = before(
            logits, labels, logit_lengths, label_lengths, blank
        )
    kind = np.float64 if logits.dtype == np.float64 else np.float32
    losses = np.zeros(len(logits), kind)
    grads = np.zeros_like(logits)
    for n in range(len(logits)):
        frames, count = int(logit_lengths[n]), int(label_lengths[n])
        loss, row = kernel(logits[n, :frames].astype(float), labels[n, :count], blank, grad=grad)
        losses[n] = loss
        grads[n, :frames] = row
    result = (losses, grads) if grad else losses
    if with_lengths is not None:
        return with_lengths(result, logits, labels, logit_lengths, label_lengths)
    return result if after is None else after(result, logits)


def on_both(result, change):
    """Apply a change to the loss, and to the gradient where there is one."""
    return tuple(map(change, result)) if isinstance(result, tuple) else change(result)


def on_grad(result, change):
    """Apply a change to the gradient, where there is one."""
    return (result[0], change(result[1])) if isinstance(result, tuple) else result


def mutate(logits, *others):
    """Write to the input."""
    with np.errstate(all="ignore"):
        logits -= logits.max(axis=2, keepdims=True, initial=0)
    return (logits, *others)


def mutate_labels(logits, labels, logit_lengths, label_lengths, blank):
    """Sort out padded labels in place."""
    labels[np.arange(labels.shape[1])[None] >= label_lengths[:, None]] = blank
    return logits, labels, logit_lengths, label_lengths, blank


def all_labels(logits, labels, logit_lengths, label_lengths, blank):
    """Take the label array's width for every label length."""
    kept = np.clip(labels, 0, logits.shape[2] - 1)
    return logits, kept, logit_lengths, np.full_like(label_lengths, labels.shape[1]), blank


def all_frames(logits, labels, logit_lengths, label_lengths, blank):
    """Take the number of frames for every length."""
    return logits, labels, np.full_like(logit_lengths, logits.shape[1]), label_lengths, blank


def first_lengths(logits, labels, logit_lengths, label_lengths, blank):
    """Take the first sequence's length for all."""
    lengths = np.minimum(logit_lengths, logit_lengths[:1])
    return logits, labels, lengths, label_lengths, blank


def blank_is_zero(logits, labels, logit_lengths, label_lengths, blank):
    """Take 0 for the blank."""
    return logits, labels, logit_lengths, label_lengths, 0


def gather_first(logits, labels, *others):
    """Index with all labels before masking the padded ones."""
    if labels.size and logits.shape[1]:
        logits[0, 0][labels]
    return (logits, labels, *others)


def weights_ignored(*arrays, blank, grad, weights=None):
    """Take weights and do nothing with them."""
    del weights
    return RIGHT.kernels()["loss_and_grad" if grad else "loss"](*arrays, blank=blank)


def weights_of_losses(*arrays, blank, grad, weights=None):
    """Multiply losses by the weights, too."""
    result = RIGHT.kernels()["loss_and_grad" if grad else "loss"](*arrays, blank=blank)
    if weights is None:
        return result
    loss, gradient = result
    return loss * weights, gradient * weights[:, None, None]


def as_if_contiguous(logits, *others):
    """Read the buffer as though it were in row-major order."""
    return (logits.ravel(order="K").reshape(logits.shape), *others)


def no_empty_batch(logits, *others):
    """Reduce over the sequences."""
    others[1].max()
    return (logits, *others)


def decline(*_):
    """Turn down what was declared."""
    msg = "not today"
    raise Decline(msg)


def mask_by_product(result, logits):
    """Mask padded frames by multiplying with 0, which keeps NaN."""
    return on_grad(result, lambda grad: grad + 0 * logits)


def remembered(result, logits):
    """Return the arrays of an earlier call again, if the logits are the same."""
    return MEMORY.setdefault((type(result), logits.tobytes()), result)


def reuse_memory(result, logits):
    """Return the arrays of an earlier call with other numbers in them, if they are large."""
    if logits.shape[1] < 200:
        return result
    kept = MEMORY.setdefault((type(result), logits.shape, logits.dtype), result)
    for to, part in zip(kept, result, strict=True) if isinstance(kept, tuple) else [(kept, result)]:
        to[...] = part
    return kept


def wrong_at_first(result, _):
    """Be wrong in the first call, as with a table that isn't complete yet."""
    CALLS["first"] = CALLS.get("first", 0) + 1
    return on_both(result, lambda a: a * a.dtype.type(1.001)) if CALLS["first"] == 1 else result


def plan(logits, *others):
    """Plan for the sizes of a batch, in memory of which there is one."""
    MEMORY["plan"] = logits.shape
    return (logits, *others)


def run_plan(result, logits):
    """Go by the latest plan, which may be that of another thread."""
    planned = MEMORY["plan"] == logits.shape
    return result if planned else on_both(result, lambda a: a * a.dtype.type(1.001))


def noisy(result, _):
    """Add a little that differs from call to call."""
    return on_both(result, lambda a: a * (1 + a.dtype.type(random.choice([0, 1e-7]))))


def above_zero(result, _):
    """Leave what rounding makes of a loss of 0."""
    rounding = np.float32(3e-7)
    if isinstance(result, tuple):
        return result[0] + rounding * (result[0] == 0), result[1]
    return result + rounding * (result == 0)


def padding_gets_softmax(result, logits):
    """Leave softmax in the frames past a length (where the loss takes no notice of them)."""
    past = (result[1] == 0).all(axis=2, keepdims=True) if isinstance(result, tuple) else None
    return on_grad(result, lambda grad: np.where(past, grad.dtype.type(1e-9), grad) + 0 * logits)


def float64_loss(result, _):
    """Return the loss in double precision whatever the logits are."""
    return (
        (result[0].astype(float), result[1]) if isinstance(result, tuple) else result.astype(float)
    )


def column_loss(result, _):
    """Return the loss as (N, 1)."""
    return (result[0][:, None], result[1]) if isinstance(result, tuple) else result[:, None]


def only_loss_differs(result, _):
    """Compute the loss of the two operations differently."""
    return (
        (result[0] * result[0].dtype.type(1.001), result[1])
        if isinstance(result, tuple)
        else result
    )


def fallback(logits, *args, blank, grad):
    """Let the core compute."""
    function = ctcx.ctc_loss_and_grad if grad else ctcx.ctc_loss
    result = function(logits, *args, blank=blank, backend="array-api")
    return tuple(result[:2]) if grad else result


def as_numpy_from_torch(*args, blank, grad):
    """Return NumPy arrays for tensors."""
    return run(*(arg.numpy() for arg in args), blank=blank, kernel=Kernel(), grad=grad)


def pins_tensors(*args, blank, grad):
    """Read tensors by ``.numpy()``, after which their storages can't be resized."""
    import torch

    host = [arg.numpy() for arg in args]
    return on_both(run(*host, blank=blank, kernel=Kernel(), grad=grad), torch.from_numpy)


def reads_values(*args, blank, grad):
    """Read values, which can't be done while JAX traces."""
    import jax.numpy as jnp

    host = [np.asarray(arg) for arg in args]
    return on_both(run(*host, blank=blank, kernel=Kernel(), grad=grad), jnp.asarray)


def on_default_device(*args, blank, grad):
    """Return arrays on the default device, wherever the inputs are."""
    import array_api_strict as xp

    cpu = xp.Device("CPU_DEVICE")
    host = [np.array(xp.asarray(arg, device=cpu)._array) for arg in args]
    return on_both(run(*host, blank=blank, kernel=Kernel(), grad=grad), xp.asarray)


def off_where(chosen):
    """Return a change that makes losses and gradients wrong where ``chosen(logits)`` says so."""

    def change(result, logits):
        return on_both(result, lambda a: a * a.dtype.type(1.001)) if chosen(logits) else result

    return change


def off_by_labels(chosen):
    """Return a change that makes sequences wrong by frames, width of labels and their counts."""

    def change(result, logits, labels, logit_lengths, label_lengths):
        wrong = chosen(logits.shape[1], labels.shape[1], label_lengths)

        def off(a):
            return np.where(wrong.reshape((-1,) + (1,) * (a.ndim - 1)), a * a.dtype.type(1.001), a)

        return on_both(result, off)

    return change


def last_frame_of_odd_lengths(result, logits):
    """Leave out the last frame, where a loop over pairs of frames forgets the rest."""

    def change(grad):
        grad = grad.copy()
        if logits.shape[1] % 2 and logits.shape[1] > 40:
            grad[:, -1] = 0
        return grad

    return on_grad(result, change)


def now_and_then(result, _):
    """Change the last bits in 2 of 1,000 calls, as a race would."""
    CALLS["count"] += 1
    late = CALLS["count"] % 500 == 0
    return on_both(result, lambda a: a * a.dtype.type(1 + 1e-6)) if late else result


def shared_scratch_of_long_batches(result, logits, labels, logit_lengths, label_lengths):
    """Give sequences that are much shorter or narrower than the batch what a longer one left."""
    num_frames, width = logits.shape[1], labels.shape[1]
    if num_frames * width <= 131_000:
        return result
    small = (logit_lengths * 2 < num_frames) | (label_lengths * 2 < width)

    def change(a):
        return np.where(small.reshape((-1,) + (1,) * (a.ndim - 1)), a * a.dtype.type(1.01), a)

    return on_both(result, change)


def underflows_with_grad(*args, blank, grad):
    """Keep plain probabilities in loss_and_grad, and what has underflowed counts as impossible."""
    return run(*args, blank=blank, kernel=Kernel(linear=grad), grad=grad)


def private(logits, *args, blank, grad):
    """Compute with the core's kernels, past ctcx."""
    kernel = load_kernel("array-api", "loss_and_grad" if grad else "loss")
    return kernel(logits, *args, blank=blank)


def half_throughout(logits, *args, blank, grad):
    """Compute in the precision of the logits."""
    kernel = Kernel(real=logits.dtype.type)
    return run(logits, *args, blank=blank, kernel=kernel, grad=grad)


@dataclass(frozen=True, kw_only=True)
class Aligner:
    """A Viterbi recursion whose parts can be exchanged."""

    real: type = np.float64
    moves_first: bool = False
    differs_by_sequence: bool = False
    by_turns: bool = False
    ends_in_blank: bool = False
    skips: bool = True
    skips_between_repeats: bool = False
    normalised: bool = True
    relative: bool = True
    lowest: float = -np.inf
    clip: float = np.inf
    most_labels: int | None = None
    reads_padding: bool = False
    ignores_layout: bool = False
    ignores_ends: bool = False
    ignores_prices: bool = False
    checks_values: bool = True
    padding: int = -1

    def __call__(self, logits, labels, logit_lengths, label_lengths, *, blank, extra, ends):
        """Return states (N, T) and logarithms of probabilities (N, T)."""
        if self.ignores_layout:
            logits = logits.ravel(order="K").reshape(logits.shape)
        CALLS["count"] += 1
        rows, frames, _ = logits.shape
        kind = np.float64 if logits.dtype == np.float64 else np.float32
        states = np.full((rows, frames), self.padding, np.int32)
        log_probs = np.zeros((rows, frames), kind)
        columns = logits.astype(float)
        if extra is not None:
            dearer = 0.25 if self.ignores_prices else 0.0
            columns = np.concatenate([columns, extra.astype(float) + dearer], axis=2)
        first, last = (blank, blank) if self.ignores_ends else ends
        for n in range(rows):
            length, count = int(logit_lengths[n]), int(label_lengths[n])
            count = min(count, self.most_labels or count)
            some = labels[n, : max(0, count)]
            seen = logits[n] if self.reads_padding else logits[n, : max(0, length)]
            wrong = not 0 <= length <= frames or not 0 <= count <= labels.shape[1]
            wrong = wrong or (some < 0).any() or (some >= columns.shape[2]).any()
            wrong = wrong or not (seen < np.inf).all()
            if wrong:
                states[n], log_probs[n] = -1, np.nan if self.checks_values else 0.0
                continue
            symbols = np.full(2 * count + 1, blank)
            symbols[-1], symbols[0], symbols[1::2] = last, first, some
            with np.errstate(all="ignore"):
                rounded = np.maximum(columns[n, :length, :][:, symbols], self.lowest)
                if self.clip < np.inf:
                    rounded = np.clip(rounded, -self.clip, self.clip)
                top = logits[n, :length].max(axis=1, initial=-np.inf).astype(float)
                top[top == -np.inf] = 0
                sums = rounded - top[:, None] if self.relative else rounded
                path = self.best(sums.astype(self.real), symbols[1::2], n)
                if path is None:
                    states[n] = -1
                    continue
                own = rounded[np.arange(length), path]
                norm = 0.0
                if self.normalised and length:
                    norm = np.exp(logits[n, :length] - top[:, None], dtype=float).sum(axis=1)
                    norm = np.log(norm)
                    own = own - top
                states[n, :length], log_probs[n, :length] = path, own - norm
        return states, log_probs

    def best(self, emitted, labels, n):
        """Return the best path of one sequence; None if there is none."""
        length, width = emitted.shape
        if not length:
            return None if width > 1 else []
        skip = np.zeros(width, dtype=bool)
        if self.skips:
            skip[3::2] = self.skips_between_repeats | (labels[1:] != labels[:-1])
        sums = np.full(width, -np.inf, self.real)
        sums[:2] = emitted[0, :2]
        back = np.zeros((length, width), dtype=int)
        flipped = self.moves_first or (self.differs_by_sequence and n % 2 == 1)
        flipped = flipped or (self.by_turns and CALLS["count"] % 2 == 0)
        for t in range(1, length):
            came = np.full((3, width), -np.inf, self.real)
            came[0], came[1, 1:], came[2, 2:] = sums, sums[:-1], sums[:-2]
            came[2, ~skip] = -np.inf
            back[t] = 2 - came[::-1].argmax(axis=0) if flipped else came.argmax(axis=0)
            sums = came.max(axis=0) + emitted[t]
        last = width - 1
        if width > 1 and (sums[-2] > sums[-1] or (sums[-2] == sums[-1] and not self.ends_in_blank)):
            last = width - 2
        if sums[last] == -np.inf:
            return None
        path = [last]
        for t in range(length - 1, 0, -1):
            path.append(path[-1] - back[t, path[-1]])
        return path[::-1]


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """A greedy decoder whose parts can be exchanged."""

    real: type = np.float64
    last_of_equal: bool = False
    normalised: bool = True
    lowest: float = -np.inf
    reads_padding: bool = False
    ignores_layout: bool = False
    first_only: bool = False
    checks_values: bool = True
    by_turns: bool = False

    def __call__(self, logits, logit_lengths, *, blank):
        """Return classes (N, T) and logarithms of probabilities (N, T)."""
        CALLS["count"] += 1
        if self.ignores_layout:
            logits = logits.ravel(order="K").reshape(logits.shape)
        rows, frames, classes = logits.shape
        kind = np.float64 if logits.dtype == np.float64 else np.float32
        found, log_probs = np.full((rows, frames), -1, np.int32), np.zeros((rows, frames), kind)
        for n in range(rows):
            length = int(logit_lengths[n])
            seen = logits[n] if self.reads_padding else logits[n, : max(0, length)]
            if not 0 <= length <= frames or not (seen < np.inf).all():
                log_probs[n] = np.nan if self.checks_values else 0
                continue
            for t in range(int(logit_lengths[0]) if self.first_only else length):
                row = np.maximum(logits[n, t].astype(self.real), self.lowest)
                best = int(row.argmax())
                if self.last_of_equal or (self.by_turns and CALLS["count"] % 2):
                    best = classes - 1 - int(row[::-1].argmax())
                if row[best] == -np.inf:
                    log_probs[n, t] = -np.inf
                    continue
                found[n, t] = best
                norm = (
                    np.log(np.exp((row - row[best]).astype(float)).sum()) if self.normalised else 0
                )
                log_probs[n, t] = -norm
        return found, log_probs


def private_greedy(*args, **options):
    """Decode with the core's kernel, past ctcx."""
    return load_kernel("array-api", "greedy")(*args, **options)


@dataclass(frozen=True, kw_only=True)
class BeamSearcher:
    """A prefix beam search with dictionaries whose parts can be exchanged."""

    real: type = np.float64
    linear: bool = False
    repeats: bool = True
    merges_output: bool = False
    twice: bool = False
    blank_last: bool = False
    normalised: bool = True
    most_classes: int | None = None
    counts_pruned: bool = True
    parents: bool = True
    later_first: bool = False
    reads_padding: bool = False
    ignores_layout: bool = False
    checks_values: bool = True
    by_turns: bool = False
    lowest: float = -np.inf

    def __call__(self, logits, logit_lengths, *, blank, width, top, max_classes):
        """Return labels (N, top, T) and logarithms of probabilities (N, top)."""
        CALLS["count"] += 1
        if self.ignores_layout:
            logits = logits.ravel(order="K").reshape(logits.shape)
        rows, frames, classes = logits.shape
        kind = np.float64 if logits.dtype == np.float64 else np.float32
        labels = np.full((rows, top, frames), -1, np.int32)
        log_probs = np.full((rows, top), -np.inf, kind)
        limit = min(max_classes or classes, self.most_classes or classes)
        limit = limit if self.counts_pruned else classes
        for n in range(rows):
            length = int(logit_lengths[n])
            seen = logits[n] if self.reads_padding else logits[n, : max(0, length)]
            if not 0 <= length <= frames or not (seen < np.inf).all():
                log_probs[n] = np.nan if self.checks_values else -1.0
                continue
            beam = {((), 0): (self.real(0), self.real(-np.inf))}
            with np.errstate(all="ignore"):
                said = classes - 1 if self.blank_last else blank
                for frame in np.maximum(logits[n, :length].astype(float), self.lowest):
                    beam = self.following(beam, self.log_probs(frame), said, width, limit)
                best = [(prefix, np.logaddexp(*parts)) for (prefix, _), parts in beam.items()]
            for k, (prefix, log_prob) in enumerate(best[:top]):
                pairs = zip((-1, *prefix), prefix, strict=False)
                said = [
                    label for before, label in pairs if before != label or not self.merges_output
                ]
                labels[n, k, : len(said)] = said
                log_probs[n, k] = min(log_prob, 0.0)
        return labels, log_probs

    def log_probs(self, row):
        """Return the logarithms of the probabilities of a frame."""
        largest = row.max() if row.max() > -np.inf else 0.0
        norm = np.log(np.exp(row - largest).sum()) if self.normalised else 0.0
        found = (row - largest - (norm if norm > -np.inf else 0.0)).astype(self.real)
        if self.linear:
            found = np.log(np.exp(found.astype(np.float32)).astype(self.real))
        return found

    def following(self, beam, row, blank, width, limit):  # noqa: C901 - all of a search
        """Return the beam after a frame."""
        order = sorted((c for c in range(len(row)) if c != blank), key=lambda c: (-row[c], c))
        if self.later_first or (self.by_turns and CALLS["count"] % 2):
            order = sorted(order, key=lambda c: (-row[c], -c))
        found = {}

        def add(key, *parts):
            old = found.get(key, (self.real(-np.inf), self.real(-np.inf)))
            found[key] = tuple(map(np.logaddexp, old, parts))

        dead = self.real(-np.inf)
        there = {prefix for prefix, _ in beam}
        for (prefix, _), parts in beam.items():
            total = np.logaddexp(*parts)
            add((prefix, 0), total + row[blank], dead)
            if prefix:
                add((prefix, int(self.twice)), dead, parts[1] + row[prefix[-1]])
        for c in range(len(row)):
            for (prefix, _), parts in beam.items():
                if c != blank and (*prefix, c) in there and self.parents:
                    came = parts[0] if prefix[-1:] == (c,) else np.logaddexp(*parts)
                    add(((*prefix, c), int(self.twice)), dead, came + row[c])
        for c in order[:limit]:
            for (prefix, _), parts in beam.items():
                if (*prefix, c) in there:
                    continue
                repeats = prefix[-1:] == (c,)
                if repeats and not self.repeats:
                    continue
                came = parts[0] if repeats else np.logaddexp(*parts)
                add(((*prefix, c), int(self.twice)), dead, came + row[c])
        best = sorted(found.items(), key=lambda item: -np.logaddexp(*item[1]))[:width]
        return {key: parts for key, parts in best if np.logaddexp(*parts) > -np.inf}


def private_beam_search(*args, **options):
    """Search with the core's kernel, past ctcx."""
    return load_kernel("array-api", "beam_search")(*args, **options)


@dataclass(frozen=True, kw_only=True)
class GuidedSearcher:
    """A guided search whose bonuses are counted anew for each prefix, in parts to be exchanged."""

    takes_back: bool = True
    takes_back_at_end: bool = True
    largest: bool = True
    boosts: bool = True
    loses_a_frame: bool = False
    ends_early: bool = False
    ends: bool = True
    pays_blanks: bool = False
    reads_padding: bool = False
    checks_values: bool = True
    mixes_sequences: bool = False
    most_classes: int | None = None

    def __call__(self, logits, logit_lengths, *, blank, width, max_classes, entries, **wishes):
        """Return labels (N, W, L + T), and logarithms and bonuses (N, W)."""
        rows, frames, classes = logits.shape
        limit = min(max_classes or classes, self.most_classes or classes)
        labels = np.full((rows, width, entries[0].shape[2] + frames), -1, np.int32)
        numbers = [np.full((rows, width), nothing) for nothing in (-np.inf, -np.inf, 0.0, 0.0)]
        for n in range(rows):
            length = int(logit_lengths[n])
            seen = logits[n] if self.reads_padding else logits[n, : max(0, length)]
            if not 0 <= length <= frames or not (seen < np.inf).all():
                for array in numbers:
                    array[n] = np.nan if self.checks_values else 0.0
                continue
            begun = zip(*(each[0 if self.mixes_sequences else n] for each in entries), strict=True)
            beam = {
                tuple(one[one >= 0].tolist()): (by_blank, by_label)
                for one, by_blank, by_label, _ in begun
                if max(by_blank, by_label) > -np.inf
            }
            skipped = self.loses_a_frame and () not in beam
            with np.errstate(all="ignore"):
                for frame in logits[n, int(skipped) : length].astype(float):
                    row = BeamSearcher().log_probs(frame)
                    beam = BeamSearcher().following(
                        {(y, 0): parts for y, parts in beam.items()}, row, blank, 10**9, limit
                    )
                    beam = {y: parts for (y, _), parts in beam.items()}
                    scores = {
                        y: np.logaddexp(*parts) + self.bonus(y, ended=False, **wishes)
                        for y, parts in beam.items()
                    }
                    best = sorted(beam, key=lambda y: -scores[y])[:width]
                    beam = {y: beam[y] for y in best if scores[y] > -np.inf}
            for k, (y, parts) in enumerate(beam.items()):
                labels[n, k, : len(y)] = y
                bonus = self.bonus(y, ended=False, **wishes)
                final = self.bonus(y, ended=True, **wishes)
                if self.pays_blanks:
                    final += wishes["label_bonus"] * (length - len(y))
                for array, number in zip(numbers, (*parts, bonus, final), strict=True):
                    array[n, k] = number
        return labels, *numbers

    def bonus(self, labels, *, ended, phrases, model, model_weight, label_bonus):
        """Say what labels get."""
        found = label_bonus * len(labels)
        if model is not None:
            state = model.start()
            for label in labels:
                log_prob, state = model.score(state, label)
                found += model_weight * log_prob
            if (ended and self.ends) or self.ends_early:
                found += model_weight * model.finish(state)
        weights = [[] for _ in labels]
        beginnings = by_first_label(tuple(phrases)) if self.boosts else {}
        for first, begins in enumerate(labels):
            for phrase, weight in beginnings.get(begins, ()):
                size = 0
                for label, other in zip(labels[first:], phrase, strict=False):
                    if label != other:
                        break
                    size += 1
                at_end = first + size == len(labels) and not (ended and self.takes_back_at_end)
                if size == len(phrase) or at_end or not self.takes_back:
                    for place in range(first, first + size):
                        weights[place].append(weight)
        return found + sum((max if self.largest else sum)(each) for each in weights if each)


@cache
def by_first_label(phrases):
    """Return lists of phrases by their first label."""
    groups = {}
    for phrase, weight in phrases:
        groups.setdefault(phrase[0], []).append((phrase, weight))
    return groups


def private_guided_search(*args, **options):
    """Search with the core's kernel, past ctcx."""
    return load_kernel("array-api", "guided_search")(*args, **options)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Forward variables and the way back along them, whose parts can be exchanged."""

    skips: bool = True
    skips_between_repeats: bool = False
    blank_last: bool = False
    two_back_first: bool = False
    moves_for_nothing: bool = False
    from_frames: bool = False
    one_number: bool = False
    reads_padding: bool = False
    ignores_layout: bool = False
    mixes_sequences: bool = False
    by_turns: bool = False
    normalised: bool = True
    where_impossible: float = 0.0
    sums_once: bool = False
    each_blank: bool = True
    always_states: bool = False
    checks_values: bool = True
    padding: int = -1

    def occupancies(self, logits, labels, logit_lengths, label_lengths, *, blank, states):
        """Return the loss and occupancies of classes and states."""
        CALLS["count"] += 1
        (rows, frames, _), width = logits.shape, labels.shape[1]
        kind = np.float64 if logits.dtype == np.float64 else np.float32
        loss, classes = np.full(rows, np.inf, kind), np.zeros(logits.shape, kind)
        each = np.zeros((rows, frames, 2 * width + 1), kind)
        for n, found in self.lattices(logits, labels, logit_lengths, label_lengths, blank):
            if found is None:
                loss[n] = np.nan if self.checks_values else np.inf
                continue
            symbols, emitted, skip = found
            length, count = len(emitted), len(symbols) // 2
            alpha, total = self.forward(emitted, skip)
            loss[n] = -total
            if total == -np.inf or not length:
                loss[n] = np.inf if length or count else 0.0
                classes[n] = self.where_impossible if length else 0.0
                continue
            turned = np.concatenate([[False, False], skip[:1:-1]])[: len(skip)]
            beta = self.forward(emitted[::-1, ::-1], turned)[0][::-1, ::-1]
            with np.errstate(all="ignore"):
                joint = np.where(emitted > -np.inf, alpha + beta - emitted, -np.inf)
                weights = np.exp(joint - joint.max(axis=1, keepdims=True))
                if self.normalised:
                    weights /= weights.sum(axis=1, keepdims=True)
            if self.by_turns and CALLS["count"] % 2:
                weights *= 1 + 1e-7
            each[n, :length, : 2 * count + 1] = weights
            for s, symbol in enumerate(symbols):
                if self.sums_once and s != list(symbols).index(symbol):
                    continue
                classes[n, :length, symbol] += weights[:, s].astype(kind)
        if not self.each_blank:
            each[:, :, 0], each[:, :, 2::2] = each[:, :, ::2].sum(axis=2), 0.0
        if self.mixes_sequences:
            classes[1:] = (1 - 1e-3) * classes[1:] + 1e-3 * classes[:1]
        return (loss, classes, each) if states or self.always_states else (loss, classes)

    def sample_paths(self, logits, labels, logit_lengths, label_lengths, *, blank, uniforms):
        """Return the states that the numbers pick."""
        CALLS["count"] += 1
        paths = np.full(uniforms.shape, self.padding, np.int32)
        for n, found in self.lattices(logits, labels, logit_lengths, label_lengths, blank):
            if found is None:
                paths[n] = -1 if self.checks_values else 0
                continue
            symbols, emitted, skip = found
            alpha, total = self.forward(emitted, skip)
            if total == -np.inf or not len(emitted):
                paths[n] = -1
                continue
            row = n - 1 if self.mixes_sequences else n
            for k in range(uniforms.shape[1]):
                own = uniforms[row, 0 if self.one_number else k]
                paths[n, k, : len(emitted)] = self.back(alpha, symbols, skip, own)
        return paths

    def lattices(self, logits, labels, logit_lengths, label_lengths, blank):
        """Yield each sequence's symbols, their log probabilities and skips; None if it is wrong."""
        if self.ignores_layout:
            logits = logits.ravel(order="K").reshape(logits.shape)
        for n in range(len(logits)):
            length, count = int(logit_lengths[n]), int(label_lengths[n])
            some = labels[n, : max(0, count)]
            seen = logits[n] if self.reads_padding else logits[n, : max(0, length)]
            fits = 0 <= length <= logits.shape[1] and 0 <= count <= labels.shape[1]
            if not fits or not ((some >= 0) & (some < logits.shape[2])).all():
                yield n, None
                continue
            if not (seen < np.inf).all():
                yield n, None
                continue
            symbols = np.full(2 * count + 1, blank)
            symbols[1::2] = some
            skip = np.zeros(len(symbols), dtype=bool)
            if self.skips:
                skip[3::2] = self.skips_between_repeats | (some[1:] != some[:-1])
            x = logits[n, :length].astype(float)
            with np.errstate(all="ignore"):
                x -= np.where(
                    x.max(axis=1, keepdims=True) > -np.inf, x.max(axis=1, keepdims=True), 0
                )
                x -= np.log(np.maximum(np.exp(x).sum(axis=1, keepdims=True), 1.0))
            yield n, (symbols, x[:, symbols], skip)

    @staticmethod
    def forward(emitted, skip):
        """Return forward variables, shifted in each frame, and the log likelihood."""
        alpha, total = np.full(emitted.shape, -np.inf), 0.0
        with np.errstate(all="ignore"):
            for t, row in enumerate(emitted):
                inflow = np.full(row.shape, -np.inf)
                if t:
                    before = alpha[t - 1]
                    inflow = before.copy()
                    inflow[1:] = np.logaddexp(inflow[1:], before[:-1])
                    two = np.where(skip[2:], before[:-2], -np.inf)
                    inflow[2:] = np.logaddexp(inflow[2:], two)
                else:
                    inflow[:2] = 0.0
                alpha[t] = inflow + row
                top = alpha[t].max()
                if top == -np.inf:
                    return alpha, -np.inf
                alpha[t] -= top
                total += top
            if len(alpha):
                total += np.logaddexp.reduce(alpha[-1, -2:])
        return alpha, total

    def back(self, alpha, symbols, skip, own):
        """Return one path."""
        path = []
        last = len(symbols) - 1
        choices = [last - 1, last] if last else [last]
        if self.blank_last:
            choices.reverse()
        for t in reversed(range(len(alpha))):
            if path:
                choices = [s for s in range(path[-1], path[-1] - 2 - skip[path[-1]], -1) if s >= 0]
                if self.two_back_first:
                    choices = choices[::-1]
            if self.from_frames and path:  # as if frames were independent
                choices = list(range(len(symbols)))
            weights = np.exp(alpha[t, choices] - alpha[t, choices].max())
            bounds = np.cumsum(weights) / weights.sum()
            likely = [i for i in range(len(choices)) if weights[i] > 0 or self.moves_for_nothing]
            above = [
                i for i in likely if own[t] < bounds[i] or (self.moves_for_nothing and own[t] <= 0)
            ]
            path.append(choices[above[0] if above else likely[-1]])
        return path[::-1]


def private_occupancies(*args, **options):
    """Compute with the core's kernel, past ctcx."""
    return load_kernel("array-api", "occupancies")(*args, **options)


def private_paths(*args, **options):
    """Draw with the core's kernel, past ctcx."""
    return load_kernel("array-api", "sample_paths")(*args, **options)


def private_align(*args, **options):
    """Align with the core's kernel, past ctcx."""
    return load_kernel("array-api", "align")(*args, **options)


def crash(*_args, **_kwargs):
    """Raise what a bug raises."""
    msg = "not written yet"
    raise NotImplementedError(msg)


def never_called(*_args, **_kwargs):
    """Stand for a kernel that nothing reaches."""
    raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """A shortcut to the right kernel whose checks can be left out."""

    integers: tuple[type, ...] = (np.int32, np.int64)
    checks_sizes: bool = True
    checks_labels: bool = True
    checks_lengths: bool = True
    checks_logits: bool = True
    any_blank: bool = False
    factor: float = 1.0
    tidies_labels: bool = False

    def takes(self, logits, labels, logit_lengths, label_lengths, blank):
        """Tell whether the call is right in each detail."""
        given = labels, logit_lengths, label_lengths
        if any(array is None or array.dtype not in self.integers for array in given):
            return False
        count, frames, classes = logits.shape
        if logits.dtype not in (np.float32, np.float64) or 0 in logits.shape:
            return False
        if self.checks_sizes and not (
            len(labels) == count and logit_lengths.shape == label_lengths.shape == (count,)
        ):
            return False
        if not self.any_blank and not (type(blank) is int and -classes <= blank < classes):
            return False
        if self.checks_lengths and not (
            (logit_lengths >= 0).all()
            and (logit_lengths <= frames).all()
            and (label_lengths >= 0).all()
            and (label_lengths <= labels.shape[1]).all()
        ):
            return False
        for row, labels_of, length, count_of in zip(
            logits, labels, logit_lengths, label_lengths, strict=False
        ):
            named = labels_of[:count_of]
            if self.checks_logits and not (row[:length] < np.inf).all():
                return False
            wrong = (named < 0) | (named >= classes) | (named == blank % classes)
            if self.checks_labels and wrong.any():
                return False
        return True

    def __call__(self, logits, labels, logit_lengths, label_lengths, blank, *, grad):
        """Return what the right kernel does, or None."""
        if self.tidies_labels:
            labels[...] = np.where(labels < 0, 0, labels)
        arrays = logits, labels, logit_lengths, label_lengths
        if not self.takes(*arrays, blank):
            return None
        classes = logits.shape[2]
        labels = np.clip(labels, 0, classes - 1)
        logit_lengths = np.clip(logit_lengths, 0, logits.shape[1])
        label_lengths = np.clip(label_lengths, 0, labels.shape[1])
        kernel = RIGHT.kernels()["loss_and_grad" if grad else "loss"]
        found = kernel(logits, labels, logit_lengths, label_lengths, blank=int(blank) % classes)
        if self.factor == 1.0:
            return found
        loss, *rest = found if grad else (found,)
        return (loss * loss.dtype.type(self.factor), *rest) if grad else loss * self.factor


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """A wrong kernel: the function, and the checks that must catch it."""

    caught_by: tuple[str, ...]
    function: object = None
    kernel: Kernel = field(default_factory=Kernel)
    before: object = None
    after: object = None
    with_lengths: object = None
    align: object = None
    greedy: object = None
    beam_search: object = None
    guided_search: object = None
    occupancies: object = None
    paths: object = None
    shortcut: object = None
    namespaces: frozenset[str] = frozenset({"numpy"})
    dtypes: frozenset[str] = frozenset({"float32", "float64"})
    features: frozenset[Feature] = COMPLETE
    on: tuple[str | None, str] = ("cpu", "float32")

    def shortcuts(self):
        """Return the shortcuts by operation."""
        if self.shortcut is None:
            return {}
        return {
            "loss": partial(self.shortcut, grad=False),
            "loss_and_grad": partial(self.shortcut, grad=True),
        }

    def kernels(self):
        """Return the kernels by operation."""
        if self.align is not None:
            return {**RIGHT.kernels(), "align": self.align}
        if self.greedy is not None:
            return {**RIGHT.kernels(), "greedy": self.greedy}
        if self.beam_search is not None:
            return {**RIGHT.kernels(), "beam_search": self.beam_search}
        if self.guided_search is not None:
            return {**RIGHT.kernels(), "guided_search": self.guided_search}
        if self.occupancies is not None:
            return {**RIGHT.kernels(), "occupancies": self.occupancies}
        if self.paths is not None:
            return {**RIGHT.kernels(), "sample_paths": self.paths}
        if self.function is not None:
            return {
                "loss": partial(self.function, grad=False),
                "loss_and_grad": partial(self.function, grad=True),
            }
        options = {"kernel": self.kernel, "before": self.before, "after": self.after}
        options["with_lengths"] = self.with_lengths
        return {
            "loss": partial(run, grad=False, **options),
            "loss_and_grad": partial(run, grad=True, **options),
        }


DRAWN = ("check_drawn_problems",)
BY_ENUMERATION = ("check_loss_by_enumeration", "check_gradient_by_enumeration")
FLAWS = {
    "repeats-skip": Flaw(
        kernel=Kernel(skips_between_repeats=True), caught_by=(*BY_ENUMERATION, "check_infeasible")
    ),
    "no-blank-gradient": Flaw(
        kernel=Kernel(blank_in_grad=False),
        caught_by=("check_published_numbers", "check_gradient_rows_sum_to_zero"),
    ),
    "repeats-not-summed": Flaw(
        kernel=Kernel(every_state=False), caught_by=("check_gradient_by_enumeration",)
    ),
    "log-prob-gradient": Flaw(
        kernel=Kernel(softmax_in_grad=0.0), caught_by=("check_gradient_rows_sum_to_zero",)
    ),
    "log-prob-gradient-double": Flaw(
        kernel=Kernel(softmax_in_grad=0.0),
        caught_by=("check_finite_differences",),
        on=("cpu", "float64"),
    ),
    "stand-in-for-inf": Flaw(
        kernel=Kernel(hopeless_loss=1e5),
        caught_by=("check_infeasible", "check_infeasible_policies"),
    ),
    "nan-gradient": Flaw(
        kernel=Kernel(hopeless_grad=np.nan), caught_by=("check_infeasible", "check_never_nan")
    ),
    "nan-loss": Flaw(kernel=Kernel(hopeless_loss=np.nan), caught_by=("check_never_nan",)),
    "nan-counts-as-hopeless": Flaw(
        kernel=Kernel(loss_of_nan=np.inf), caught_by=("check_unchecked_logits",)
    ),
    "padding-leaks": Flaw(
        after=mask_by_product, caught_by=("check_padding_content", "check_never_nan")
    ),
    "padding-not-zero": Flaw(after=padding_gets_softmax, caught_by=("check_gradient_past_length",)),
    "padded-labels-index": Flaw(before=gather_first, caught_by=("check_padding_content",)),
    "mutates-logits": Flaw(
        before=mutate, caught_by=("check_takes_what_it_declares", "check_read_only_inputs")
    ),
    "mutates-labels": Flaw(before=mutate_labels, caught_by=("check_padding_content",)),
    "float32-sums": Flaw(
        kernel=Kernel(real=np.float32, normalised=False), caught_by=("check_long_sequences",)
    ),
    "underflow": Flaw(kernel=Kernel(linear=True), caught_by=("check_confident_logits",)),
    "below-zero": Flaw(
        kernel=Kernel(real=np.float32, clamp=False), caught_by=("check_never_negative",)
    ),
    "above-zero": Flaw(after=above_zero, caught_by=("check_certain_paths",)),
    "float64-loss": Flaw(after=float64_loss, caught_by=("check_takes_what_it_declares",)),
    "column-loss": Flaw(after=column_loss, caught_by=("check_takes_what_it_declares",)),
    "operations-differ": Flaw(after=only_loss_differs, caught_by=("check_operations_agree",)),
    "silent-fallback": Flaw(function=fallback, caught_by=("check_takes_what_it_declares",)),
    "nondeterministic": Flaw(after=noisy, caught_by=("check_deterministic",)),
    "remembers-results": Flaw(after=remembered, caught_by=("check_results_are_new",)),
    "reuses-memory": Flaw(after=reuse_memory, caught_by=("check_results_are_new",)),
    "wrong-at-first": Flaw(after=wrong_at_first, caught_by=("check_takes_what_it_declares",)),
    "shared-plan": Flaw(before=plan, after=run_plan, caught_by=("check_threads",)),
    "shared-scratch": Flaw(kernel=Kernel(scratch=True), caught_by=("check_threads",)),
    "ignores-label-lengths": Flaw(before=all_labels, caught_by=BY_ENUMERATION),
    "ignores-logit-lengths": Flaw(before=all_frames, caught_by=BY_ENUMERATION),
    "first-length-for-all": Flaw(before=first_lengths, caught_by=("check_batch_order",)),
    "blank-is-zero": Flaw(
        before=blank_is_zero, caught_by=("check_published_numbers", "check_blank_position")
    ),
    "assumes-contiguous": Flaw(
        before=as_if_contiguous, caught_by=("check_noncontiguous_inputs", "check_time_major")
    ),
    "no-empty-batch": Flaw(before=no_empty_batch, caught_by=("check_degenerate_shapes",)),
    "declines": Flaw(before=decline, caught_by=("check_takes_what_it_declares",)),
    "crashes": Flaw(function=crash, caught_by=("check_takes_what_it_declares",)),
    "checks-nothing": Flaw(
        caught_by=("check_checks_values",), features=COMPLETE | {Feature.CHECKS_VALUES}
    ),
    "weights-ignored": Flaw(
        function=weights_ignored,
        caught_by=("check_weights",),
        features=COMPLETE | {Feature.WEIGHTS},
    ),
    "weights-of-losses": Flaw(
        function=weights_of_losses,
        caught_by=("check_weights",),
        features=COMPLETE | {Feature.WEIGHTS},
    ),
    "half-in-half": Flaw(
        function=half_throughout,
        caught_by=("check_half_precision",),
        dtypes=frozenset({"float16", "float32"}),
        features=COMPLETE | {Feature.HALF},
        on=("cpu", "float16"),
    ),
    "reads-values": Flaw(
        function=reads_values,
        caught_by=("check_traced",),
        namespaces=frozenset({"jax.numpy"}),
        features=COMPLETE | {Feature.TRACEABLE},
        on=(None, "float32"),
    ),
    "numpy-for-strict": Flaw(
        function=on_default_device,
        caught_by=("check_takes_what_it_declares",),
        namespaces=frozenset({"array_api_strict"}),
        on=("device1", "float32"),
    ),
    "wrong-above-8192-classes": Flaw(
        after=off_where(lambda logits: logits.shape[2] > 8192), caught_by=DRAWN
    ),
    "wrong-from-100-to-200-classes": Flaw(
        after=off_where(lambda logits: 100 < logits.shape[2] < 200), caught_by=DRAWN
    ),
    "wrong-above-256-sequences": Flaw(
        after=off_where(lambda logits: logits.shape[0] > 256), caught_by=DRAWN
    ),
    "wrong-between-520-and-1900-frames": Flaw(
        after=off_where(lambda logits: 520 < logits.shape[1] < 1900), caught_by=DRAWN
    ),
    "wrong-at-257-frames": Flaw(
        after=off_where(lambda logits: logits.shape[1] == 257), caught_by=DRAWN
    ),
    "wrong-at-10000-frames": Flaw(
        after=off_where(lambda logits: 8_000 < logits.shape[1] < 19_000), caught_by=DRAWN
    ),
    "wrong-for-many-frames-of-many-classes": Flaw(
        after=off_where(lambda logits: logits.shape[1] > 1500 and logits.shape[2] > 2000),
        caught_by=DRAWN,
    ),
    "wrong-for-many-long-sequences": Flaw(
        after=off_where(lambda logits: logits.shape[0] > 32 and logits.shape[1] > 256),
        caught_by=DRAWN,
    ),
    "wrong-without-labels": Flaw(
        with_lengths=off_by_labels(lambda frames, width, counts: (counts == 0) & (frames > 100)),
        caught_by=DRAWN,
    ),
    "wrong-where-padding-is-wide": Flaw(
        with_lengths=off_by_labels(
            lambda frames, width, counts: (counts >= 0) & (width > max(64, 2 * frames))
        ),
        caught_by=DRAWN,
    ),
    "odd-last-frame": Flaw(after=last_frame_of_odd_lengths, caught_by=DRAWN),
    "short-beside-long": Flaw(with_lengths=shared_scratch_of_long_batches, caught_by=DRAWN),
    "underflow-with-grad": Flaw(function=underflows_with_grad, caught_by=DRAWN),
    "nondeterministic-now-and-then": Flaw(after=now_and_then, caught_by=("check_repeats",)),
    "private-delegation": Flaw(function=private, caught_by=("check_computes_by_itself",)),
    "numpy-for-torch": Flaw(
        function=as_numpy_from_torch,
        caught_by=("check_takes_what_it_declares",),
        namespaces=frozenset({"torch"}),
    ),
    "pins-tensors": Flaw(
        function=pins_tensors, caught_by=("check_loss",), namespaces=frozenset({"torch"})
    ),
}

BY_LABELS = "check_beam_search_by_enumeration"
GUIDED = "check_guided_search"
BY_PATHS = "check_align_by_enumeration"
FLAWS |= {
    "aligns-moving-first": Flaw(align=Aligner(moves_first=True), caught_by=("check_align_ties",)),
    "aligns-to-the-last-blank": Flaw(
        align=Aligner(ends_in_blank=True), caught_by=("check_align_ties",)
    ),
    "aligns-without-skips": Flaw(
        align=Aligner(skips=False), caught_by=(BY_PATHS, "check_align", "check_align_edge_cases")
    ),
    "aligns-repeats-as-one": Flaw(
        align=Aligner(skips_between_repeats=True), caught_by=(BY_PATHS, "check_align_drawn")
    ),
    "aligns-logits": Flaw(align=Aligner(normalised=False), caught_by=(BY_PATHS, "check_align")),
    "aligns-in-half": Flaw(align=Aligner(real=np.float16), caught_by=("check_align_long",)),
    "aligns-masked-classes": Flaw(
        align=Aligner(lowest=-1e4), caught_by=("check_align_edge_cases",)
    ),
    "aligns-clipped-logits": Flaw(
        align=Aligner(clip=20.0), caught_by=("check_align_shifted_frames",)
    ),
    "aligns-raw-sums": Flaw(
        align=Aligner(relative=False), caught_by=("check_align_shifted_frames",)
    ),
    "aligns-64-labels": Flaw(align=Aligner(most_labels=64), caught_by=("check_align_drawn",)),
    "aligns-with-padding": Flaw(
        align=Aligner(reads_padding=True), caught_by=("check_align_ignores_padding",)
    ),
    "aligns-unlike-its-neighbour": Flaw(
        align=Aligner(differs_by_sequence=True), caught_by=("check_align_batching",)
    ),
    "aligns-rows-as-they-lie": Flaw(
        align=Aligner(ignores_layout=True), caught_by=("check_align_time_major",)
    ),
    "aligns-without-free-ends": Flaw(
        align=Aligner(ignores_ends=True), caught_by=("check_align_wildcards",)
    ),
    "aligns-wildcards-cheaply": Flaw(
        align=Aligner(ignores_prices=True), caught_by=("check_align_wildcards",)
    ),
    "aligns-wrong-values": Flaw(
        align=Aligner(checks_values=False), caught_by=("check_align_marks_wrong_values",)
    ),
    "aligns-padding-with-0": Flaw(align=Aligner(padding=0), caught_by=("check_align",)),
    "aligns-by-turns": Flaw(align=Aligner(by_turns=True), caught_by=("check_align_same_bits",)),
    "aligns-through-the-core": Flaw(
        align=private_align, caught_by=("check_align_computes_by_itself",)
    ),
    "beam-without-repeats": Flaw(
        beam_search=BeamSearcher(repeats=False), caught_by=(BY_LABELS, "check_beam_search")
    ),
    "beam-merging-double-letters": Flaw(
        beam_search=BeamSearcher(merges_output=True), caught_by=(BY_LABELS, "check_beam_search")
    ),
    "beam-with-a-prefix-twice": Flaw(
        beam_search=BeamSearcher(twice=True), caught_by=(BY_LABELS, "check_beam_search")
    ),
    "beam-with-the-blank-last": Flaw(
        beam_search=BeamSearcher(blank_last=True), caught_by=(BY_LABELS, "check_beam_search")
    ),
    "beam-without-normalising": Flaw(
        beam_search=BeamSearcher(normalised=False), caught_by=(BY_LABELS, "check_beam_search")
    ),
    "beam-of-three-classes": Flaw(
        beam_search=BeamSearcher(most_classes=3), caught_by=("check_beam_search_many_classes",)
    ),
    "beam-of-all-classes": Flaw(
        beam_search=BeamSearcher(counts_pruned=False), caught_by=("check_beam_search_max_classes",)
    ),
    "beam-without-parents": Flaw(
        beam_search=BeamSearcher(parents=False), caught_by=(BY_LABELS, "check_beam_search")
    ),
    "beam-with-later-classes-first": Flaw(
        beam_search=BeamSearcher(later_first=True), caught_by=("check_beam_search_ties",)
    ),
    "beam-that-underflows": Flaw(
        beam_search=BeamSearcher(linear=True), caught_by=("check_beam_search_far_apart",)
    ),
    "beam-in-half": Flaw(
        beam_search=BeamSearcher(real=np.float16), caught_by=("check_beam_search_long",)
    ),
    "beam-with-masked-classes": Flaw(
        beam_search=BeamSearcher(lowest=-1e4), caught_by=("check_beam_search_edge_cases",)
    ),
    "beam-with-padding": Flaw(
        beam_search=BeamSearcher(reads_padding=True),
        caught_by=("check_beam_search_ignores_padding",),
    ),
    "beam-for-rows-as-they-lie": Flaw(
        beam_search=BeamSearcher(ignores_layout=True), caught_by=("check_beam_search_time_major",)
    ),
    "beam-for-wrong-values": Flaw(
        beam_search=BeamSearcher(checks_values=False),
        caught_by=("check_beam_search_marks_wrong_values",),
    ),
    "beam-by-turns": Flaw(
        beam_search=BeamSearcher(by_turns=True), caught_by=("check_beam_search_same_bits",)
    ),
    "phrases-kept-when-broken-off": Flaw(
        guided_search=GuidedSearcher(takes_back=False),
        caught_by=(f"{GUIDED}_by_enumeration", f"{GUIDED}_takes_back_phrases"),
    ),
    "phrases-kept-at-the-end": Flaw(
        guided_search=GuidedSearcher(takes_back_at_end=False),
        caught_by=(f"{GUIDED}_by_enumeration", f"{GUIDED}_takes_back_phrases"),
    ),
    "overlaps-counted-twice": Flaw(
        guided_search=GuidedSearcher(largest=False),
        caught_by=(f"{GUIDED}_by_enumeration", f"{GUIDED}_counts_labels_once"),
    ),
    "phrases-ignored": Flaw(
        guided_search=GuidedSearcher(boosts=False),
        caught_by=(GUIDED, f"{GUIDED}_many_classes"),
    ),
    "state-without-its-first-frame": Flaw(
        guided_search=GuidedSearcher(loses_a_frame=True), caught_by=(f"{GUIDED}_chunks",)
    ),
    "end-counted-in-the-search": Flaw(
        guided_search=GuidedSearcher(ends_early=True),
        caught_by=(GUIDED, f"{GUIDED}_end_of_model"),
    ),
    "end-not-counted": Flaw(
        guided_search=GuidedSearcher(ends=False),
        caught_by=(f"{GUIDED}_by_enumeration", f"{GUIDED}_end_of_model"),
    ),
    "bonus-for-blanks": Flaw(
        guided_search=GuidedSearcher(pays_blanks=True), caught_by=(f"{GUIDED}_label_bonus",)
    ),
    "guided-by-three-classes": Flaw(
        guided_search=GuidedSearcher(most_classes=3), caught_by=(f"{GUIDED}_many_classes",)
    ),
    "guided-by-padding": Flaw(
        guided_search=GuidedSearcher(reads_padding=True), caught_by=(f"{GUIDED}_ignores_padding",)
    ),
    "guided-for-wrong-values": Flaw(
        guided_search=GuidedSearcher(checks_values=False),
        caught_by=(f"{GUIDED}_marks_wrong_values",),
    ),
    "states-of-the-first-sequence": Flaw(
        guided_search=GuidedSearcher(mixes_sequences=True), caught_by=(f"{GUIDED}_chunks",)
    ),
    "guided-through-the-core": Flaw(
        guided_search=private_guided_search, caught_by=(f"{GUIDED}_computes_by_itself",)
    ),
    "beam-through-the-core": Flaw(
        beam_search=private_beam_search, caught_by=("check_beam_search_computes_by_itself",)
    ),
    "greedy-for-the-last": Flaw(
        greedy=Greedy(last_of_equal=True), caught_by=("check_greedy_ties",)
    ),
    "greedy-without-normalising": Flaw(
        greedy=Greedy(normalised=False), caught_by=("check_greedy", "check_greedy_ties")
    ),
    "greedy-for-masked-classes": Flaw(
        greedy=Greedy(lowest=-1e4), caught_by=("check_greedy_edge_cases",)
    ),
    "greedy-in-half": Flaw(greedy=Greedy(real=np.float16), caught_by=("check_greedy",)),
    "greedy-for-padding": Flaw(
        greedy=Greedy(reads_padding=True), caught_by=("check_greedy_ignores_padding",)
    ),
    "greedy-for-the-first-length": Flaw(
        greedy=Greedy(first_only=True), caught_by=("check_greedy", "check_greedy_batching")
    ),
    "greedy-for-rows-as-they-lie": Flaw(
        greedy=Greedy(ignores_layout=True), caught_by=("check_greedy_time_major",)
    ),
    "greedy-for-wrong-values": Flaw(
        greedy=Greedy(checks_values=False), caught_by=("check_greedy_marks_wrong_values",)
    ),
    "greedy-by-turns": Flaw(greedy=Greedy(by_turns=True), caught_by=("check_greedy_same_bits",)),
    "greedy-through-the-core": Flaw(
        greedy=private_greedy, caught_by=("check_greedy_computes_by_itself",)
    ),
}


def _occupancies(*caught_by, **flaw):
    return Flaw(occupancies=Chain(**flaw).occupancies, caught_by=caught_by)


def _paths(*caught_by, **flaw):
    return Flaw(paths=Chain(**flaw).sample_paths, caught_by=caught_by)


OCCUPANCIES, PATHS = "check_occupancies_", "check_sample_paths_"
EACH = (f"{OCCUPANCIES}by_enumeration", f"{OCCUPANCIES}drawn")
PICKED = ("check_sample_paths", f"{PATHS}drawn")
FLAWS |= {
    "occupies-without-skips": _occupancies(*EACH, skips=False),
    "occupies-repeats-as-one": _occupancies(*EACH, skips_between_repeats=True),
    "occupies-relative-to-the-best": _occupancies(*EACH, normalised=False),
    "occupies-first-states-only": _occupancies(*EACH, sums_once=True),
    "occupies-one-blank": _occupancies(*EACH, each_blank=False),
    "occupies-what-is-impossible": _occupancies(f"{OCCUPANCIES}edge_cases", where_impossible=0.25),
    "occupies-states-unasked": _occupancies(f"{OCCUPANCIES}of_classes_alone", always_states=True),
    "occupies-by-padding": _occupancies(f"{OCCUPANCIES}ignores_padding", reads_padding=True),
    "occupies-its-neighbour": _occupancies(f"{OCCUPANCIES}batching", mixes_sequences=True),
    "occupies-rows-as-they-lie": _occupancies(f"{OCCUPANCIES}time_major", ignores_layout=True),
    "occupies-by-turns": _occupancies(f"{OCCUPANCIES}same_bits", by_turns=True),
    "occupies-wrong-values": _occupancies(f"{OCCUPANCIES}marks_wrong_values", checks_values=False),
    "occupies-through-the-core": Flaw(
        occupancies=private_occupancies, caught_by=(f"{OCCUPANCIES}computes_by_itself",)
    ),
    "samples-without-skips": _paths(*PICKED, skips=False),
    "samples-repeats-as-one": _paths(*PICKED, skips_between_repeats=True),
    "samples-the-blank-first": _paths(*PICKED, blank_last=True),
    "samples-two-back-first": _paths(*PICKED, two_back_first=True),
    "samples-frame-by-frame": _paths(*PICKED, from_frames=True),
    "samples-one-path": _paths(*PICKED, one_number=True),
    "samples-what-is-impossible": _paths(f"{PATHS}edge_cases", moves_for_nothing=True),
    "samples-padding-as-0": _paths(*PICKED, padding=0),
    "samples-by-padding": _paths(f"{PATHS}ignores_padding", reads_padding=True),
    "samples-its-neighbour": _paths(f"{PATHS}batching", mixes_sequences=True),
    "samples-rows-as-they-lie": _paths(f"{PATHS}time_major", ignores_layout=True),
    "samples-wrong-values": _paths(f"{PATHS}marks_wrong_values", checks_values=False),
    "samples-through-the-core": Flaw(
        paths=private_paths, caught_by=(f"{PATHS}computes_by_itself",)
    ),
}

SHORTCUTS = ("check_shortcuts",)
FLAWS |= {
    "shortcut-by-a-part": Flaw(
        shortcut=Shortcut(factor=1.001), caught_by=("check_loss_by_enumeration",)
    ),
    "shortcut-of-any-integers": Flaw(
        shortcut=Shortcut(integers=(np.int16, np.int32, np.int64, np.bool_)), caught_by=SHORTCUTS
    ),
    "shortcut-of-any-size": Flaw(shortcut=Shortcut(checks_sizes=False), caught_by=SHORTCUTS),
    "shortcut-of-any-label": Flaw(shortcut=Shortcut(checks_labels=False), caught_by=SHORTCUTS),
    "shortcut-of-any-length": Flaw(shortcut=Shortcut(checks_lengths=False), caught_by=SHORTCUTS),
    "shortcut-of-any-logit": Flaw(shortcut=Shortcut(checks_logits=False), caught_by=SHORTCUTS),
    "shortcut-of-any-blank": Flaw(shortcut=Shortcut(any_blank=True), caught_by=SHORTCUTS),
    "shortcut-tidies-labels": Flaw(shortcut=Shortcut(tidies_labels=True), caught_by=SHORTCUTS),
}

RIGHT = Flaw(caught_by=())
right_shortcut_loss, right_shortcut_loss_and_grad = (
    partial(Shortcut(), grad=grad) for grad in (False, True)
)
align = Aligner()
greedy = Greedy()
beam_search = BeamSearcher()
guided_search = GuidedSearcher()
occupancies, sample_paths = Chain().occupancies, Chain().sample_paths
delegating_loss = partial(private, grad=False)
delegating_loss_and_grad = partial(private, grad=True)
loss, loss_and_grad = RIGHT.kernels().values()


def __getattr__(name):
    flaw, _, operation = name.removeprefix("flaw_").partition("__")
    if flaw.replace("_", "-") not in FLAWS:
        raise AttributeError(name)
    flaw = FLAWS[flaw.replace("_", "-")]
    if operation.startswith("shortcut_"):
        return flaw.shortcuts()[operation.removeprefix("shortcut_")]
    return flaw.kernels()[operation]


def small_only(problem):
    """Turn down what is long, as a kernel with a fixed buffer would."""
    return f"takes up to 500 frames, got {problem.T}" if problem.T > 500 else None


@hookimpl
def ctcx_backends():
    """Offer all of them."""
    for name, flaw in FLAWS.items():
        target = f"flawed_kernels:flaw_{name.replace('-', '_')}"
        yield Backend(
            name=name,
            kernels={operation: f"{target}__{operation}" for operation in flaw.kernels()},
            shortcuts={
                operation: f"{target}__shortcut_{operation}" for operation in flaw.shortcuts()
            },
            namespaces=flaw.namespaces,
            devices=frozenset({"*"}),
            dtypes=flaw.dtypes,
            features=flaw.features,
        )
    both = {"loss": "flawed_kernels:loss", "loss_and_grad": "flawed_kernels:loss_and_grad"}
    here = frozenset({"numpy"})
    yield Backend(
        name="right",
        kernels=both
        | {
            "align": "flawed_kernels:align",
            "occupancies": "flawed_kernels:occupancies",
            "sample_paths": "flawed_kernels:sample_paths",
            "greedy": "flawed_kernels:greedy",
            "beam_search": "flawed_kernels:beam_search",
            "guided_search": "flawed_kernels:guided_search",
        },
        shortcuts={
            operation: f"flawed_kernels:right_shortcut_{operation}"
            for operation in ("loss", "loss_and_grad")
        },
        namespaces=here,
        features=COMPLETE,
    )
    delegating = {key: f"flawed_kernels:delegating_{key}" for key in both}
    for name, kernels in (("delegating", delegating), ("delegates-nothing", both)):
        yield Backend(
            name=name,
            kernels=kernels,
            namespaces=here,
            features=COMPLETE | {Feature.DELEGATES},
        )
    yield Backend(
        name="modest",
        kernels={"loss": "flawed_kernels:loss"},
        namespaces=here,
        dtypes=frozenset({"float64"}),
        accepts=small_only,
    )
    yield Backend(
        name="no-jax",
        kernels=dict.fromkeys(OPERATIONS, "flawed_kernels:never_called"),
        namespaces=frozenset({"jax.numpy"}),
        dtypes=frozenset({"float32"}),
        features=COMPLETE | {Feature.TRACEABLE},
        accepts=lambda _: "takes no arrays of JAX",
    )
    yield Backend(
        name="absent-library",
        kernels=both,
        namespaces=here | {"no_such_arrays"},
        features=COMPLETE,
        dtypes=frozenset({"float64"}),
    )
    yield Backend(
        name="only-absent", kernels=both, namespaces={"no_such_arrays"}, features={Feature.GRAD}
    )
    yield Backend(
        name="no-machine",
        kernels=both,
        namespaces=here,
        features={Feature.GRAD},
        probe=lambda: "this machine has no such processor",
    )


@hookimpl
def ctcx_namespaces():
    """Describe a library that isn't installed."""
    nowhere = "flawed_kernels:never_called"
    yield Namespace(
        name="no_such_arrays",
        distribution="no-such-arrays",
        from_numpy=nowhere,
        to_numpy=nowhere,
        devices=nowhere,
        probe=lambda: "no_such_arrays is not installed (pip install no-such-arrays)",
    )
