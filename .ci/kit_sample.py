"""A plugin of pytest for ``.ci/run``: marks as thorough what the conformance kit only repeats.

A kernel meets the whole kit where it has code of its own. On other libraries, devices and dtypes
it computes by the same code, and a sample of the checks tells whether they reach it.
"""

from __future__ import annotations

import re

import pytest

# Where each suite's kernel meets all checks: library, device and dtype. A suite that isn't listed
# meets all of them everywhere.
WHOLE = {
    # All dtypes but float64 are computed in float32. JAX and PyTorch have loops of their own.
    "TestArrayAPI": r"numpy-cpu-float(32|64)|(torch|jax\.numpy)-cpu(:0)?-float32"
    r"|array_api_strict-CPU_DEVICE-float32|cupy-cuda:0-float32",
    # The others pass addresses on.
    "TestCpu": r"numpy-cpu-float(32|64)",
    "TestNumba": r"numpy-cpu-float(32|64)",
    "TestCuda": r"cupy-cuda:0-float32",
}
SAMPLE = {
    *("check_takes_what_it_declares", "check_rejects_what_it_does_not_declare"),
    *("check_loss", "check_gradient", "check_half_precision", "check_largest_losses"),
    *("check_degenerate_shapes", "check_masked_logits", "check_integer_inputs"),
    *("check_noncontiguous_inputs", "check_read_only_inputs", "check_traced"),
    *("check_align", "check_greedy", "check_beam_search", "check_guided_search"),
    *("check_occupancies_by_enumeration", "check_sample_paths"),
}
# What JAX compiles for float16 takes minutes, and is what it compiles for bfloat16.
NOT_SAMPLED = r"jax\.numpy-\S+-float16"
PLANNED = re.compile(r"::(Test\w+)::test_check\[(check_\w+)-(.+?)\]")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests; ``-m "not thorough"`` then leaves them out."""
    for item in items:
        if planned := PLANNED.search(item.nodeid):
            suite, check, where = planned.groups()
            whole = re.fullmatch(WHOLE.get(suite, ".*"), where)
            if not whole and (check not in SAMPLE or re.fullmatch(NOT_SAMPLED, where)):
                item.add_marker(pytest.mark.thorough)
