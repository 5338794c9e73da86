"""The hook is called ctcx_backends."""

from ctcx.plugin import hookimpl


@hookimpl
def ctcx_backend():
    return []
