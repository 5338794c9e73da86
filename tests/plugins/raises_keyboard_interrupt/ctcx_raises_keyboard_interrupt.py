"""Its hook is fine; its probe raises, and so does its accepts."""

from ctcx.plugin import Backend, hookimpl


def interrupt(*_):
    raise KeyboardInterrupt


@hookimpl
def ctcx_backends():
    for name in ("probe", "accepts"):
        yield Backend(
            name=f"interrupting-{name}",
            kernels={"loss": "json:loads"},
            namespaces={"numpy"},
            opt_in=False,
            **{name: interrupt},
        )
