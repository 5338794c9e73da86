"""Products of second derivatives with a vector, on any library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctcx._api.call import run, weights_of
from ctcx._api.cuda_graphs import in_graph, is_captured
from ctcx._arrays.facts import any_traced, device_of, first_true, is_array, looked_into
from ctcx._arrays.tensor_forms import UNREADABLE, forms_of, never_recorded
from ctcx._autodiff.adapters import adapter_for
from ctcx._autodiff.operation import hessian_times
from ctcx._errors import CTCInputError
from ctcx._inputs.beside import check_beside
from ctcx._inputs.host_data import plain
from ctcx._inputs.options import Options
from ctcx._reduction import weighted
from ctcx._typing import DTYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctcx._inputs.options import Infeasible, ReductionName
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array, ArrayT

__all__ = ["ctc_hvp"]


@never_recorded
def ctc_hvp(
    logits: ArrayT,
    labels: Array | Sequence[Sequence[int]],
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    vector: ArrayT,
    blank: int = 0,
    time_major: bool = False,
    reduction: ReductionName = "none",
    infeasible: Infeasible = "inf",
    backend: str | None = None,
    validate: bool = True,
) -> ArrayT:
    r"""Second derivatives of the CTC loss times a vector, without the matrix.

    .. math::
        (H v)_{t,c} = p_{t,c} \Bigl(v_{t,c} - \sum_k p_{t,k} v_{t,k}\Bigr)
                      - \sum_{s: y_s = c} \gamma_t(s) \bigl(E[V \mid s_t = s] - E[V]\bigr)

    with p the softmax, gamma the occupancies (Graves et al. 2006, eq. 14 and 16) and V the sum of
    the vector's entries along a path that emits the labels. It takes about as long as two
    gradients. H is symmetric, and each frame's entries of a product add up to 0.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths
        As for :func:`ctcx.ctc_loss`.
    vector : array
        Of the shape, layout, library and device of the logits, in any floating dtype. Frames
        past a sequence's length are ignored.
    blank, time_major, reduction, infeasible, validate
        As for :func:`ctcx.ctc_loss`.
    backend
        Of the gradient, which is computed first. Second derivatives are always the core's.

    Returns
    -------
    array
        Of the shape, library, device and dtype of the logits: second derivatives of the reduced
        loss (of the sum for ``reduction="none"``) times the vector; 0 past a sequence's length and
        for infeasible sequences.

    Raises
    ------
    CTCInputError
        As for :func:`ctcx.ctc_loss`; a vector of another shape, library or device, or NaN or
        infinite inside a sequence.
    InfeasibleError, BackendError
        As for :func:`ctcx.ctc_loss`.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> rng = np.random.default_rng(0)
    >>> logits, vector = rng.standard_normal((2, 1, 50, 32))
    >>> product = ctcx.ctc_hvp(logits, [[3, 1, 4]], vector=vector)
    >>> up = ctcx.ctc_loss_and_grad(logits + 1e-5 * vector, [[3, 1, 4]]).grad
    >>> down = ctcx.ctc_loss_and_grad(logits - 1e-5 * vector, [[3, 1, 4]]).grad
    >>> bool(np.allclose(product, (up - down) / 2e-5, atol=1e-8))
    True
    """
    options = Options(time_major, reduction, infeasible, backend, validate)
    if is_captured(logits):
        named = {"logits": logits, "labels": labels, "vector": vector}
        named |= {"logit_lengths": logit_lengths, "label_lengths": label_lengths}
        captured: ArrayT = in_graph(ctc_hvp, named, blank=blank, **options._asdict())
        return captured
    x: Array = plain("logits", logits)
    v: Array = plain("vector", vector)
    _check_form(v, x)
    prepared, (_, grad) = run(
        "loss_and_grad", x, labels, logit_lengths, label_lengths, blank, options
    )
    xp, single = prepared.facts.xp, prepared.single
    swap = time_major and not single
    v = xp.permute_dims(v, (1, 0, 2)) if swap else v[None, ...] if single else v
    arrays = (v, grad, *prepared[:4])
    namespace = prepared.facts.namespace
    form = forms_of(*arrays) if namespace == "torch" else 0
    if validate and not form & UNREADABLE and not any_traced(*arrays):
        _check_values(v, prepared, time_major=swap)
    adapter = adapter_for(namespace, form, arrays, differentiate=True)
    second = hessian_times if adapter is None else adapter.second
    product = second(prepared.blank, *arrays)
    if (weights := weights_of(prepared, options)) is not None:
        product = weighted(xp, product, weights, reuse=False)
    result: ArrayT = product
    if single:
        result = product[0, ...]
    elif swap:
        result = xp.permute_dims(product, (1, 0, 2))
    return result


def _check_form(vector: Any, logits: Any) -> None:
    if not is_array(logits) or logits.ndim not in {2, 3}:
        return  # which is said where logits are checked
    check_beside("vector", vector, logits, DTYPES)
    if tuple(vector.shape) != tuple(logits.shape):
        msg = (
            f"vector must have the shape and layout of the logits, {tuple(logits.shape)}; "
            f"got {tuple(vector.shape)}"
        )
        raise CTCInputError(msg, argument="vector")


def _check_values(vector: Array, prepared: KernelInputs, *, time_major: bool) -> None:
    """Refuse NaN and infinity inside of sequences; ``vector`` is (N, T, C)."""
    xp = prepared.facts.xp
    lengths = prepared.logit_lengths
    frames = xp.arange(vector.shape[1], dtype=lengths.dtype, device=device_of(vector))
    bad = (frames[None, :] < lengths[:, None])[:, :, None] & ~xp.isfinite(vector)
    if not bool(xp.any(bad)):
        return
    count = vector.shape[1] * vector.shape[2]
    place = first_true(bad, xp)
    n, t, c = place // count, place % count // vector.shape[2], place % vector.shape[2]
    index = (t, n, c) if time_major else (t, c) if prepared.single else (n, t, c)
    value = float(looked_into(vector)[n, t, c])
    msg = (
        f"vector[{', '.join(map(str, index))}] is {value} (sequence {n}, frame {t}): expected a "
        f"finite number"
    )
    raise CTCInputError(msg, argument="vector", sequence=n, position=t, value=value)
