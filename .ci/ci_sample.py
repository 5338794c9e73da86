"""A plugin of pytest for ``.ci/run``: marks as thorough what only repeats what other tests show.

A kernel meets the whole conformance kit where it has code of its own. On other libraries, devices
and dtypes it computes by the same code, and a sample of the checks tells whether they reach it.
Of long lists of parameters that take one way through the code, every fourth is run.
"""

from __future__ import annotations

import re
from collections import Counter

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
EVERY_FOURTH = {
    "tests/test_outside.py::test_one_mistake_is_named_over_all_problems_or_said_to_be_unknown",
    "tests/test_jax_transformations.py::test_arrays_with_values",
}
PLANNED = re.compile(r"::(Test\w+)::test_check\[(check_\w+)-(.+?)\]")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests; ``-m "not thorough"`` then leaves them out."""
    seen: Counter[str] = Counter()
    for item in items:
        name = item.nodeid.split("[")[0]
        if name in EVERY_FOURTH:
            if seen[name] % 4:
                item.add_marker(pytest.mark.thorough)
            seen[name] += 1
        if planned := PLANNED.search(item.nodeid):
            suite, check, where = planned.groups()
            whole = re.fullmatch(WHOLE.get(suite, ".*"), where)
            if not whole and (check not in SAMPLE or re.fullmatch(NOT_SAMPLED, where)):
                item.add_marker(pytest.mark.thorough)
