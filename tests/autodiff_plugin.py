"""Code of a plugin whose kernels can't be traced, and remember what they got and gave."""

PLUGIN = """
from ctcx.plugin import Backend, Feature, hookimpl, load_kernel

calls = []


@hookimpl
def ctcx_backends():
    yield Backend(
        name="remembering",
        kernels={"loss_and_grad": "ctcx_remembering:loss_and_grad"},
        namespaces={"torch", "jax.numpy"},
        features={Feature.GRAD, Feature.NONCONTIGUOUS, Feature.CHECKS_VALUES},
        api=(2, 0),
    )


def loss_and_grad(*arrays, blank):
    result = load_kernel("array-api", "loss_and_grad")(*arrays, blank=blank)
    calls.append((arrays, result))
    return result
"""
