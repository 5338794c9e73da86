from ctcx.conformance import BackendConformance


class TestDask(BackendConformance):
    backend = "dask"
