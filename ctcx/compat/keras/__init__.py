"""``keras.ops.ctc_loss``, ``ctc_decode`` and ``keras.losses.CTC``, alike on all of Keras' backends.

Arrays decide, not Keras' configuration: those of TensorFlow go the way of
:mod:`ctcx.compat.tensorflow`, all others straight to ctcx.

>>> import numpy as np
>>> from ctcx.compat.keras import ctc_loss
>>> ctc_loss(np.asarray([[1, 2]]), np.zeros((1, 3, 4)), np.asarray([2]), np.asarray([3]))
array([2.54944517])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctcx.compat._shared.argument_names import required
from ctcx.compat.keras._ops import ctc_decode, ctc_loss

if TYPE_CHECKING:
    from ctcx.compat.keras._losses import CTC

__all__ = ["CTC", "ctc_decode", "ctc_loss"]


def __getattr__(name: str) -> Any:
    if name == "CTC":
        required("keras", "keras", "ctcx.compat.keras.CTC")
        from ctcx.compat.keras import _losses

        return _losses.CTC
    msg = f"module 'ctcx.compat.keras' has no attribute {name!r}"
    raise AttributeError(msg)
