"""Kernels that can't do what their descriptors promise, each in its own way."""

from ctcx.plugin import Backend, hookimpl


@hookimpl
def ctcx_backends():
    yield Backend(
        name="unbuilt",
        kernels={"loss": "ctcx_awkward.not_compiled:loss"},
        namespaces={"numpy"},
        priority=30,
        opt_in=False,
    )
    yield Backend(
        name="declining",
        kernels={"loss": "ctcx_awkward.kernels:decline"},
        namespaces={"numpy"},
        priority=20,
        opt_in=False,
    )
    yield Backend(
        name="buggy",
        kernels={"loss": "ctcx_awkward.kernels:bug"},
        namespaces={"numpy"},
    )
