"""``torch.nn.functional.ctc_loss`` and ``torch.nn.CTCLoss``, on any array library.

>>> import numpy as np
>>> from ctcx.compat.torch import ctc_loss
>>> log_probs = np.log(np.full((3, 1, 4), 0.25))  # (T, N, C)
>>> float(round(ctc_loss(log_probs, np.asarray([1, 2]), (3,), (2,)), 4))
1.2747
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctcx.compat._shared.argument_names import required
from ctcx.compat.torch._functional import ctc_loss

if TYPE_CHECKING:
    from ctcx.compat.torch._module import CTCLoss

__all__ = ["CTCLoss", "ctc_loss"]


def __getattr__(name: str) -> Any:
    if name == "CTCLoss":
        required("torch", "torch", "ctcx.compat.torch.CTCLoss")
        from ctcx.compat.torch import _module

        return _module.CTCLoss
    msg = f"module 'ctcx.compat.torch' has no attribute {name!r}"
    raise AttributeError(msg)
