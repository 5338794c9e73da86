from ctcx.conformance import BackendConformance


class TestDask(BackendConformance):
    backend = "dask"
    # The kernels that compute blocks have been through all of it; test_blocks.py has other dtypes.
    dtypes = frozenset({"float32"})
    draw = 20
