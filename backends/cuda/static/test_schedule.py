"""The recursion stays within its budget of cycles in a static schedule."""

import pytest
from ctcx_cuda.variants import IN_REGISTERS

from backends.cuda.static.schedule import LIMITS, cycles_a_frame


@pytest.mark.parametrize("variant", IN_REGISTERS, ids=lambda variant: variant.name)
def test_cycles_a_frame(variant):
    alpha_and_beta = cycles_a_frame(variant)
    assert len(alpha_and_beta) == 2
    # Less than a handful for each instruction there can't be: the loops were found.
    assert all(20 < cycles <= LIMITS[variant.name] for cycles in alpha_and_beta)
