"""The signatures and edge cases of other libraries' CTC, computed by ctcx.

One module for each origin: ``torch``, ``torchaudio``, ``tensorflow``, ``optax``, ``keras`` and
``tfjs``. Change the import, and leave the call as it is. Importing them imports no framework; what
needs one imports it on first use. The pages "Coming from ..." of the documentation list each
difference.

>>> import numpy as np
>>> from ctcx.compat import torch as F
>>> log_probs = np.log(np.full((3, 1, 4), 0.25))
>>> F.ctc_loss(log_probs, np.asarray([[1, 2]]), (3,), (2,), reduction="none")
array([2.54944517])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx import _on_first_use

if TYPE_CHECKING:
    from ctcx.compat import keras, optax, tensorflow, tfjs, torch, torchaudio

__all__ = ["keras", "optax", "tensorflow", "tfjs", "torch", "torchaudio"]

__getattr__, __dir__ = _on_first_use(__name__, __all__, {}, __all__)
