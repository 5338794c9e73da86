"""Programs that compute CTC, as different people write it, each with one mistake or with none.

They share nothing with the package or with one another. Each takes logits (N, T, C), labels (N, S),
lengths and the blank, and returns losses and gradients.
"""

from __future__ import annotations

import json
import math
import sys

import numpy as np

np.seterr(all="ignore")


def log_softmax(x, axis=-1):
    m = np.max(x, axis=axis, keepdims=True)
    m = np.where(np.isfinite(m), m, 0)
    return x - m - np.log(np.sum(np.exp(x - m), axis=axis, keepdims=True))


# Style 1: the textbook in logarithms, one sequence after another, beta with its own emission


def textbook(logits, labels, T_len, L_len, blank, fault=""):  # noqa: C901, PLR0912, PLR0915
    N, T, C = logits.shape
    losses, grads = np.zeros(N), np.zeros((N, T, C))
    for n in range(N):
        t_n, l_n = int(T_len[n]), int(L_len[n])
        if fault == "ignores frame lengths":
            t_n = T
        if fault == "ignores label lengths":
            l_n = labels.shape[1]
        if fault == "drops the last frame" and t_n:
            t_n -= 1
        y = [int(k) for k in labels[n, :l_n]]
        if fault == "classes from 1":
            y = [min(k + 1, C - 1) for k in y]
        if fault == "merges repeats":
            y = [k for i, k in enumerate(y) if i == 0 or k != y[i - 1]]
        b = blank
        if fault == "blank is 0":
            b = 0
        if fault == "blank is last":
            b = C - 1
        if fault == "blank is one before":
            b = blank - 1
        if fault == "blank is one after":
            b = min(blank + 1, C - 1)
        x = np.nan_to_num(logits[n], nan=0.0, posinf=0.0, neginf=-np.inf)
        lp = log_softmax(x)[:t_n] if fault != "raw logits" else x[:t_n]
        if fault == "softmax over time":
            lp = log_softmax(x[:t_n], axis=0) if t_n else lp
        if fault == "adds 1e-4":
            lp = np.log(np.exp(lp) + 1e-4)
        ext = [b]
        for k in y:
            ext += [k, b]
        U = len(ext)
        if t_n == 0:
            losses[n] = np.inf if y else 0.0
            continue
        a, be = np.full((t_n, U), -np.inf), np.full((t_n, U), -np.inf)

        def skip_ok(s, ext=ext, b=b):
            if fault == "no skip":
                return False
            if fault == "skips to blanks":
                return s >= 2 and (ext[s] == b or ext[s] != ext[s - 2])
            if fault == "skips over repeats":
                return s >= 2 and ext[s] != b
            return s >= 2 and ext[s] != b and ext[s] != ext[s - 2]

        a[0, 0] = lp[0, ext[0]]
        if U > 1 and fault != "starts in the blank":
            a[0, 1] = lp[0, ext[1]]
        for t in range(1, t_n):
            for s in range(U):
                w = [a[t - 1, s]] if fault != "no loop" else []
                if s >= 1:
                    w.append(a[t - 1, s - 1])
                if skip_ok(s):
                    w.append(a[t - 1, s - 2])
                top = max(w) if fault == "viterbi" else np.logaddexp.reduce(w) if w else -np.inf
                a[t, s] = top + lp[t, ext[s]] if w else -np.inf
        back_skip = skip_ok if fault != "beta without skip" else (lambda s: False)
        be[-1, U - 1] = lp[-1, ext[-1]]
        if U > 1 and fault != "beta from the last blank":
            be[-1, U - 2] = lp[-1, ext[-2]]
        for t in range(t_n - 2, -1, -1):
            for s in range(U):
                w = [be[t + 1, s]] if fault != "no loop" else []
                if s + 1 < U:
                    w.append(be[t + 1, s + 1])
                if s + 2 < U and back_skip(s + 2):
                    w.append(be[t + 1, s + 2])
                be[t, s] = (np.logaddexp.reduce(w) if w else -np.inf) + lp[t, ext[s]]
        ends = [a[-1, U - 1]] + ([a[-1, U - 2]] if U > 1 else [])
        if fault == "ends in the blank":
            ends = ends[:1]
        if fault == "ends anywhere":
            ends = list(a[-1])
        ll = max(ends) if fault == "viterbi" else np.logaddexp.reduce(ends)
        losses[n] = -ll
        if fault == "infeasible costs 0" and not np.isfinite(ll):
            losses[n] = 0.0
        if fault == "log zero is -1e4" and not np.isfinite(ll):
            losses[n] = 1e4
        p = np.exp(log_softmax(x)[:t_n])
        if not np.isfinite(ll):
            if fault == "infeasible has the softmax":
                grads[n, :t_n] = p
            continue
        occ = np.zeros((t_n, C))
        for s in range(U):
            g = a[:, s] + be[:, s] - lp[:, ext[s]] - ll
            if fault == "emission twice":
                g = a[:, s] + be[:, s] - ll
            if fault == "not divided by the likelihood":
                g = g + ll
            v = np.where(np.isfinite(g), np.exp(g), 0.0)
            if fault == "overwrites occupancies":
                occ[:, ext[s]] = v
            else:
                occ[:, ext[s]] += v
        if fault == "raw logits":
            p = np.exp(lp)
        grads[n, :t_n] = p - occ
        if fault == "gradient of log-probabilities":
            grads[n, :t_n] = -occ
        if fault == "gradient of probabilities":
            grads[n, :t_n] = np.where(occ > 0, -occ / p, 0.0)
    if fault == "padding has the softmax":
        for n in range(N):
            x = np.nan_to_num(logits[n], nan=0.0, posinf=0.0, neginf=-np.inf)
            grads[n, int(T_len[n]) :] = np.exp(log_softmax(x))[int(T_len[n]) :]
    return losses, grads


# Style 2: linear, normalised in each frame; what is done to the results afterwards may be wrong


def scaled(logits, labels, T_len, L_len, blank, fault=""):
    N, T, C = logits.shape
    losses, grads = [], []
    for n in range(N):
        frames, y = int(T_len[n]), labels[n, : int(L_len[n])]
        z = np.r_[blank, np.stack([y, np.full(len(y), blank)], 1).ravel()].astype(int)
        allowed = np.zeros(len(z), bool)
        allowed[2:] = (z[2:] != blank) & (z[2:] != z[:-2])
        x = logits[n, :frames].astype(float)
        e = np.exp(x - x.max(-1, keepdims=True)) if frames else x
        p = e / e.sum(-1, keepdims=True) if frames else e
        grad = np.zeros((T, C))
        if not frames:
            losses.append(0.0 if not len(y) else math.inf)
            grads.append(grad)
            continue
        q = p[:, z]
        f, scale = np.zeros((frames, len(z))), np.zeros(frames)
        f[0, :2] = q[0, :2]
        for t in range(frames):
            if t:
                f[t] = f[t - 1]
                f[t, 1:] += f[t - 1, :-1]
                f[t, 2:] += np.where(allowed[2:], f[t - 1, :-2], 0)
                f[t] *= q[t]
            scale[t] = f[t].sum()
            f[t] /= scale[t] or 1.0
        end = f[-1, -2:].sum()
        loss = -(np.log(scale).sum() + np.log(end)) if end and scale.all() else math.inf
        if math.isfinite(loss):
            b = np.zeros_like(f)
            b[-1, -2:] = 1.0
            for t in range(frames - 2, -1, -1):
                v = b[t + 1] * q[t + 1]
                b[t] = v
                b[t, :-1] += v[1:]
                b[t, :-2] += np.where(allowed[2:], v[2:], 0)
                b[t] /= b[t].sum() or 1.0
            w = f * b
            w /= w.sum(-1, keepdims=True)
            occ = np.zeros((frames, C))
            for s, k in enumerate(z):
                occ[:, k] += w[:, s]
            grad[:frames] = p - occ
        losses.append(loss)
        grads.append(grad)
    loss, grad = np.array(losses), np.array(grads)
    L, F = np.maximum(L_len, 1).astype(float), np.maximum(T_len, 1).astype(float)
    each = lambda values: values[:, None, None]
    finite = np.where(np.isfinite(logits), logits, 0.0)
    after = {
        "": lambda: (loss, grad),
        "mean by label": lambda: (loss / L, grad / each(L)),
        "mean by frame": lambda: (loss / F, grad / each(F)),
        "mean by batch": lambda: (loss / N, grad / N),
        "gradient by label": lambda: (loss, grad / each(L)),
        "gradient by batch": lambda: (loss, grad / N),
        "gradient by frames": lambda: (loss, grad / each(F)),
        "loss by label alone": lambda: (loss / L, grad),
        "gradient times two": lambda: (loss, 2 * grad),
        "opposite sign": lambda: (loss, -grad),
        "base 2": lambda: (loss / math.log(2), grad),
        "base 2 throughout": lambda: (loss / math.log(2), grad / math.log(2)),
        "log-likelihood": lambda: (-loss, -grad),
        "likelihood": lambda: (np.exp(-loss), grad),
        "gradient of the likelihood": lambda: (loss, -grad * each(np.exp(-loss))),
        "one mean for all": lambda: (np.full(N, loss.mean()), grad / N),
        "time-major gradient": lambda: (loss, grad.swapaxes(0, 1).reshape(N, T, C)),
        "transposed gradient": lambda: (loss, grad.swapaxes(1, 2).reshape(N, T, C)),
        "gradient from the end": lambda: (loss, backwards(grad, T_len)),
        "softmax derivative again": lambda: (loss, again(grad, logits, T_len)),
        "float16": lambda: (loss.astype(np.float16).astype(float), grad),
        "clips the gradient": lambda: (loss, np.clip(grad, -0.1, 0.1)),
        "label smoothing": lambda: (loss * 0.9 + 0.1 * T_len, grad * 0.9),
        "adds a penalty": lambda: (loss + 0.01 * np.abs(finite).sum((1, 2)), grad),
        "cube of the loss": lambda: (loss**3, grad),
        "noise": lambda: (loss * (1 + 0.01 * np.sin(np.arange(N) + 1)), grad),
        "gradient of the first sequence": lambda: (loss, grad * each(np.arange(N) == 0)),
        "rounded": lambda: (np.round(loss, 1), np.round(grad, 1)),
    }
    return after[fault]()


def backwards(grad, lengths):
    out = np.zeros_like(grad)
    for n, frames in enumerate(lengths):
        out[n, :frames] = grad[n, :frames][::-1]
    return out


def again(grad, logits, lengths):
    p = np.exp(log_softmax(np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=-np.inf)))
    used = np.arange(grad.shape[1]) < lengths[:, None]
    return np.where(used[:, :, None], p * (grad - (p * grad).sum(-1, keepdims=True)), 0.0)


# Style 3: the whole batch at once, time first, labels and blanks apart; the gradient by differences


def batched(logits, labels, T_len, L_len, blank, fault=""):  # noqa: C901, PLR0915
    N, T, C = logits.shape
    mixed = fault == "reshapes to time-major"
    x = logits.reshape(T, N, C) if mixed else logits.swapaxes(0, 1)
    x = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=-1e30)
    if fault == "labels from the end":
        labels = np.array(
            [np.r_[row[:n][::-1], row[n:]] for row, n in zip(labels, L_len, strict=True)]
        )

    def loss_of(x):  # noqa: C901
        lp = log_softmax(x)
        if fault == "softmax of the softmax":
            lp = log_softmax(np.exp(lp))
        if fault == "keras epsilon":
            lp = log_softmax(np.log(np.exp(lp) + 1e-3))
        S = labels.shape[1]
        phi = np.full((N, S + 1), -1e30)
        emit = np.full((N, S), -1e30)
        rep = np.zeros((N, S), bool)
        rep[:, 1:] = labels[:, 1:] == labels[:, :-1]
        out = np.zeros(N)
        for n in range(N):
            if T_len[n] == 0:
                out[n] = 0.0 if L_len[n] == 0 else np.inf
        start = True
        for t in range(T):
            le = np.take_along_axis(lp[t], labels, axis=1)
            lb = lp[t][:, blank][:, None]
            if start:
                new_phi, new_emit = phi.copy(), emit.copy()
                new_phi[:, :1] = lb
                if S:
                    new_emit[:, 0] = le[:, 0]
                start = False
            else:
                new_phi = phi.copy()
                new_phi[:, 1:] = np.logaddexp(new_phi[:, 1:], emit)
                new_phi += lb
                new_emit = np.logaddexp(emit, phi[:, :-1])
                if S > 1:
                    through = np.where(rep[:, 1:], -1e30, emit[:, :-1])
                    new_emit[:, 1:] = np.logaddexp(new_emit[:, 1:], through)
                new_emit += le
            on = (t < T_len)[:, None]
            phi, emit = np.where(on, new_phi, phi), np.where(on, new_emit, emit)
        for n in range(N):
            if T_len[n]:
                k = L_len[n]
                last = np.logaddexp(phi[n, k], emit[n, k - 1]) if k else phi[n, 0]
                if fault == "last label alone":
                    last = emit[n, k - 1] if k else phi[n, 0]
                out[n] = -last if last > -1e25 else np.inf
        return out

    loss = loss_of(x)
    grad = np.zeros((T, N, C))
    step = 1e-6
    for t in range(T):
        for k in range(C):
            up, down = x.copy(), x.copy()
            up[t, :, k] += step
            down[t, :, k] -= step
            d = (loss_of(up) - loss_of(down)) / (2 * step)
            grad[t, :, k] = np.where(np.isfinite(loss), np.nan_to_num(d), 0)
    if fault == "reshapes to time-major":
        return loss, grad.reshape(N, T, C)
    return loss, grad.swapaxes(0, 1)


# Style 4: one row of states in a list; the batch is sorted, as recurrent networks like it


def rows(logits, labels, T_len, L_len, blank, fault=""):
    N, T, C = logits.shape
    order = np.argsort(-T_len, kind="stable") if fault.startswith("sorts") else np.arange(N)
    labels_order = np.arange(N) if fault == "sorts all but the labels" else order
    losses, grads = np.zeros(N), np.zeros((N, T, C))
    for i in range(N):
        n, m = order[i], labels_order[i]
        y = [int(k) for k in labels[m, : L_len[m]]]
        if fault == "ends labels at 0" and 0 in y:
            y = y[: y.index(0)]
        if fault == "leaves out zeros":
            y = [k for k in y if k != 0]
        if fault == "counts labels other than 0":
            y = y[: sum(k != 0 for k in y)]
        losses[i], g = one_sequence(logits[n, : T_len[n]].astype(float), y, blank, fault)
        if fault == "gradient a frame late":
            g = np.r_[np.zeros((1, C)), g[:-1]] if len(g) else g
        if fault == "gradient rolled":
            g = np.roll(g, -1, axis=0)
        grads[i, : len(g)] = g
    if fault in {"sorts", "sorts but for the gradient"}:
        grads = grads if fault == "sorts" else grads[np.argsort(order)]
        return losses, grads
    return losses[np.argsort(order)], grads[np.argsort(order)]


def one_sequence(x, y, blank, fault):  # noqa: C901
    z = [blank] + [k for label in y for k in (label, blank)]
    U, F = len(z), len(x)
    if not F:
        return (math.inf if y else 0.0), np.zeros_like(x)
    lp = log_softmax(x)
    in_place = fault in {"updates in place", "updates in place, emits later"}
    first = 0 if fault == "wraps around" else 1
    second = 0 if fault in {"wraps around", "wraps around by two"} else 2

    def run(row, frames, states, first, second):
        """Yield the row of states in each frame."""
        for number, t in enumerate(frames):
            if number:
                old = row if in_place else row[:]
                for s in range(U):
                    total = old[s]
                    if s >= first:
                        total = np.logaddexp(total, old[s - 1])
                    if s >= second and states[s] != blank and states[s] != states[s - 2]:
                        total = np.logaddexp(total, old[s - 2])
                    row[s] = total if "later" in fault else total + lp[t][states[s]]
                if "later" in fault:
                    row = [value + lp[t][k] for value, k in zip(row, states, strict=True)]
            yield row[:]

    def start(t):
        return [lp[t][z[s]] if s < 2 else -math.inf for s in range(U)]

    a = np.array(list(run(start(0), range(F), z, first, second)))
    back = [lp[-1][k] if s < 2 else -math.inf for s, k in enumerate(z[::-1])]
    b = np.array(list(run(back, range(F - 1, -1, -1), z[::-1], 1, 2)))[::-1, ::-1]
    total = np.logaddexp.reduce(a[-1, -2:])
    if not np.isfinite(total):
        return math.inf, np.zeros_like(x)
    g = np.exp(lp)
    for s, k in enumerate(z):
        g[:, k] -= np.nan_to_num(np.exp(a[:, s] + b[:, s] - lp[:, k] - total))
    return -total, g


NAMES = {
    (textbook, "ignores frame lengths"): "padding-not-masked",
    (textbook, "ignores label lengths"): "padding-not-masked",
    (textbook, "padding has the softmax"): "padding-not-masked",
    (textbook, "drops the last frame"): "frame-dropped",
    (textbook, "classes from 1"): "one-hot-shifted",
    (textbook, "merges repeats"): "repeats-merged",
    (textbook, "blank is 0"): "blank-at-wrong-end",
    (textbook, "blank is last"): "blank-at-wrong-end",
    (textbook, "blank is one before"): "blank-off-by-one",
    (textbook, "blank is one after"): "blank-off-by-one",
    (textbook, "raw logits"): "softmax-missing",
    (textbook, "softmax over time"): "softmax-over-wrong-axis",
    (textbook, "adds 1e-4"): "probabilities-clamped",
    (textbook, "no skip"): "skip-missing",
    (textbook, "skips to blanks"): "skip-rule",
    (textbook, "skips over repeats"): "repeat-transition-allowed",
    (textbook, "no loop"): "self-loop-missing",
    (textbook, "viterbi"): "best-path-only",
    (textbook, "starts in the blank"): "alpha-start-states",
    (textbook, "ends in the blank"): "alpha-end-states",
    (textbook, "ends anywhere"): "alpha-end-states",
    (textbook, "beta without skip"): "backward-recursion",
    (textbook, "beta from the last blank"): "backward-recursion",
    (textbook, "infeasible costs 0"): "infeasible-as-zero",
    (textbook, "infeasible has the softmax"): "infeasible-gradient",
    (textbook, "log zero is -1e4"): "log-zero-leaks",
    (textbook, "emission twice"): "occupancy-wrong",
    (textbook, "not divided by the likelihood"): "occupancy-wrong",
    (textbook, "overwrites occupancies"): "occupancy-overwritten",
    (textbook, "gradient of log-probabilities"): "gradient-of-log-probabilities",
    (textbook, "gradient of probabilities"): "gradient-of-log-probabilities",
    (scaled, "mean by label"): "loss-divided-by-labels",
    (scaled, "loss by label alone"): "loss-divided-by-labels",
    (scaled, "mean by frame"): "loss-divided-by-frames",
    (scaled, "mean by batch"): "loss-divided-by-sequences",
    (scaled, "gradient by label"): "gradient-divided-by-label-length",
    (scaled, "gradient by batch"): "gradient-divided-by-sequences",
    (scaled, "gradient by frames"): "gradient-divided-by-frames",
    (scaled, "gradient times two"): "gradient-scaled",
    (scaled, "opposite sign"): "gradient-sign",
    (scaled, "base 2"): "logarithm-base",
    (scaled, "base 2 throughout"): "logarithm-base",
    (scaled, "log-likelihood"): "loss-not-negated",
    (scaled, "likelihood"): "loss-not-negated",
    (scaled, "gradient of the likelihood"): "gradient-of-likelihood",
    (scaled, "one mean for all"): "loss-reduced",
    (scaled, "time-major gradient"): "gradient-axes-swapped",
    (scaled, "transposed gradient"): "gradient-axes-swapped",
    (scaled, "gradient from the end"): "time-reversed",
    (scaled, "softmax derivative again"): "gradient-through-softmax-twice",
    (scaled, "float16"): "half-precision",
    (scaled, "clips the gradient"): None,
    (scaled, "label smoothing"): None,
    (scaled, "adds a penalty"): None,
    (scaled, "cube of the loss"): None,
    (scaled, "noise"): None,
    (scaled, "gradient of the first sequence"): None,
    (scaled, "rounded"): None,
    (batched, "reshapes to time-major"): "axes-swapped",
    (batched, "labels from the end"): "time-reversed",
    (batched, "softmax of the softmax"): "softmax-twice",
    (batched, "keras epsilon"): "probabilities-clamped",
    (batched, "last label alone"): "alpha-end-states",
    (rows, "updates in place"): "updated-in-place",
    (rows, "updates in place, emits later"): "updated-in-place",
    (rows, "wraps around"): "index-wraps-around",
    (rows, "wraps around by two"): "index-wraps-around",
    (rows, "ends labels at 0"): "label-0-as-padding",
    (rows, "leaves out zeros"): "label-0-as-padding",
    (rows, "counts labels other than 0"): "label-0-as-padding",
    (rows, "sorts"): "batch-reordered",
    (rows, "sorts but for the gradient"): "batch-reordered",
    (rows, "sorts all but the labels"): "batch-reordered",
    (rows, "gradient a frame late"): "gradient-shifted",
    (rows, "gradient rolled"): "gradient-shifted",
}
"""What each program is to be told; None: that its mistake is unknown."""

RIGHT = (textbook, scaled, batched, rows)


def main(style, fault):
    """Answer problems as they come."""
    function = {each.__name__: each for each in RIGHT}[style]
    for line in sys.stdin:
        problem = json.loads(line.replace('"-inf"', "-Infinity"))
        names = ("logits", "labels", "logit_lengths", "label_lengths")
        arrays = [np.array(problem[name]) for name in names]
        arrays[0] = arrays[0].astype(float)
        loss, grad = function(*arrays, problem["blank"], fault)
        answer = {"loss": plain(loss.tolist()), "gradient": plain(grad.tolist())}
        sys.stdout.write(json.dumps({"id": problem["id"]} | answer) + "\n")
        sys.stdout.flush()


def plain(value):
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value if math.isfinite(value) else str(value)


if __name__ == "__main__":
    main(*sys.argv[1:])
