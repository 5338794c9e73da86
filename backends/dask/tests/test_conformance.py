import dask
import dask.array as da
from ctcx_dask import kernels

from ctcx.conformance import BackendConformance, run_conformance


class TestDask(BackendConformance):
    backend = "dask"
    # The kernels that compute blocks have been through all of it; test_blocks.py has other dtypes.
    dtypes = frozenset({"float32"})
    draw = 20


def test_the_kit_notices_a_kernel_that_is_not_lazy(monkeypatch):
    lazily = kernels.call_in_blocks

    def at_once(*arguments):
        parts = dask.compute(*lazily(*arguments), scheduler="synchronous")
        return tuple(map(da.from_array, parts))

    monkeypatch.setattr(kernels, "call_in_blocks", at_once)
    report = run_conformance("dask", checks=["check_lazy_calls"], dtypes=["float32"])
    (result,) = report.results
    assert result.status == "failed"
    assert "looks at values before its result is computed" in result.message
