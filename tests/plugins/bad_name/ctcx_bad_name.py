"""A name with capitals and blanks."""

from ctcx.plugin import Backend, hookimpl


@hookimpl
def ctcx_backends():
    yield Backend(name="Bad Name", kernels={"loss": "json:loads"}, namespaces={"numpy"})
