"""The core passes its own kit on every library, as any plugin must."""

from ctcx.conformance import BackendConformance


class TestArrayAPI(BackendConformance):
    backend = "array-api"
