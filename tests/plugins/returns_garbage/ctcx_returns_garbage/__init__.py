"""A backend for each way in which a kernel can be wrong; the name says which."""

from ctcx.plugin import Backend, Feature, hookimpl

WAYS = (
    "right",
    "read-only",
    "none",
    "list",
    "bare",
    "three",
    "scalar",
    "shape",
    "two-axes",
    "dtype",
    "half",
    "complex",
    "library",
    "masked",
    "wants-gradient",
    "lazy",
    "device",
    "grad-none",
    "grad-shape",
    "grad-dtype",
    "grad-library",
    "grad-input",
    "nan",
    "last-nan",
    "negative",
    "minus-inf",
    "exits",
    "interrupts",
    "throws",
    "unprintable",
)


@hookimpl
def ctcx_backends():
    for way in WAYS:
        kernels, right, shortcuts = (
            {
                operation: f"ctcx_returns_garbage.kernels:{name.replace('-', '_')}_{operation}"
                for operation in ("loss", "loss_and_grad")
            }
            for name in (way, "right", f"shortcut-{way}")
        )
        for suffix, features, those, its_shortcuts in (
            ("", set(), kernels, {}),
            ("-checks", {Feature.CHECKS_VALUES}, kernels, {}),
            ("-shortcut", set(), right, shortcuts),
        ):
            yield Backend(
                name=way + suffix,
                kernels=those,
                shortcuts=its_shortcuts,
                namespaces={"numpy", "torch", "jax.numpy", "array_api_strict"},
                devices={"*"},
                dtypes={"float16", "float32", "float64"},
                features={Feature.GRAD, Feature.HALF, Feature.TRACEABLE} | features,
                url="https://example.org/garbage",
            )
