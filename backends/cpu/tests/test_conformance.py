from ctcx.conformance import BackendConformance


class TestCpu(BackendConformance):
    backend = "cpu"
