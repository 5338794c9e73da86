from ctcx.conformance import BackendConformance


class TestNumba(BackendConformance):
    backend = "numba"
