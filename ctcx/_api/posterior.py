"""How the paths of the labels share their probability: occupancies, entropy, samples."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, overload

from ctcx._api.call import as_asked, as_constants, run
from ctcx._api.cuda_graphs import in_graph, is_captured
from ctcx._arrays.facts import (
    describe,
    device_of,
    first_true,
    is_array,
    looked_into,
    namespace_of,
)
from ctcx._arrays.lending import lent
from ctcx._arrays.tensor_forms import UNREADABLE, hidden_from_dynamo, is_torch_recording
from ctcx._core.entropy import path_entropy
from ctcx._core.kernels import run_on_results
from ctcx._core.spans import are_sampled_paths
from ctcx._dispatch.compute import compute
from ctcx._dispatch.results import wrong_losses
from ctcx._errors import CTCInputError
from ctcx._inputs.beside import check_beside
from ctcx._inputs.host_data import plain
from ctcx._inputs.options import Options, check_flag, check_flags
from ctcx._inputs.prepare import prepare
from ctcx._typing import HALF_DTYPES, ArrayT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ctcx._arrays.facts import ArrayFacts
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = [
    "Occupancies",
    "check_uniforms",
    "ctc_entropy",
    "ctc_occupancies",
    "ctc_sample_paths",
    "occupancies_of",
    "sampled_paths_of",
]

_UNIFORM_DTYPES = ("float32", "float64")


class Occupancies(NamedTuple, Generic[ArrayT]):
    """What :func:`ctcx.ctc_occupancies` returns: arrays of the library and device of the logits.

    Shapes are for N sequences of T frames, C classes and S label positions; N is dropped for one
    sequence. All are float32, or float64 for float64 logits.

    Attributes
    ----------
    classes
        (N, T, C), or (T, N, C) with ``time_major=True``: probability of each class at each frame,
        given the labels. The classes of a frame add up to 1; 0 past a sequence's length, and
        everywhere where no path emits the labels.
    states
        (N, T, 2S+1), or None unless asked for: the same for each state, 2j the blank before label
        j (after the last one for j = L) and 2j + 1 label j; 0 past a sequence's labels.
    loss
        (N,): as from :func:`ctcx.ctc_loss`, +inf where no path emits the labels.
    feasible
        (N,) boolean: whether any path emits the labels.
    """

    classes: ArrayT
    states: ArrayT | None
    loss: ArrayT
    feasible: Array


@hidden_from_dynamo
def ctc_occupancies(
    logits: ArrayT,
    labels: Array | Sequence[Sequence[int]],
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    states: bool = False,
    blank: int = 0,
    time_major: bool = False,
    backend: str | None = None,
    validate: bool = True,
) -> Occupancies[ArrayT]:
    r"""Probability of each class, and of each state, at each frame, given the labels.

    .. math:: \gamma_t(s) = P(\pi_t = s \mid B(\pi) = y)

    over all paths that become the labels when equal neighbours are merged and blanks removed
    (Graves et al. 2006, eq. 14); that of a class is the sum over its states. The gradient of the
    loss is the softmax minus ``classes``.

    Not differentiable: all results are constants to PyTorch and JAX.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths
        As for :func:`ctcx.ctc_loss`.
    states : bool
        Whether to return occupancies of states, too.
    blank, backend, validate
        As for :func:`ctcx.ctc_loss`.
    time_major : bool
        Logits, and the occupancies of classes, are (T, N, C).

    Returns
    -------
    Occupancies

    Raises
    ------
    CTCInputError, BackendError
        As for :func:`ctcx.ctc_loss`.

    See Also
    --------
    ctc_align : The most probable path alone.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> logits = np.log([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.3, 0.6]])
    >>> found = ctcx.ctc_occupancies(logits, [1, 2], states=True)
    >>> found.classes.round(3)
    array([[0.863, 0.137, 0.   ],
           [0.013, 0.971, 0.016],
           [0.002, 0.   , 0.998]])
    >>> found.states.shape
    (3, 5)
    """
    check_flag("states", states)
    options = Options(time_major, "none", "inf", backend, validate)
    arrays: dict[str, Any] = {"logits": logits, "labels": labels}
    arrays |= {"logit_lengths": logit_lengths, "label_lengths": label_lengths}
    if is_torch_recording(logits):
        from ctcx._api import torch_posterior

        return Occupancies(
            *torch_posterior.traced_occupancies(
                *arrays.values(), blank=blank, states=bool(states), options=options
            )
        )
    if is_captured(logits):
        given = {"blank": blank, "states": states, "time_major": time_major, "backend": backend}
        captured: Occupancies[ArrayT] = in_graph(ctc_occupancies, arrays, **given)
        return captured
    check_flags(time_major=time_major, validate=validate)
    prepared = as_constants(prepare(**arrays, blank=blank, time_major=time_major))
    if prepared.facts.form & UNREADABLE:
        from ctcx._api import torch_posterior

        loss, classes, *each = torch_posterior.dispatched_occupancies(
            prepared, options, states=bool(states)
        )
    else:
        loss, classes, *each = occupancies_of(prepared, options, states=bool(states))
    xp = prepared.facts.xp
    if time_major and not prepared.single:
        classes = xp.permute_dims(classes, (1, 0, 2))
    found = (classes, *each, loss, loss != float("inf"))
    classes, *each, loss, feasible = as_asked(found, prepared, logits)
    return Occupancies(classes, each[0] if each else None, loss, feasible)


@hidden_from_dynamo
def ctc_entropy(
    logits: ArrayT,
    labels: Array | Sequence[Sequence[int]],
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    blank: int = 0,
    time_major: bool = False,
    backend: str | None = None,
    validate: bool = True,
) -> ArrayT:
    r"""Entropy of the paths, given the labels: how undecided the model is about where they stand.

    .. math:: H = -\sum_\pi P(\pi \mid y) \log P(\pi \mid y)
              = -\mathrm{loss} - \sum_{t,c} \gamma_t(c) \log \mathrm{softmax}(x_t)_c

    over all paths that emit the labels, with gamma the occupancies (Liu et al. 2018, section 3).
    PyTorch and JAX differentiate it once; the gradient holds second derivatives of the loss, as
    :func:`ctcx.ctc_hvp` computes them.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths
        As for :func:`ctcx.ctc_loss`.
    blank, time_major, validate
        As for :func:`ctcx.ctc_loss`.
    backend
        Of loss and gradient, from which the entropy is computed.

    Returns
    -------
    array
        (N,), or () for one sequence, in nats, at least 0; 0 where no path emits the labels. float64
        for float64 logits, else float32.

    Raises
    ------
    CTCInputError, BackendError
        As for :func:`ctcx.ctc_loss`.

    Notes
    -----
    The entropy is a difference of numbers of the size of the loss, so its error is that of a loss,
    in the precision of the logits. Pass float64 where the loss is thousands of times the entropy.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> logits = np.zeros((3, 2))  # six paths of 3 frames say one label, all as probable
    >>> round(float(np.exp(ctcx.ctc_entropy(logits, [1]))), 6)
    6.0
    """
    options = Options(time_major, "none", "inf", backend, validate)
    arrays: dict[str, Any] = {"logits": logits, "labels": labels}
    arrays |= {"logit_lengths": logit_lengths, "label_lengths": label_lengths}
    if is_torch_recording(logits):
        from ctcx._api import torch_posterior

        traced: ArrayT = torch_posterior.traced_entropy(
            *arrays.values(), blank=blank, options=options
        )
        return traced
    if is_captured(logits):
        given = {"blank": blank, "time_major": time_major, "backend": backend}
        captured: ArrayT = in_graph(ctc_entropy, arrays, **given)
        return captured
    check_flags(time_major=time_major, validate=validate)
    x: Any = plain("logits", logits)
    if is_array(x) and (facts := describe(x, "logits")).dtype in HALF_DTYPES:
        x = facts.xp.astype(x, facts.xp.float32)
    rest = (labels, logit_lengths, label_lengths)
    prepared, (loss, grad) = run("loss_and_grad", x, *rest, blank, options, differentiable=True)
    given_arrays = (loss, grad, prepared.logits, prepared.logit_lengths)
    entropy: Any = run_on_results(path_entropy, given_arrays, ())
    if prepared.facts.namespace == "mlx.core":
        from ctcx._autodiff import mlx_rules

        entropy = mlx_rules.entropy(entropy, prepared.blank, loss, grad, *prepared[:4])
    found: ArrayT = entropy[0, ...] if prepared.single else entropy
    return found


@overload
def ctc_sample_paths(
    logits: NDArray[Any],
    labels: Array | Sequence[Sequence[int]],
    uniforms: NDArray[Any],
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    blank: int = 0,
    time_major: bool = False,
    backend: str | None = None,
    validate: bool = True,
) -> NDArray[np.int32]: ...
@overload
def ctc_sample_paths(
    logits: ArrayT,
    labels: Array | Sequence[Sequence[int]],
    uniforms: ArrayT,
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    blank: int = 0,
    time_major: bool = False,
    backend: str | None = None,
    validate: bool = True,
) -> ArrayT: ...
@hidden_from_dynamo
def ctc_sample_paths(
    logits: Array,
    labels: Array | Sequence[Sequence[int]],
    uniforms: Array,
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    blank: int = 0,
    time_major: bool = False,
    backend: str | None = None,
    validate: bool = True,
) -> Array:
    r"""Paths drawn by their probabilities, given the labels.

    Each path that emits the labels is drawn with its probability among them. ``uniforms``
    are the random numbers, so that the same ones give the same paths on every library, device and
    backend.

    A path is drawn from its end. The number of the last frame picks between the last label and the
    blank after it, that of an earlier frame between staying in the state of the frame behind it,
    the state before, and the one two before, all in this order, each with its probability: the
    first one whose probability, added to those before it, is above the number (Rabiner 1989,
    section III).

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths
        As for :func:`ctcx.ctc_loss`.
    uniforms : array (N, K, T), or (K, T) for one sequence
        Random numbers from 0 up to, but not including, 1: one for each sequence, each of the K
        paths that are drawn of it, and each frame. In float32 or float64, of the library and device
        of the logits. Numbers past a sequence's length are ignored.
    blank, time_major, backend, validate
        As for :func:`ctcx.ctc_loss`. ``time_major`` is about the logits only.

    Returns
    -------
    array
        (N, K, T) int32, or (K, T): states, 2j the blank before label j (after the last one for j =
        L) and 2j + 1 label j; -1 past a sequence's length, and everywhere where no path emits the
        labels. A constant to PyTorch and JAX.

    Raises
    ------
    CTCInputError
        As for :func:`ctcx.ctc_loss`; uniforms of another shape, library, device or dtype, or a
        number inside a sequence that is not in that range.
    BackendError
        As for :func:`ctcx.ctc_loss`.

    Notes
    -----
    Where a number is within about 1e-5 of such a sum, rounding decides, and libraries and backends
    may give different paths.

    Examples
    --------
    >>> import numpy as np, ctcx
    >>> uniforms = np.random.default_rng(0).random((1000, 3))
    >>> states = ctcx.ctc_sample_paths(np.zeros((3, 2)), [1], uniforms)
    >>> states[:3]
    array([[0, 1, 1],
           [1, 1, 2],
           [0, 1, 2]], dtype=int32)
    >>> len(np.unique(states, axis=0))
    6
    """
    options = Options(time_major, "none", "inf", backend, validate)
    arrays: dict[str, Any] = {"logits": logits, "labels": labels, "uniforms": uniforms}
    arrays |= {"logit_lengths": logit_lengths, "label_lengths": label_lengths}
    if is_torch_recording(logits):
        from ctcx._api import torch_posterior

        traced: Array = torch_posterior.traced_paths(**arrays, blank=blank, options=options)
        return traced
    if is_captured(logits):
        given = {"blank": blank, "time_major": time_major, "backend": backend}
        captured: Array = in_graph(ctc_sample_paths, arrays, **given)
        return captured
    check_flags(time_major=time_major, validate=validate)
    u: Any = plain("uniforms", uniforms)
    rest = (labels, logit_lengths, label_lengths)
    prepared = as_constants(prepare(logits, *rest, blank, time_major=time_major))
    check_uniforms(u, prepared.logits, single=prepared.single)
    u = u[None, ...] if prepared.single else u
    u = u.detach() if prepared.facts.namespace == "torch" else u
    about = describe(u, "uniforms")
    facts = prepared.facts
    facts = facts._replace(traced=facts.traced or about.traced, form=facts.form | about.form)
    prepared = prepared._replace(facts=facts)
    if prepared.facts.form & UNREADABLE:
        from ctcx._api import torch_posterior

        states = torch_posterior.dispatched_paths(prepared, u, options)
    else:
        states = sampled_paths_of(prepared, u, options)
    return as_asked((states,), prepared, logits)[0]


def occupancies_of(prepared: KernelInputs, options: Options, *, states: bool) -> tuple[Array, ...]:
    """Loss (N,), occupancies of classes (N, T, C) and, if asked for, of states (N, T, 2S+1)."""
    arguments = {"blank": prepared.blank, "states": states}
    found: tuple[Array, ...] = compute("occupancies", prepared, options, arguments, wrong_losses)
    return found


def sampled_paths_of(prepared: KernelInputs, uniforms: Array, options: Options) -> Array:
    """States (N, K, T) for uniforms of that shape."""
    if options.validate and not prepared.facts.traced:
        _check_range(uniforms, prepared)
    arguments = {"blank": prepared.blank, "uniforms": uniforms}
    wrong = partial(_wrong_paths, prepared=prepared)
    states: Array = compute("sample_paths", prepared, options, arguments, wrong)
    return states


def check_uniforms(uniforms: Any, logits: Array, *, single: bool) -> None:
    """Refuse uniforms of another library, device, dtype or shape than for logits (N, T, C)."""
    check_beside("uniforms", uniforms, logits, _UNIFORM_DTYPES)
    rows, frames, _ = logits.shape
    given = tuple(uniforms.shape)
    whole = (1, *given) if single else given
    if len(whole) != 3 or (whole[0], whole[2]) != (rows, frames):
        axes, sizes = "(N, K, T)", f"N = {rows} and T = {frames}"
        if single:
            axes, sizes = "(K, T)", f"T = {frames}"
        msg = (
            f"uniforms must have shape {axes}, with {sizes}, as the logits have, and K the number "
            f"of paths to draw; got {given}"
        )
        raise CTCInputError(msg, argument="uniforms")


def _check_range(uniforms: Array, prepared: KernelInputs) -> None:
    """Refuse numbers inside of sequences that are not in [0, 1)."""
    lengths = prepared.logit_lengths
    uniforms, lengths = lent(uniforms, lengths) or (uniforms, lengths)
    xp = namespace_of(uniforms)
    frame = xp.arange(uniforms.shape[2], dtype=lengths.dtype, device=device_of(uniforms))
    inside = (frame[None, :] < lengths[:, None])[:, None, :]
    bad = inside & ~((uniforms >= 0.0) & (uniforms < 1.0))
    if not bool(xp.any(bad)):
        return
    _, paths, frames = uniforms.shape
    place = first_true(bad, xp)
    n, k, t = place // (paths * frames), place // frames % paths, place % frames
    index = (k, t) if prepared.single else (n, k, t)
    value = float(looked_into(uniforms)[n, k, t])
    msg = (
        f"uniforms[{', '.join(map(str, index))}] is {value} (sequence {n}, frame {t}): expected a "
        f"number from 0 up to, but not including, 1"
    )
    raise CTCInputError(msg, argument="uniforms", sequence=n, position=t, value=value)


def _wrong_paths(states: Array, facts: ArrayFacts, *, prepared: KernelInputs) -> str | None:
    """Say for which sequence one of a kernel's paths is none of its labels."""
    if 0 in states.shape:
        return None
    xp = facts.xp
    fits = run_on_results(are_sampled_paths, (states, *prepared[:4]), ())
    if bool(xp.all(fits)):
        return None
    n = first_true(~fits, xp)
    return (
        f"returned states for sequence {n}, whose values passed all checks, that are no paths of "
        f"its labels; expected states that go up from 0 or 1 to 2L or 2L - 1 by 0, 1 or 2 (2 "
        f"between different labels only), -1 past the length, or -1 for all of them"
    )
