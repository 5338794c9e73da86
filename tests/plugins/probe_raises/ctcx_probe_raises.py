"""Goes wrong when it is asked whether it can be used on this machine."""

from ctcx.plugin import Backend, hookimpl


def probe():
    msg = "libcuda.so.1: cannot open shared object file\nsecond line"
    raise OSError(msg)


@hookimpl
def ctcx_backends():
    yield Backend(
        name="driverless",
        kernels={"loss": "json:loads"},
        namespaces={"numpy"},
        opt_in=False,
        probe=probe,
    )
