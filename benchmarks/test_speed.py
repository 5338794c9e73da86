"""Loss and gradient of every workload: ``array-api`` on NumPy beside torch's compiled CPU kernel.

Run ``python -m pytest benchmarks``; the table of ratios comes last. The contestants of a workload
run one after the other in the same process; each call makes fresh outputs.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ctcx
from benchmarks.workloads import WORKLOADS, make

CONTESTANTS = ("array-api on numpy", "torch")


def ctcx_on_numpy(problem):
    """The whole public call, selection and validation included."""
    return lambda: ctcx.ctc_loss_and_grad(*problem, backend="array-api", reduction="sum")


def torch_native(problem):
    """log_softmax and ctc_loss, forward and backward."""
    logits, *rest = (torch.from_numpy(array) for array in problem)

    def call():
        leaf = logits.detach().requires_grad_()
        log_probs = leaf.log_softmax(-1).swapaxes(0, 1)
        loss = torch.nn.functional.ctc_loss(log_probs, *rest, reduction="sum")
        loss.backward()
        return loss.detach(), leaf.grad, None

    return call


MAKERS = dict(zip(CONTESTANTS, (ctcx_on_numpy, torch_native), strict=True))


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_loss_and_grad(benchmark, workload, contestant):
    """A benchmark of a wrong result is worth nothing, so the results are compared first."""
    problem = make(workload)
    call = MAKERS[contestant](problem)
    loss, grad, _ = call()
    if contestant != "torch":
        theirs = MAKERS["torch"](problem)()
        # torch's own error grows with the length: 1.6e-5 of the loss at 20,000 frames, more than
        # 1 in the gradient. That ctcx is right there is for the conformance kit to say.
        np.testing.assert_allclose(loss, theirs[0].numpy(), rtol=5e-5)
        assert np.abs(grad - theirs[1].numpy()).max() < (2.0 if workload == "long" else 2e-2)
    benchmark.group = workload
    benchmark.extra_info.update(workload=workload, contestant=contestant)
    benchmark.pedantic(call, **_rounds(workload))


def _rounds(workload):
    n, t, c, length, _ = WORKLOADS[workload]
    cost = n * t * (c + 20 * length)
    if cost < 10_000:
        return {"rounds": 300, "iterations": 10, "warmup_rounds": 20}
    if cost < 2**28:
        return {"rounds": 15, "iterations": 1, "warmup_rounds": 2}
    return {"rounds": 3, "iterations": 1, "warmup_rounds": 0}
