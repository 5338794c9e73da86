"""What a plugin says about itself: descriptors of kernels, array libraries and problems.

Everything here is plain data. Callables that would import a heavy library are named as
``"package.module:function"`` and imported on first use, so that registering a plugin costs nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctcx._errors import shown
from ctcx._operations import OPERATIONS
from ctcx._plugins.fields import (
    always_usable,
    check_api,
    check_callable,
    check_line,
    check_name,
    check_names,
    check_type,
    freeze,
)
from ctcx._plugins.targets import check_target
from ctcx._typing import HALF_DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

__all__ = ["API_VERSION", "Backend", "Decline", "Feature", "Problem"]

API_VERSION: tuple[int, int] = (2, 7)
"""Version of the plugin API, ``(major, minor)``; see :class:`Backend` for what is compatible."""


class Feature(enum.Enum):
    """What a kernel can do beyond the minimum, where that can be told before it is called.

    A declared feature is tested by the conformance kit. An undeclared one is a gate: a problem that
    needs it is rejected with a reason.
    """

    GRAD = "computes the gradient with respect to the logits (operation loss_and_grad)"
    TRACEABLE = "can be called while the library traces (jax.jit): reads no values"
    DETERMINISTIC = "the same input gives the same bits, every time"
    HALF = "takes float16 or bfloat16 logits and computes in float32"
    NONCONTIGUOUS = "takes logits that are not contiguous (transposed or sliced)"
    CHECKS_VALUES = (
        "checks the values it gets: a loss of NaN marks each sequence that has a length or label "
        "out of range, a label equal to the blank, or a logit of NaN or +inf in its frames"
    )
    WEIGHTS = (
        "takes weights=, (N,) in the dtype of the losses, and multiplies the gradient of each "
        "sequence by its own (operation loss_and_grad); the losses stay as they are"
    )
    DELEGATES = "lets another backend's kernels compute, so that its numbers prove nothing new"
    LAZY = "takes whole calls on arrays that hold no values yet, and returns what will be computed"

    # Each call looks into sets of these; that of enum.Enum is a function in Python.
    __hash__ = object.__hash__


class Decline(Exception):  # noqa: N818 - not an error: a kernel bows out
    """Raised by a kernel, before it does any work, to say that it can't take this call.

    Automatic selection then tries the next candidate and records the reason. With ``backend=``,
    :func:`ctcx.use_backend` or ``CTCX_BACKEND`` it becomes an error. ``NotImplementedError`` is
    not a way to decline: it is a bug, and propagates.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """The static facts of one call: all that selection may look at. Hashable; holds no values.

    Attributes
    ----------
    operation
        ``"loss"``, ``"loss_and_grad"``, ``"align"``, ``"occupancies"``, ``"sample_paths"``,
        ``"greedy"``, ``"beam_search"`` or ``"guided_search"``.
    namespace
        Name of the array library: ``"numpy"``, ``"cupy"``, ``"torch"``, ``"jax.numpy"``, ...
    device
        The device as the library names it: ``"cpu"``, ``"cuda:0"``, ... Where there isn't one, as
        while JAX traces and for arrays spread over several, ``"cpu"`` if JAX has no other kind of
        device, else ``"unknown"``.
    dtype
        Of the logits: ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``.
    N, T, C, S
        Sequences, frames, classes (blank included) and width of the label array, 0 for operations
        without labels. None for one that
        is undecided while JAX traces, under ``jax.export`` with symbolic shapes: such a problem is
        the core's alone, and no plugin is asked about it.
    blank
        Index of the blank class, in ``range(C)``.
    traced
        Whether values can't be read because the library is tracing (``jax.jit``).
    contiguous
        Whether the logits, seen as (N, T, C), are contiguous in row-major order; True where a
        library has no such notion.
    lazy
        Whether the arrays hold no values yet and a backend may take the call whole
        (:attr:`Feature.LAZY`).
    """

    operation: str
    namespace: str
    device: str
    dtype: str
    N: int
    T: int
    C: int
    S: int
    blank: int
    traced: bool = False
    contiguous: bool = True
    lazy: bool = False


def _accept_all(problem: Problem) -> str | None:  # noqa: ARG001 - the signature is the protocol
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One kernel family that computes CTC, as its plugin describes it.

    A kernel is a function ::

        kernel(logits, labels, logit_lengths, label_lengths, *, blank) -> loss
        kernel(logits, labels, logit_lengths, label_lengths, *, blank) -> (loss, grad)

    or, for the operations ``align``, ``occupancies``, ``sample_paths``, ``greedy``,
    ``beam_search`` and ``guided_search``, which are optional, ::

        kernel(logits, labels, logit_lengths, label_lengths, *, blank, extra, ends) -> (states,
        log_probs)
        kernel(logits, labels, logit_lengths, label_lengths, *, blank, states) -> (loss, classes[,
        states])
        kernel(logits, labels, logit_lengths, label_lengths, *, blank, uniforms) -> states
        kernel(logits, logit_lengths, *, blank) -> (classes, log_probs)
        kernel(logits, logit_lengths, *, blank, width, top, max_classes) -> (labels, log_probs)
        kernel(logits, logit_lengths, *, blank, width, max_classes, entries, phrases, model,
        model_weight, label_bonus) -> (labels, ends_blank, ends_label, bonus, final_bonus)

    It gets arrays of one library, on one device:

    * ``logits`` (N, T, C), unnormalised, in one of the backend's ``dtypes``; contiguous unless it
      declares :attr:`Feature.NONCONTIGUOUS`;
    * ``labels`` (N, S), ``logit_lengths`` (N,) and ``label_lengths`` (N,), each in int32 or int64,
      not necessarily the same, and in any strides: as the caller passed them;
    * ``blank``, an ``int`` in ``range(C)``;
    * ``extra`` (N, T, W) or None: more columns like the logits, not normalised, float32 (float64
      for float64 logits), which labels may name as classes C to C + W - 1 and which are not part of
      the softmax;
    * ``ends``, two ``int`` in ``range(C + W)``: the columns of the blanks before the first and
      after the last label, ``(blank, blank)`` unless the caller asks for free ends. Without labels
      the first counts;
    * ``states``, a ``bool``: whether occupancies of states are wanted;
    * ``uniforms`` (N, K, T), numbers from 0 up to, but not including, 1 in float32 or float64, in
      any strides;
    * ``width`` and ``top``, ``int`` of at least 1, ``top`` at most ``width``; ``max_classes``, an
      ``int`` of at least 1 or None;
    * ``entries``, the first four results of the frames so far, with L labels; ``phrases``, a tuple
      of (labels, weight); ``model``, a :class:`ctcx.NGram` or None; ``model_weight``, a ``float``
      of at least 0, and ``label_bonus``, one of any sign.

    Entries past a length may be anything: NaN in logits, any integer in labels. All other values
    have been checked, except with :attr:`Feature.CHECKS_VALUES`, and where the caller passes
    ``validate=False`` or the library traces. For unchecked values a kernel neither reads nor writes
    out of bounds; a sequence with a NaN or +inf logit in its frames gets a loss of NaN and a
    gradient of NaN in its frames, whether or not it is feasible, and other sequences are right. An
    alignment marks it, and one with a length or label out of range, by states of -1 and
    ``log_probs`` of NaN in all T frames, and so does ``greedy`` by classes of -1;
    ``beam_search`` by labels of -1 and ``log_probs`` of NaN, and ``guided_search`` by labels of -1
    and NaN in all else. Occupancies mark it by a loss of NaN,
    sampled paths by states of -1.

    It returns, in the same library and on the same device,

    * ``loss`` (N,): the negative log likelihood in nats, never negative, in float32 (float64 for
      float64 logits); +inf where no path emits the labels, and where it is above 1.8e8, in every
      dtype;
    * ``grad`` (N, T, C), in a tuple after the loss: d loss[n] / d logits, in their dtype, exactly 0
      past a sequence's length and for a sequence whose loss is +inf;
    * ``states`` (N, T) int32: of the path with the largest sum of logits, 2j in the blank before
      label j and 2j + 1 in label j; -1 past a sequence's length, and everywhere where no path emits
      the labels. Of equal sums, staying in a state comes before coming from the state before, and
      that before two states before; the last label comes before the blank after it. What is
      rounded loses at most 0.001 nats;
    * ``log_probs`` (N, T): the column of each frame's state less the logarithm of the sum of the
      frame's C exponentials, float32 (float64 for float64 logits); 0 where ``states`` is -1;
    * ``classes`` (N, T, C) and, if ``states`` is True, ``states`` (N, T, 2S+1), in a tuple after
      the loss: the probability, given the labels, of each class and of each state at each frame,
      float32 (float64 for float64 logits); exactly 0 past a sequence's length and for a sequence
      whose loss is +inf;
    * ``states`` (N, K, T) int32, of ``sample_paths``: K paths of each sequence, as
      :func:`ctcx.ctc_sample_paths` says which; -1 as for an alignment.

    ``greedy`` returns ``classes`` (N, T) int32: the class of the largest logit of each frame, the
    lowest of equal ones; -1 past a sequence's length, and in a frame whose logits are all -inf. Its
    ``log_probs`` (N, T) are those of the classes; 0 past a length, -inf in such a frame.

    ``beam_search`` returns ``labels`` (N, top, T) int32, padded on the right with -1, of the
    ``top`` best entries after the last frame, the most probable first; and ``log_probs`` (N, top),
    float32 (float64 for float64 logits): the logarithms of the probabilities that the beam has
    gathered for them, -inf where there are fewer entries. A prefix is one entry, with b, the
    probability of its paths that end in the blank, and l, of those that end in its last label. In a
    frame of probabilities p an entry stays, with ``b' = (b + l) p[blank]`` and ``l' = l p[last]``,
    to which its parent adds what it would make of itself if it is in the beam; and each label c
    makes a new one with ``l' = (b if c == last else b + l) p[c]`` unless it is in the beam. With
    ``max_classes`` only that many most probable labels of the frame, the lower of equal ones, make
    new ones. The ``width`` most probable are kept, none of probability 0, in the order that
    :func:`ctcx.ctc_beam_search` states. No entry vanishes for being far less probable than others.

    ``guided_search`` gets arrays of NumPy in float32 or float64, whatever the caller's library,
    so that it is for backends that take those. It adds frames to beams, as ``beam_search`` does to
    those of the empty prefix, and orders and keeps entries by a score: the logarithm of their
    probability plus their bonus. It returns ``labels`` (N, W, L + T) int32 of the W = ``width``
    entries, the best score first, padded with -1; and in float64 (N, W) ``ends_blank`` and
    ``ends_label``, the logarithms of b and l, both -inf where there is no entry; the ``bonus``, 0
    there; and ``final_bonus``, which it would have if no frame followed. The bonus of labels is the
    sum of ``label_bonus`` for each, ``model_weight`` times the logarithm of each one's probability
    by ``model``, to which ``final_bonus`` adds that of the end; and for each label the largest
    weight of the ``phrases`` that it stands in, whole ones, and for ``bonus`` also those that the
    last labels begin. Without a kernel for it, or with a language model written in Python, the core
    searches.

    With :attr:`Feature.WEIGHTS`, ``loss_and_grad`` may get ``weights``, one more argument by name,
    (N,) in the dtype of the losses, positive and finite: ``grad`` is then weights[n] d loss[n] /
    d logits, and 0 or NaN where it would be without them; ``loss`` stays as it is. A kernel for
    half precision multiplies before it rounds, if it can. So the mean over a batch costs no pass
    over its gradient. For kernels without the feature, ctcx multiplies.

    With :attr:`Feature.LAZY`, for libraries such as dask.array, a kernel gets the arguments of the
    public function by name, all of them but ``backend``, and returns what that returns. Types,
    dtypes, shapes and libraries have been checked, values and other options haven't. The number of
    sequences may be unknown (NaN), lists have become arrays of NumPy, lengths that weren't given
    are None, and ``blank`` is in ``range(C)``. ``backends`` are the names that the caller asked for
    beside this one, None if there was no asking: pass them to :func:`ctcx.plugin.nested_call`
    around the calls that the kernel makes.

    All are new: nothing else refers to them, and ctcx may write into them.

    A *shortcut* is for small batches, of which checks and selection take longer than the kernel. It
    gets the arguments of a call before ctcx has looked at them, and checks them itself ::

        shortcut(logits, labels, logit_lengths, label_lengths, blank) -> loss or None
        shortcut(logits, labels, logit_lengths, label_lengths, blank) -> (loss, grad) or None

    with ``weights`` by name as for the kernel, if it has :attr:`Feature.WEIGHTS`. The arrays are
    NumPy's own, of no subclass, or plain tensors of PyTorch in the host's memory, of which the
    logits may require a gradient that the results don't. Logits have three axes and labels two;
    each of the lengths may be None. Nothing else has been checked: neither dtypes nor sizes nor
    values nor ``blank``, which may be any object. It returns what the kernel would; or None, having
    changed nothing, if anything is unusual or wrong: another dtype, sizes that don't fit, a label
    out of range, NaN among the logits of a sequence, no frames. Then ctcx goes the usual way, as it
    does for ``validate=False``, and if it raises :class:`ctcx.plugin.Decline`. Its results are
    looked at like a kernel's. ctcx calls it without asking ``accepts``, where no backend that goes
    first has a kernel for such arrays.

    All are looked at: a wrong library, device, shape or dtype, and where values are checked a loss
    of NaN or below 0, or states that are no path of the labels, is a
    :class:`ctcx.KernelError`. A kernel never writes to its inputs. Reductions, the policy for
    infeasible sequences, layouts and checks of the input belong to ctcx, so that backends agree.

    Attributes
    ----------
    name
        What users type in ``backend=``; lower-case letters, digits, ``-`` and ``_``.
    kernels
        ``{operation: "package.module:function"}``; imported on first use.
    namespaces
        Names of the array libraries it takes; ``{"*"}`` for code that needs the array API only.
    devices
        Kinds of device, as they stand before the colon (``"cpu"``, ``"cuda"``), or ``{"*"}``.
    dtypes
        Of the logits. Half precision goes with :attr:`Feature.HALF`.
    features
        See :class:`Feature`.
    priority
        In automatic selection the highest goes first; ties are broken by name.
    opt_in
        True (the default): never chosen automatically, so that installing a package changes
        no results. First-party backends earn False by passing the whole conformance kit.
    shortcuts
        ``{operation: "package.module:function"}`` for ``loss`` and ``loss_and_grad``, of which
        there is a kernel, too; see above.
    probe
        Called once, when first needed: None if usable on this machine, else why not.
    accepts
        Called with a :class:`Problem`: None if it can be taken, else why not. Cheap and pure.
    api
        The plugin API it was written for. Another major version, or a later minor one than
        :data:`ctcx.plugin.API_VERSION`, is refused; an earlier minor one is fine.
    summary, url
        For people: one line, and where to read more.

    Raises
    ------
    TypeError, ValueError
        A field of the wrong type or an impossible combination, with its name and value.
    """

    name: str
    kernels: Mapping[str, str]
    namespaces: AbstractSet[str]
    devices: AbstractSet[str] = frozenset({"cpu"})
    dtypes: AbstractSet[str] = frozenset({"float32", "float64"})
    features: AbstractSet[Feature] = frozenset()
    priority: int = 0
    opt_in: bool = True
    shortcuts: Mapping[str, str] = field(default_factory=dict)
    probe: Callable[[], str | None] = always_usable
    accepts: Callable[[Problem], str | None] = _accept_all
    api: tuple[int, int] = (2, 0)
    summary: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        check_name("Backend", self.name)
        where = f"Backend {self.name!r}"
        _check_kernels(where, self)
        _check_shortcuts(where, self)
        for attribute in ("namespaces", "devices", "dtypes"):
            check_names(where, self, attribute)
        _check_features(where, self)
        for attribute in ("priority", "opt_in"):
            check_type(where, self, attribute, int if attribute == "priority" else bool)
        for attribute in ("probe", "accepts"):
            check_callable(where, self, attribute)
        check_api(where, self.api)
        for attribute in ("summary", "url"):
            check_line(where, self, attribute)


def _check_kernels(where: str, backend: Backend) -> None:
    given: object = backend.kernels
    if not isinstance(given, Mapping):
        msg = f"{where}: kernels must map operations to functions, got {shown(given)}"
        raise TypeError(msg)
    kernels = dict(given)
    if unknown := [key for key in kernels if key not in OPERATIONS]:
        known = ", ".join(OPERATIONS)
        msg = f"{where}: kernels has unknown operations {shown(unknown)}; known: {known}"
        raise ValueError(msg)
    if not kernels:
        msg = f"{where}: kernels is empty; give at least {{'loss': 'package.module:function'}}"
        raise ValueError(msg)
    for operation, target in kernels.items():
        check_target(f"{where}: kernels[{operation!r}]", target)
    object.__setattr__(backend, "kernels", kernels)


def _check_shortcuts(where: str, backend: Backend) -> None:
    given: object = backend.shortcuts
    if not isinstance(given, Mapping):
        msg = f"{where}: shortcuts must map operations to functions, got {shown(given)}"
        raise TypeError(msg)
    shortcuts = dict(given)
    possible = [name for name in ("loss", "loss_and_grad") if name in backend.kernels]
    for operation, target in shortcuts.items():
        if operation not in possible:
            known = ", ".join(possible) or "none"
            msg = (
                f"{where}: shortcuts has {shown(operation)}; there can be one for loss and "
                f"loss_and_grad if there is a kernel, here: {known}"
            )
            raise ValueError(msg)
        check_target(f"{where}: shortcuts[{operation!r}]", target)
    object.__setattr__(backend, "shortcuts", shortcuts)


def _check_features(where: str, backend: Backend) -> None:
    features = freeze(where, backend, "features")
    if bad := [feature for feature in features if not isinstance(feature, Feature)]:
        msg = f"{where}: features must be members of ctcx.plugin.Feature, got {shown(bad)}"
        raise TypeError(msg)
    if bool(backend.dtypes & HALF_DTYPES) != (Feature.HALF in features):
        msg = f"{where}: Feature.HALF and the dtypes {sorted(HALF_DTYPES)} go together"
        raise ValueError(msg)
    if Feature.LAZY in features and "*" in backend.namespaces:
        msg = f"{where}: Feature.LAZY needs the names of its namespaces, got '*'"
        raise ValueError(msg)
    for name, operation in OPERATIONS.items():
        if operation.feature is None:
            continue
        if (name in backend.kernels) != (Feature[operation.feature] in features):
            msg = f"{where}: Feature.{operation.feature} and a {name} kernel go together"
            raise ValueError(msg)
