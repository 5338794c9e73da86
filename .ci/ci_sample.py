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
    # These have code for each dtype. NumPy, PyTorch and JAX pass addresses on, and JAX compiles.
    "TestCpu": r"(numpy|torch)-cpu-\S+",
    "TestNumba": r"(numpy|torch)-cpu-\S+",
    "TestCuda": r"cupy-cuda:0-float(32|64)",  # float16 is computed in float32
}
SAMPLE = {
    *("check_takes_what_it_declares", "check_rejects_what_it_does_not_declare"),
    *("check_loss", "check_gradient", "check_half_precision", "check_largest_losses"),
    *("check_degenerate_shapes", "check_masked_logits", "check_integer_inputs"),
    *("check_noncontiguous_inputs", "check_read_only_inputs", "check_traced"),
    *("check_align", "check_greedy", "check_beam_search", "check_guided_search"),
    *("check_occupancies_by_enumeration", "check_sample_paths"),
}
# What JAX compiles for half precision takes minutes, and differs in the first and last operations.
COMPILED = r"jax\.numpy-\S+-b?float16"
SAMPLE_OF_COMPILED = r"jax\.numpy-\S+-bfloat16 check_(loss|half_precision|greedy)"
# Whether other backends' code runs doesn't depend on the library.
ON_NUMPY_ONLY = r"(torch|jax|array_api_strict)\S+ check_\w*computes_by_itself"
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
            if not _is_run(suite, check, where):
                item.add_marker(pytest.mark.thorough)


def _is_run(suite: str, check: str, where: str) -> bool:
    """Whether a run that isn't thorough has this check of the kit."""
    if re.fullmatch(WHOLE.get(suite, ".*"), where):
        return not re.fullmatch(ON_NUMPY_ONLY, f"{where} {check}")
    if re.fullmatch(COMPILED, where):
        return bool(re.fullmatch(SAMPLE_OF_COMPILED, f"{where} {check}"))
    return check in SAMPLE
