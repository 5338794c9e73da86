"""Goes wrong whenever it is asked whether it takes a problem."""

from ctcx.plugin import Backend, hookimpl


def accepts(problem):
    raise KeyError(problem.dtype)


@hookimpl
def ctcx_backends():
    yield Backend(
        name="unsure",
        kernels={"loss": "json:loads"},
        namespaces={"numpy"},
        opt_in=False,
        accepts=accepts,
    )
