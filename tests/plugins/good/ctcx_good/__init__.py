"""Two backends, a namespace, a case, a lower bound and a line for bug reports."""

from ctcx.plugin import Backend, Case, Feature, LowerBound, Namespace, hookimpl

KERNELS = {
    "loss": "ctcx_good.kernels:loss",
    "loss_and_grad": "ctcx_good.kernels:loss_and_grad",
}


@hookimpl
def ctcx_backends():
    return [
        Backend(
            name="good",
            kernels=KERNELS,
            namespaces={"numpy"},
            features={Feature.GRAD},
            priority=50,
            accepts=lambda problem: "at most 100 classes" if problem.C > 100 else None,
            summary="returns zeros",
            url="https://example.org/good",
        ),
        Backend(
            name="good-auto",
            kernels={"loss": "ctcx_good.kernels:loss"},
            namespaces={"numpy", "torch"},
            dtypes={"float32"},
            priority=10,
            opt_in=False,
        ),
    ]


@hookimpl
def ctcx_namespaces():
    return [
        Namespace(
            name="good_arrays",
            distribution="good-arrays",
            from_numpy="ctcx_good.kernels:loss",
            to_numpy="ctcx_good.kernels:loss",
            devices="ctcx_good.kernels:loss",
            probe=lambda: "good-arrays is not installed",
        )
    ]


@hookimpl
def ctcx_conformance_cases():
    yield Case(
        name="good-case",
        description="a single frame that must emit the single label",
        logits=[[[0.0, 0.0]]],
        labels=[[1]],
        logit_lengths=[1],
        label_lengths=[1],
        expected_loss=[0.6931471805599453],
        provenance="log 2, by hand",
    )


@hookimpl
def ctcx_benchmark_lower_bounds():
    yield LowerBound(
        name="good-bound",
        function="ctcx_good.kernels:bound",
        backends={"good"},
        summary="makes an array like the gradient",
    )


@hookimpl
def ctcx_runtime_info():
    return {"good driver": "12.4", "python": "as seen by good"}
