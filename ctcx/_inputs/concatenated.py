"""Labels of several sequences one after the other in one axis, as torch takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._arrays.facts import device_of, is_numpy, namespace_of
from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = ["padded"]


def padded(labels: Array, label_lengths: Any) -> Array:
    """Concatenated labels (sum of lengths,) as (N, S), S the longest; padding is arbitrary.

    The number S is read on the host: one synchronisation if the lengths lie on another device.

    Raises CTCInputError: the lengths don't add up to the number of labels, or one is negative.
    """
    xp = namespace_of(labels)
    device = device_of(labels)
    if is_numpy(label_lengths):
        host = label_lengths.astype(np.int64)
        lengths = host if is_numpy(labels) else xp.asarray(host, device=device)
    else:
        lengths = label_lengths
    ends = xp.cumulative_sum(lengths, dtype=xp.int64)
    total = int(ends[-1]) if ends.shape[0] else 0
    if total != labels.shape[0] or bool(xp.any(lengths < 0)):
        msg = (
            f"label_lengths must be 0 or more each and add up to the {labels.shape[0]} elements of "
            f"concatenated (1-D) labels; got a sum of {total}"
        )
        raise CTCInputError(msg, argument="label_lengths")
    if total == 0:
        return xp.zeros((lengths.shape[0], 0), dtype=labels.dtype, device=device)
    width = int(xp.max(lengths))
    starts = ends - xp.astype(lengths, ends.dtype)
    position = xp.arange(width, dtype=ends.dtype, device=device)
    index = starts[:, None] + position[None, :]
    index = xp.where(index < total, index, xp.zeros_like(index))
    return xp.reshape(xp.take(labels, xp.reshape(index, (-1,)), axis=0), index.shape)
