from ctcx.conformance import BackendConformance


class TestDask(BackendConformance):
    backend = "dask"
    dtypes = frozenset({"float16", "float32"})
    draw = 20  # the kernels that compute blocks have more of their own
