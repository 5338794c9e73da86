"""CTC as people get it wrong, one mistake at a time: plain loops, one sequence after another.

It shares nothing with the package. Probabilities are not logarithms here, so it is for short
sequences, except where a mistake is about logarithms.
"""

from __future__ import annotations

import math

MISTAKES = (
    "blank-at-wrong-end",
    "repeat-transition-allowed",
    "skip-missing",
    "softmax-missing",
    "softmax-twice",
    "alpha-end-states",
    "alpha-start-states",
    "one-hot-shifted",
    "padding-not-masked",
    "gradient-of-log-probabilities",
    "gradient-sign",
    "log-zero-leaks",
    "nan",
)


def softmax(row):
    top = max(row)
    weights = [math.exp(x - top) if top > -math.inf else 0.0 for x in row]
    total = sum(weights)
    return [w / total for w in weights] if total else weights


def answer(fixture, mistake=None, variant=0):
    """Loss and gradient of a batch, as nested lists, with this mistake."""
    losses, gradients = [], []
    arrays = fixture.arrays
    for n in range(fixture.shape[0]):
        frames, count = int(arrays["logit_lengths"][n]), int(arrays["label_lengths"][n])
        logits = arrays["logits"][n].tolist()
        labels = arrays["labels"][n, :count].tolist()
        if mistake == "padding-not-masked":
            frames = len(logits) if variant != 1 else frames
            labels = arrays["labels"][n].tolist() if variant == 1 else labels
        loss, gradient = one(logits[:frames], labels, fixture.blank, mistake, variant)
        gradient += [[0.0] * len(logits[0]) for _ in range(len(logits) - frames)]
        losses.append(loss)
        gradients.append(gradient)
    return {"loss": losses, "gradient": gradients}


def one(logits, labels, blank, mistake, variant):  # noqa: C901, PLR0912 - a collection of mistakes
    classes = len(logits[0]) if logits else 1
    probs = [softmax(row) for row in logits]
    used = probs
    if mistake == "softmax-missing":
        used = [
            [math.exp(x) for x in row] if not variant else [max(x, 0.0) for x in row]
            for row in logits
        ]
    if mistake == "softmax-twice":
        used = [softmax(row) for row in probs]
    if mistake == "blank-at-wrong-end":
        blank = 0 if blank else classes - 1
    if mistake == "one-hot-shifted":
        labels = [(k + (-1 if variant else 1)) % classes for k in labels]
    if mistake in {"log-zero-leaks", "nan"}:
        loss, gradient = one(logits, labels, blank, None, variant)
        return in_logarithms(probs, labels, blank, mistake), gradient if loss < math.inf else probs
    states = [blank]
    for k in labels:
        states += [k, blank]
    forward = sweep(used, states, blank, mistake, variant, starts_of(states, mistake, variant))
    ends = ends_of(states, mistake, variant)
    if not used:
        return (0.0 if not labels else math.inf), []
    likelihood = sum(forward[-1][s] for s in ends)
    if likelihood == 0.0:
        return math.inf, [[0.0] * classes for _ in logits]
    # All ways from a state to the end, by going back over the same transitions.
    backward = [[0.0] * len(states) for _ in used]
    for s in ends:
        backward[-1][s] = 1.0
    for t in range(len(used) - 2, -1, -1):
        for s in range(len(states)):
            for source in sources(states, s, blank, mistake):
                backward[t][source] += used[t + 1][states[s]] * backward[t + 1][s]
    gradient = []
    for t, row in enumerate(used):
        occupied = [0.0] * classes
        for s, k in enumerate(states):
            occupied[k] += forward[t][s] * backward[t][s] / likelihood
        if mistake == "gradient-of-log-probabilities":
            slope = [-o / (p if variant and o else 1.0) for o, p in zip(occupied, row, strict=True)]
        else:
            sign = -1.0 if mistake == "gradient-sign" else 1.0
            slope = [sign * (p - o) for p, o in zip(row, occupied, strict=True)]
        gradient.append(slope)
    return -math.log(likelihood), gradient


def starts_of(states, mistake, variant):
    if mistake == "alpha-start-states" and len(states) > 1:
        return [1 if variant else 0]
    return range(min(2, len(states)))


def ends_of(states, mistake, variant):
    last = len(states) - 1
    if mistake == "alpha-end-states" and last:
        return [last - 1 if variant else last]
    return range(max(0, last - 1), last + 1)


def sources(states, s, blank, mistake):
    found = [s]
    if s >= 1:
        found.append(s - 1)
    differs = s >= 2 and states[s] != states[s - 2]
    if mistake == "repeat-transition-allowed":
        differs = True
    if s >= 2 and s % 2 and differs and mistake != "skip-missing":
        found.append(s - 2)
    return found


def sweep(used, states, blank, mistake, variant, starts):
    rows = []
    for t, row in enumerate(used):
        if t == 0:
            before = [1.0 if s in starts else 0.0 for s in range(len(states))]
        else:
            before = [
                sum(rows[-1][source] for source in sources(states, s, blank, mistake))
                for s in range(len(states))
            ]
        rows.append([b * row[k] for b, k in zip(before, states, strict=True)])
    return rows


def in_logarithms(probs, labels, blank, mistake):
    """The loss by logarithms, with a stand-in for log(0), or with -inf and no care for it."""
    zero = math.log(1e-307) if mistake == "log-zero-leaks" else -math.inf

    def plus(a, b):
        top, low = max(a, b), min(a, b)
        if mistake == "nan" and top == -math.inf and len(labels) >= len(probs):
            return low - top  # NaN, where an unlucky order of operations meets two infinities
        return top if low == -math.inf else top + math.log1p(math.exp(low - top))

    states = [blank]
    for k in labels:
        states += [k, blank]
    alpha = [0.0 if s < 2 else zero for s in range(len(states))]
    for t, row in enumerate(probs):
        reached = alpha
        if t:
            reached = []
            for s in range(len(states)):
                first, *others = sources(states, s, blank, None)
                total = alpha[first]
                for other in others:
                    total = plus(total, alpha[other])
                reached.append(total)
        logs = [math.log(p) if p > 0.0 else zero for p in row]
        alpha = [a + logs[k] for a, k in zip(reached, states, strict=True)]
    if not probs:
        return 0.0 if not labels else math.inf
    return -(alpha[-1] if len(states) == 1 else plus(*alpha[-2:]))
