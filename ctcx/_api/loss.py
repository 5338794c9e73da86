"""The loss, and the loss with its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from ctcx._api.call import is_feasible, reduce_losses, reduction_of, run
from ctcx._api.cuda_graphs import in_graph, is_captured
from ctcx._api.lazy import call_whole, is_lazy
from ctcx._api.plain import plain_loss, plain_loss_and_grad
from ctcx._arrays.tensor_forms import hidden_from_dynamo, is_torch_recording
from ctcx._inputs.options import Infeasible, Options, ReductionName
from ctcx._typing import ArrayT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctcx._typing import Array

__all__ = ["LossAndGrad", "ctc_loss", "ctc_loss_and_grad"]


class LossAndGrad(NamedTuple, Generic[ArrayT]):
    """What :func:`ctcx.ctc_loss_and_grad` returns.

    Attributes
    ----------
    loss
        (N,), or () where reduced or for one sequence; nats.
    grad
        In the layout and dtype of the logits.
    feasible
        (N,) boolean, () for one sequence: whether any path emits the labels.
    """

    loss: ArrayT
    grad: ArrayT
    feasible: Array


@hidden_from_dynamo
def ctc_loss(
    logits: ArrayT,
    labels: Array | Sequence[Sequence[int]],
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    blank: int = 0,
    time_major: bool = False,
    reduction: ReductionName = "none",
    infeasible: Infeasible = "inf",
    backend: str | None = None,
    validate: bool = True,
) -> ArrayT:
    r"""CTC loss: the negative log probability that the frames emit the labels.

    .. math:: \mathrm{loss} = -\ln \sum_{\pi \in B^{-1}(y)} \prod_t \mathrm{softmax}(x_t)_{\pi_t}

    over all paths that become the labels when equal neighbours are merged and blanks removed
    (Graves et al. 2006, eq. 3 and 12).

    Parameters
    ----------
    logits : array (N, T, C)
        Unnormalised; the softmax is inside. (T, N, C) with ``time_major=True``; (T, C) for one
        sequence. float16, bfloat16, float32 or float64, of NumPy, CuPy, PyTorch, JAX or another
        library of the array API standard, which decides where it is computed. -inf masks a class.
    labels : array of int (N, S) or list of lists
        Classes, without blanks. Entries past a sequence's length are ignored. (S,) for one
        sequence. Lists (also tuples and ranges; the rows may be arrays) and NumPy arrays go along
        with logits of any library.
    logit_lengths : array of int (N,), optional
        Frames of each sequence; default T. Later frames are ignored. A list, or an int for one
        sequence.
    label_lengths : array of int (N,), optional
        Labels of each sequence; default S, or the lengths of the lists.
    blank : int
        Class of the blank; negative ones count from the end.
    time_major : bool
        Whether frames come first in ``logits``.
    reduction : {"none", "sum", "mean", "mean_per_label"}
        ``"mean"`` is over the batch; ``"mean_per_label"`` first divides each loss by its number of
        labels (at least 1), which is what PyTorch calls mean. The mean of no sequences is 0.
    infeasible : {"inf", "zero", "raise"}
        What to do where no path emits the labels (fewer frames than :func:`ctcx.min_frames`, or
        masked classes): loss +inf, loss 0, or :class:`ctcx.InfeasibleError`. The gradient is 0.
    backend : str, optional
        That backend or an error; default: see :func:`ctcx.use_backend` and :func:`ctcx.explain`.
    validate : bool
        False skips the checks of values, of the input and of the losses, which cost one pass and
        wait for the device. They are skipped anyway where values can't be read, as under
        ``jax.jit``.

    Returns
    -------
    array (N,) or ()
        In nats, never negative, never NaN; float32, or float64 for float64 logits. In the library
        and on the device of the logits.

    Raises
    ------
    CTCInputError
        Wrong shapes, dtypes, libraries or devices; a label out of range or equal to the blank, a
        length out of range, NaN or +inf inside a sequence; masked arrays, and sets, dicts and
        generators for labels. Names argument, sequence, position and value.
    InfeasibleError
        Under ``infeasible="raise"``.
    BackendError
        No backend can take this call, or the one that was named can't; with the reason of each.

    References
    ----------
    Graves, Fernandez, Gomez, Schmidhuber: Connectionist Temporal Classification: labelling
    unsegmented sequence data with recurrent neural networks. ICML 2006.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> logits = np.zeros((1, 3, 4), dtype=np.float32)
    >>> ctcx.ctc_loss(logits, [[1, 2]])
    array([2.5...], dtype=float32)
    """
    arrays = logits, labels, logit_lengths, label_lengths
    options = Options(time_major, reduction, infeasible, backend, validate)
    if is_torch_recording(logits):
        from ctcx._api import torch_operators

        loss: ArrayT = torch_operators.traced_loss(*arrays, blank, options)
    elif (by_shortcut := plain_loss(arrays, blank, options)) is not None:
        loss = by_shortcut
    elif is_captured(logits):
        loss = in_graph(ctc_loss, _named(arrays), blank=blank, **options._asdict())
    elif (
        is_lazy(logits)
        and (whole := call_whole("loss", _named(arrays), blank=blank, **options._asdict()))
        is not None
    ):
        loss = whole
    else:
        _, loss = run("loss", *arrays, blank, options)
    return loss


@hidden_from_dynamo
def ctc_loss_and_grad(
    logits: ArrayT,
    labels: Array | Sequence[Sequence[int]],
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    blank: int = 0,
    time_major: bool = False,
    reduction: ReductionName = "none",
    infeasible: Infeasible = "inf",
    backend: str | None = None,
    validate: bool = True,
) -> LossAndGrad[ArrayT]:
    r"""CTC loss and its gradient with respect to the logits.

    .. math::
        \frac{\partial\,\mathrm{loss}}{\partial x_{t,c}}
        = \mathrm{softmax}(x_t)_c - \sum_{s: y_s = c} \gamma_t(s)

    where gamma is the probability of being in state s at frame t, given the labels (Graves et al.
    2006, eq. 16). It is 0 past a sequence's length and for infeasible sequences, and each frame's
    adds up to 0.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths
        As for :func:`ctcx.ctc_loss`.
    blank, time_major, reduction, infeasible, backend, validate
        As for :func:`ctcx.ctc_loss`.

    Returns
    -------
    LossAndGrad
        ``loss`` as from :func:`ctcx.ctc_loss`; ``grad``, of the shape, library, device and dtype of
        the logits: the gradient of the reduced loss, of the sum for ``reduction="none"``;
        ``feasible`` (N,): whether any path emits the labels.

    Raises
    ------
    CTCInputError, InfeasibleError, BackendError
        As for :func:`ctcx.ctc_loss`.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> logits = np.zeros((1, 2, 3), dtype=np.float32)
    >>> result = ctcx.ctc_loss_and_grad(logits, [[1]])
    >>> np.round(result.grad, 4)
    array([[[ 0.    , -0.3333,  0.3333],
            [ 0.    , -0.3333,  0.3333]]], dtype=float32)
    >>> result.feasible
    array([ True])
    """
    arrays = logits, labels, logit_lengths, label_lengths
    options = Options(time_major, reduction, infeasible, backend, validate)
    if is_torch_recording(logits):
        from ctcx._api import torch_operators

        return LossAndGrad(*torch_operators.traced_loss_and_grad(*arrays, blank, options))
    if (by_shortcut := plain_loss_and_grad(arrays, blank, options)) is not None:
        return LossAndGrad._make(by_shortcut)
    if is_captured(logits):
        named = _named(arrays)
        return LossAndGrad(*in_graph(ctc_loss_and_grad, named, blank=blank, **options._asdict()))
    if is_lazy(logits):
        named = _named(arrays)
        whole = call_whole("loss_and_grad", named, blank=blank, **options._asdict())
        if whole is not None:
            return LossAndGrad(*whole)
    prepared, (loss, grad) = run("loss_and_grad", *arrays, blank, options, of_reduced=True)
    how = reduction_of(prepared, options)
    feasible = is_feasible(loss)
    loss = reduce_losses(prepared, how, loss)
    if prepared.single:
        return LossAndGrad(loss, grad[0, ...], feasible[0, ...])
    if time_major:
        grad = prepared.facts.xp.permute_dims(grad, (1, 0, 2))
    return LossAndGrad(loss, grad, feasible)


def _named(arrays: tuple[Any, ...]) -> dict[str, Any]:
    """Return the arrays of a call by the names of its parameters."""
    names = ("logits", "labels", "logit_lengths", "label_lengths")
    return dict(zip(names, arrays, strict=True))
