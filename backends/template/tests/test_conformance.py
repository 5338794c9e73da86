from ctcx.conformance import BackendConformance


class TestTemplate(BackendConformance):
    backend = "template"
