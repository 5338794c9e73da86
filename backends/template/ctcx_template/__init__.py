"""Tells ctcx about the kernels in this package, without importing them."""

from ctcx.plugin import Backend, Feature, hookimpl


@hookimpl
def ctcx_backends() -> list[Backend]:
    """Offer one backend for NumPy arrays."""
    return [
        Backend(
            name="template",
            kernels={
                "loss": "ctcx_template.kernels:loss",
                "loss_and_grad": "ctcx_template.kernels:loss_and_grad",
            },
            namespaces=frozenset({"numpy"}),
            devices=frozenset({"cpu"}),
            dtypes=frozenset({"float32", "float64"}),
            features=frozenset({Feature.GRAD, Feature.DETERMINISTIC, Feature.NONCONTIGUOUS}),
            summary="a tutorial: plain NumPy, one sequence at a time",
        )
    ]
