"""What ctcx's own tests ask of tensors that aren't plain memory, where this kernel is chosen."""

import ctcx
from tests.test_tensors import *  # noqa: F403


def test_it_is_chosen():
    logits = torch.zeros(2, 9, 5)  # noqa: F405
    with ctcx.trace() as runs:
        ctcx.ctc_loss(logits, [[1], [2]])
        ctcx.ctc_loss(torch._neg_view(logits), [[1], [2]])  # noqa: F405
    assert [run.backend for run in runs] == ["numba", "numba"]
