"""Claims a name that another plugin claims too, and the name of the core."""

from ctcx.plugin import Backend, hookimpl


@hookimpl
def ctcx_backends():
    for name in ("good", "array-api", "unique"):
        yield Backend(name=name, kernels={"loss": "ctcx_duplicate:loss"}, namespaces={"numpy"})


def loss(logits, labels, logit_lengths, label_lengths, *, blank):
    return logits[:, 0, 0] * 0
