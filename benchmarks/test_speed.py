"""The benchmarks of ctcx: ``python -m pytest benchmarks``, or ``ctcx bench`` for reports too."""

from __future__ import annotations

from ctcx.bench.suite import test_loss_and_grad

__all__ = ["test_loss_and_grad"]
