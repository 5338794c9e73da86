"""A small task with the difficulty of handwriting: strokes of unknown length, with noise, in a row.

Every label is drawn as a curve of its own over 3 to 7 frames, with gaps between some, on a drifting
baseline and under noise. A network has to find out where the curves are.
"""

import numpy as np

CLASSES = 7  # the blank is 0
FRAMES = 60
CURVES = np.random.default_rng(7).standard_normal((CLASSES, 3, 4))


def batch(rng, count, *, infeasible=0):
    """Features (N, T, 4), labels (N, S), frames (N,), labels' lengths (N,).

    The last ``infeasible`` sequences claim to have fewer frames than labels, as real data do.
    """
    features = rng.standard_normal((count, FRAMES, 4)) * 0.4
    features += np.cumsum(rng.standard_normal((count, FRAMES, 4)) * 0.05, axis=1)
    labels, lengths = np.zeros((count, 8), dtype=np.int64), rng.integers(4, 9, count)
    frames = np.zeros(count, dtype=np.int64)
    for n, length in enumerate(lengths):
        labels[n, :length] = rng.integers(1, CLASSES, length)
        t = 0
        for label in labels[n, :length]:
            t += rng.integers(0, 3)
            width = rng.integers(3, 7)
            at = np.linspace(0, 2, min(width, FRAMES - t))
            curve = CURVES[label]
            low = np.minimum(at.astype(int), 1)
            part = (at - low)[:, None]
            features[n, t : t + width] += curve[low] * (1 - part) + curve[low + 1] * part
            t = min(t + width, FRAMES)
        frames[n] = max(t, 20)
    if infeasible:
        frames[-infeasible:] = 2
    return features.astype(np.float32), labels, frames, lengths
