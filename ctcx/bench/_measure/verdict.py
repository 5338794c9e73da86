"""Whether a result is right enough for its time to count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx._reference.tolerances import TOLERANCES

if TYPE_CHECKING:
    from ctcx.bench._implementations.registered import Kind
    from ctcx.bench._measure.accuracy import Errors

__all__ = ["wrong"]

PEER_LOSS_REL = 1e-3
"""Of the loss of a peer: more is no rounding, it is another function."""

PEER_GRAD = 2e-2
"""Of the gradient of a peer where rounding can't explain more."""


def wrong(kind: Kind, errors: Errors) -> str | None:
    """Return what is wrong with a result; None if its time counts.

    A backend must be as exact as the conformance kit demands in float32. A peer is measured as it
    is, with its error beside its time: it is wrong only if it computes something else. Where a
    peer subtracts numbers of the size of the loss, each of them rounded to ``eps * loss``, the
    gradient can be off by thousands of those: up to a whole probability for thousands of nats.

    Parameters
    ----------
    kind
        Of the contestant.
    errors
        Of its result.
    """
    if kind == "peer":
        grad_allowed = min(2.0, PEER_GRAD * max(1.0, errors.largest_loss / 500.0))
        loss_fine = errors.loss_rel <= PEER_LOSS_REL
    else:
        grad_allowed = TOLERANCES["float32"].grad
        loss_fine = errors.loss_excess <= 1.0
    reasons = []
    # Written so that a NaN is wrong.
    if not loss_fine:
        reasons.append(f"a loss is off by {errors.loss_abs:.2g} nats, {errors.loss_rel:.2g} of it")
    if not errors.grad <= grad_allowed:
        reasons.append(f"the gradient is off by {errors.grad:.2g}, more than {grad_allowed:.2g}")
    return f"wrong result: {' and '.join(reasons)}" if reasons else None
