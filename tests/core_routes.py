"""The core by each of its ways to the same numbers: NumPy tries shorter ones first."""

import pytest

PLUGIN = """
from functools import partial
from ctcx.plugin import Backend, Feature, hookimpl, load_kernel

def call(operation, route, *arrays, blank):
    return load_kernel("array-api", operation)(*arrays, blank=blank, route=route)

BACKENDS = {"never small": "scaled probabilities", "extended exponents": "extended exponents"}
for place, route in enumerate(BACKENDS.values()):
    for operation in ("loss", "loss_and_grad"):
        globals()[f"{operation}_{place}"] = partial(call, operation, route)

@hookimpl
def ctcx_backends():
    for place, name in enumerate(BACKENDS):
        yield Backend(
            name=name.replace(" ", "-"),
            kernels={each: f"ctcx_routes:{each}_{place}" for each in ("loss", "loss_and_grad")},
            namespaces={"numpy"},
            dtypes={"float16", "bfloat16", "float32", "float64"},
            features={Feature.GRAD, Feature.HALF, Feature.NONCONTIGUOUS, Feature.DELEGATES},
        )
"""


@pytest.fixture
def use_route(request):
    """Return a function that gives the name of a route's backend."""

    def backend(name):
        if name not in {"never small", "extended exponents"}:
            return "array-api"
        plugins = request.getfixturevalue("plugins")
        plugins.write("routes", PLUGIN)
        plugins.load()
        return name.replace(" ", "-")

    return backend
