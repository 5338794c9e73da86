"""The core passes its own kit on CuPy, as on every library."""

from ctcx.conformance import BackendConformance


class TestArrayAPI(BackendConformance):
    backend = "array-api"
    namespaces = ("cupy",)
    # The core makes some ten launches a frame, and each takes long on a CPU: fewer drawn problems.
    draw = 8
