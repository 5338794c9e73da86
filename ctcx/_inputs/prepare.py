"""From what callers pass to what kernels get: shapes, dtypes, libraries and devices; no values.

Everything here looks at static facts only, so it works under jit and costs no synchronisation.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat
import numpy as np

from ctcx._arrays.facts import (
    ArrayFacts,
    any_traced,
    describe,
    device_name,
    device_of,
    has_float64,
    index_dtype,
    is_array,
    is_contiguous,
    is_elsewhere,
    is_known_of,
    is_numpy,
    is_undecided,
    kernel_integers,
    library_name,
    namespace_of,
)
from ctcx._arrays.tensor_forms import (
    META,
    SUBCLASS,
    form_of,
    form_of_modes,
    forms_as_seen,
    forms_of,
)
from ctcx._bounded import remember
from ctcx._errors import CTCInputError
from ctcx._inputs.host_data import (
    check_integer_dtype,
    check_sizes,
    host_lengths,
    is_list,
    plain,
    type_name,
    what_to_pass,
)
from ctcx._inputs.labels import from_lists, resolve_blank
from ctcx._typing import DTYPES

if TYPE_CHECKING:
    from ctcx._typing import Array

__all__ = [
    "KernelInputs",
    "check_frames",
    "check_library",
    "of_arrays",
    "prepare",
    "prepare_logits",
    "rebind",
]


class KernelInputs(NamedTuple):
    """A call's arrays in the form that kernels get, and what else is known about them.

    Attributes
    ----------
    logits, labels, logit_lengths, label_lengths
        (N, T, C), (N, S), (N,), (N,): one library, one device; integers in int32 or int64 each.
    blank
        In ``range(C)``.
    facts
        About ``logits``.
    single
        Whether the caller passed one sequence, without a batch axis.
    full_frames, full_labels
        Whether every sequence is known to use all frames, or labels, as no lengths were given.
    host_labels, host_logit_lengths, host_label_lengths
        The same as NumPy arrays where the caller passed host data, else None. Checks of values read
        these, so that nothing has to come back from the device.
    plans
        What is remembered of calls of this form (:mod:`ctcx._dispatch.plan`), which differ in
        values only; None where nothing is.
    """

    logits: Array
    labels: Array
    logit_lengths: Array
    label_lengths: Array
    blank: int
    facts: ArrayFacts
    single: bool
    full_frames: bool
    full_labels: bool
    host_labels: Any
    host_logit_lengths: Any
    host_label_lengths: Any
    plans: dict[Any, Any] | None = None


def prepare(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    *,
    time_major: bool,
) -> KernelInputs:
    """Check what can be checked without values, and bring arrays into the kernels' form.

    Raises
    ------
    CTCInputError
        A wrong type, dtype or shape, another library or device than that of the logits.
    """
    arrays = logits, labels, logit_lengths, label_lengths
    known = _prepare_plain(arrays, blank, time_major)
    return known or _prepare_any(*arrays, blank, time_major=time_major)


def prepare_logits(
    logits: Any, logit_lengths: Any, blank: int, *, time_major: bool
) -> KernelInputs:
    """Do the same for an operation without labels: each sequence has none of them.

    Raises
    ------
    CTCInputError
        As :func:`prepare`.
    """
    labels: Any = None
    logits = plain("logits", logits)
    if getattr(logits, "is_nested", False):  # and has no shape
        describe(logits, "logits")
    if is_array(logits) and logits.ndim in (2, 3):  # else it is refused
        check_sizes("logits", logits)
        shape = (0,) if logits.ndim == 2 else (logits.shape[1 if time_major else 0], 0)
        xp = namespace_of(logits)
        # Made where the logits are: in a CUDA graph nothing can be copied from the host.
        labels = xp.zeros(shape, dtype=xp.int32, device=device_of(logits))
    return prepare(logits, labels, logit_lengths, None, blank, time_major=time_major)


def _prepare_any(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    *,
    time_major: bool,
) -> KernelInputs:
    """Do so for whatever a caller passes."""
    logits = plain("logits", logits)
    facts = check_frames("logits", logits)
    xp = facts.xp
    single = logits.ndim == 2
    if single:
        logits = logits[None, ...]
    elif time_major:
        logits = xp.permute_dims(logits, (1, 0, 2))
        facts = facts._replace(contiguous=facts.contiguous and 1 in logits.shape[:2])
    count, frames, classes = logits.shape
    if classes == 0:
        msg = "logits have 0 classes (last axis): expected at least the blank"
        raise CTCInputError(msg, argument="logits")
    blank = resolve_blank(blank, classes)
    device = device_of(logits, traced=facts.traced)
    dtype = index_dtype(xp, device)

    if facts.namespace == "torch":
        facts, logits, labels, logit_lengths, label_lengths = _plain_tensors(
            facts, logits, labels, logit_lengths, label_lengths
        )
    labels, own_lengths = _labels_as_array(plain("labels", labels), single=single)
    labels = _check_labels(labels, logits, facts, single=single, time_major=time_major)
    if label_lengths is None:
        label_lengths = own_lengths

    def lengths(argument: str, given: Any, limit: int) -> tuple[Array, Any]:
        # On CuPy no copy from the host (cuda_graphs.py). Of tensors, sizes may be symbols.
        if given is None and (facts.namespace in {"cupy", "torch"} or is_undecided(count, limit)):
            return xp.full((count,), limit, dtype=dtype, device=device), None
        if given is None:
            return _upload(np.full((count,), limit), facts, dtype, device), None
        given = plain(argument, given)
        given = _check_lengths(argument, given, logits, facts, single=single)
        return _upload(given, facts, dtype, device), _host(given)

    uploaded_labels = _upload(labels, facts, dtype, device)
    uploaded_logit_lengths, host_logit_lengths = lengths("logit_lengths", logit_lengths, frames)
    uploaded_label_lengths, host_label_lengths = lengths(
        "label_lengths", label_lengths, labels.shape[1]
    )
    _check_own_lengths(own_lengths, host_label_lengths, labels.shape[1])
    integers = (uploaded_labels, uploaded_logit_lengths, uploaded_label_lengths)
    if facts.namespace != "torch" and any_traced(*integers):
        facts = facts._replace(traced=True)
    return KernelInputs(
        logits,
        uploaded_labels,
        uploaded_logit_lengths,
        uploaded_label_lengths,
        blank,
        facts,
        single,
        logit_lengths is None,
        label_lengths is None,
        _host(labels),
        host_logit_lengths,
        host_label_lengths,
    )


class _PlainForm(NamedTuple):
    """What all calls of one form have in common, where the arrays need no conversion."""

    blank: int
    facts: ArrayFacts
    every_frame: bool
    every_label: bool
    plans: dict[Any, Any]


_forms: dict[tuple[Any, ...], _PlainForm] = {}
_MOST_FORMS = 1024


def _prepare_plain(
    arrays: tuple[Any, Any, Any, Any],
    blank: Any,
    time_major: bool,  # noqa: FBT001 - named arguments take longer
) -> KernelInputs | None:
    """Prepare at once what training loops pass: a batch of arrays that need no conversion.

    They are NumPy's own, or PyTorch's plain tensors. None for all else, right or wrong: the general
    way asks its questions one by one, and has the words for what is wrong.
    """
    if type(blank) is not int or (seen := _form_as_seen(arrays)) is None:
        return None
    key = (*seen, blank, time_major)
    form = _forms.get(key)
    if form is None:
        form = _plain_form(*arrays, blank, time_major=time_major)
        if form is None:
            return None
        remember(_forms, key, form, most=_MOST_FORMS)
    facts = form.facts
    logits, labels, logit_lengths, label_lengths = arrays
    if time_major:
        logits = facts.xp.permute_dims(logits, (1, 0, 2))
    if form.every_frame:
        logit_lengths = _all_of(logits, logits.shape[1], facts)
    if form.every_label:
        label_lengths = _all_of(logits, labels.shape[1], facts)
    on_host = facts.namespace == "numpy"
    fields = (
        logits,
        labels,
        logit_lengths,
        label_lengths,
        form.blank,
        facts,
        False,
        form.every_frame,
        form.every_label,
        labels if on_host else None,
        logit_lengths if on_host and not form.every_frame else None,
        label_lengths if on_host and not form.every_label else None,
        form.plans,
    )
    return KernelInputs._make(fields)  # one by one, so many arguments take twice as long


def _form_as_seen(arrays: tuple[Any, ...]) -> list[Any] | None:
    """Return the dtypes, shapes, layouts and devices of a call's arrays: what its form is known by.

    None if an array is neither NumPy's own nor a plain tensor in memory of its own.
    """
    kind = type(arrays[0])
    if kind is np.ndarray:
        seen: list[Any] = []
        for array in arrays:
            if type(array) is kind:
                seen += (array.dtype, array.shape, array.flags.num)
            elif array is None:
                seen.append(None)
            else:
                return None
        return seen
    torch = sys.modules.get("torch")
    if torch is None or kind is not torch.Tensor or form_of_modes():
        return None
    return forms_as_seen(arrays)


def _all_of(logits: Array, size: int, facts: ArrayFacts) -> Array:
    """Give the same length to each sequence."""
    xp = facts.xp
    return xp.full((logits.shape[0],), size, dtype=xp.int64, device=device_of(logits))


def _plain_form(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    blank: int,
    *,
    time_major: bool,
) -> _PlainForm | None:
    """Examine a call of a form not seen before; None if the arrays need conversion or are wrong."""
    facts = _plain_facts(logits, labels, logit_lengths, label_lengths)
    if facts is None or logits.ndim != 3 or labels.ndim != 2:
        return None
    count, frames, classes = logits.shape
    if time_major:
        count, frames = frames, count
        facts = facts._replace(contiguous=facts.contiguous and 1 in (count, frames))
    every_frame, every_label = logit_lengths is None, label_lengths is None
    if (
        not -classes <= blank < classes
        or labels.shape[0] != count
        or not (every_frame or logit_lengths.shape == (count,))
        or not (every_label or label_lengths.shape == (count,))
    ):
        return None
    return _PlainForm(blank % classes, facts, every_frame, every_label, {})


def _plain_facts(logits: Any, *integers: Any) -> ArrayFacts | None:
    """Facts about logits, if kernels can have them and the other arrays as they are."""
    kind = type(logits)
    is_tensor = kind is not np.ndarray
    facts = describe(logits, "logits")
    if facts.form or facts.dtype not in DTYPES or not (is_tensor or logits.flags.aligned):
        return None
    dtypes = kernel_integers(facts.xp)
    for argument, array in zip(_INTEGERS, integers, strict=True):
        if array is None and argument != "labels":
            continue
        if type(array) is not kind or array.dtype not in dtypes:
            return None
        if is_tensor:
            if array.device != logits.device or form_of(argument, array):
                return None
        elif not array.flags.aligned:
            return None
    return facts


_INTEGERS = ("labels", "logit_lengths", "label_lengths")


def of_arrays(prepared: KernelInputs, *arrays: Any) -> KernelInputs:
    """Put other arrays in the place of the first ones, of which all that is known holds, too."""
    return KernelInputs._make(arrays + prepared[len(arrays) :])  # _replace takes twice as long


def rebind(
    prepared: KernelInputs, logits: Array, labels: Array, logit_lengths: Array, label_lengths: Array
) -> KernelInputs:
    """Put other arrays in the place of those of a call: what a tracer stood for, or more sequences.

    The dtypes and all sizes but the number of sequences must be the same.
    """
    arrays = (logits, labels, logit_lengths, label_lengths)
    form = forms_of(*arrays) if prepared.facts.namespace == "torch" else 0
    facts = prepared.facts._replace(
        traced=any_traced(*arrays),
        device=device_name(logits),
        contiguous=is_contiguous(logits),
        form=form,
    )
    host = (prepared.host_labels, prepared.host_logit_lengths, prepared.host_label_lengths)
    if any(h is not None and h.shape[0] != logits.shape[0] for h in host):
        host = (None, None, None)
    return KernelInputs(*arrays, prepared.blank, facts, *prepared[6:9], *host)


def _plain_tensors(
    facts: ArrayFacts, logits: Any, labels: Any, logit_lengths: Any, label_lengths: Any
) -> tuple[Any, ...]:
    """Add the forms of labels and lengths to the facts of logits of PyTorch.

    Where tensors are of a subclass, operations would give results of that class; they are replaced.
    """
    arrays = (logits, labels, logit_lengths, label_lengths)
    tensor = sys.modules["torch"].Tensor
    form = facts.form
    if isinstance(labels, tensor):
        form |= form_of("labels", labels)
    if isinstance(logit_lengths, tensor):
        form |= form_of("logit_lengths", logit_lengths)
    if isinstance(label_lengths, tensor):
        form |= form_of("label_lengths", label_lengths)
    if form == 0:
        return facts, *arrays
    if form != facts.form:
        facts = facts._replace(form=form, traced=bool(form & META))
    if form & SUBCLASS:
        arrays = tuple(
            array.as_subclass(tensor) if isinstance(array, tensor) else array for array in arrays
        )
    return facts, *arrays


def check_frames(argument: str, array: Any, last: str = "C") -> ArrayFacts:
    """Check the array that library and device come from, and what an axis ``last`` stands behind.

    Raises
    ------
    CTCInputError
        A wrong type, dtype or shape.
    """
    if not is_array(array):
        msg = (
            f"{argument} must be an array of NumPy, CuPy, PyTorch, JAX or another library of the "
            f"array API standard, got {type_name(array)}{what_to_pass(array, or_list=False)}; it "
            f"decides where ctcx computes"
        )
        raise CTCInputError(msg, argument=argument)
    facts = describe(array, argument)
    if array.ndim not in (2, 3):
        msg = (
            f"{argument} must have shape (N, T, {last}), (T, N, {last}) with time_major=True, or "
            f"(T, {last}) for one sequence; got {tuple(array.shape)}"
        )
        raise CTCInputError(msg, argument=argument)
    check_sizes(argument, array)
    if facts.dtype not in DTYPES:
        msg = f"{argument} must have one of the dtypes {', '.join(DTYPES)}; got {facts.dtype}"
        if is_numpy(array) and not array.dtype.isnative:
            swapped = f"{argument}.astype({argument}.dtype.newbyteorder('='))"
            msg += f", of another byte order: pass {swapped}"
        raise CTCInputError(msg, argument=argument)
    if facts.dtype == "float64" and facts.namespace == "jax.numpy":
        _require_float64(argument, facts)
    return facts


def _require_float64(argument: str, facts: ArrayFacts) -> None:
    """Refuse float64 where JAX computes in float32 on it, without a word."""
    if not has_float64(facts.xp, None):
        msg = (
            f"{argument} are float64, but JAX's 64-bit mode is off: call ctcx where "
            f"jax_enable_x64 is on, or pass {argument}.astype('float32')"
        )
        raise CTCInputError(msg, argument=argument)


def _labels_as_array(labels: Any, *, single: bool) -> tuple[Any, Any]:
    """Turn lists into NumPy arrays: labels, and the lengths of the lists (None for an array)."""
    if is_array(labels):
        return labels, None
    if not is_list(labels):
        msg = (
            f"labels must be an array of integers or a list of lists, got {type_name(labels)}"
            f"{what_to_pass(labels)}"
        )
        raise CTCInputError(msg, argument="labels")
    if single and any(map(is_list, labels)):
        msg = (
            "labels must be one list of classes, since the logits are of one sequence, (T, C); got "
            "a list of lists: pass its one list, or logits[None, ...]"
        )
        raise CTCInputError(msg, argument="labels")
    padded, lengths = from_lists([labels] if single else labels)
    return (padded[0], int(lengths[0])) if single else (padded, lengths)


def _check_labels(
    labels: Any, logits: Array, facts: ArrayFacts, *, single: bool, time_major: bool
) -> Any:
    if not _is_at_home(labels, facts):
        check_integer_dtype("labels", labels)
        _check_home("labels", labels, facts)
    check_sizes("labels", labels)
    if labels.ndim != (1 if single else 2) or (not single and labels.shape[0] != logits.shape[0]):
        expected = "(S,) for one sequence" if single else f"({logits.shape[0]}, S)"
        form = "(T, C)" if single else "(T, N, C)" if time_major else "(N, T, C)"
        shape = tuple(logits.shape)
        shape = shape[1:] if single else (shape[1], shape[0], shape[2]) if time_major else shape
        hint = ""
        if labels.ndim == 3:
            hint = "; for one-hot labels call ctcx.labels_from_one_hot first"
        elif labels.ndim == 2 and not single and labels.shape[0] == logits.shape[1]:
            other = "without time_major=True" if time_major else "with time_major=True"
            hint = f"; they would fit {other}"
        elif labels.ndim == 1 and not single and facts.namespace == "torch":
            hint = "; labels of all sequences in one axis are for ctcx.compat.torch.ctc_loss"
        msg = (
            f"labels must have shape {expected}, to go with logits {form} of shape {shape}; "
            f"got {tuple(labels.shape)}{hint}"
        )
        raise CTCInputError(msg, argument="labels")
    return labels[None, :] if single else labels


def _check_lengths(
    argument: str, given: Any, logits: Array, facts: ArrayFacts, *, single: bool
) -> Any:
    if _is_at_home(given, facts) and given.shape == logits.shape[:1]:
        return given
    if not is_array(given):
        given = host_lengths(argument, given)
    check_integer_dtype(argument, given)
    _check_home(argument, given, facts)
    if single and given.ndim == 0:
        given = given[None] if not is_numpy(given) else given.reshape(1)
    if tuple(given.shape) != (logits.shape[0],):
        expected = "an int or (1,)" if single else f"({logits.shape[0]},), one for each sequence"
        msg = f"{argument} must have shape {expected}; got {tuple(given.shape)}"
        raise CTCInputError(msg, argument=argument)
    return given


def _check_own_lengths(own: Any, lengths: Any, longest: int) -> None:
    """Refuse lengths beyond the ends of lists, where the padding would be taken for labels."""
    if own is None or lengths is None:
        return
    beyond = (lengths > own) & (lengths <= longest)  # others are refused with all values
    if beyond.any():
        sequence = int(beyond.argmax())
        length, held = int(lengths[sequence]), int(np.ravel(own)[sequence])
        msg = (
            f"label_lengths[{sequence}] is {length}, but the list labels[{sequence}] holds {held}: "
            f"expected 0 to {held}, or no label_lengths at all"
        )
        raise CTCInputError(msg, argument="label_lengths", sequence=sequence, value=length)


def _is_at_home(array: Any, facts: ArrayFacts) -> bool:
    """Whether it is of a dtype and where the kernels get it, so that no check is needed.

    Asked first, since in a training loop it is so each time, and each check costs microseconds.
    """
    return (
        is_known_of(array, facts.xp)
        and array.dtype in kernel_integers(facts.xp)
        and (
            is_numpy(array)
            or (device := device_name(array)) == facts.device
            or not is_elsewhere(device, facts.device)
        )
    )


def _check_home(argument: str, array: Any, facts: ArrayFacts) -> None:
    """Host data goes along with any library; anything else must live where the logits live."""
    if is_numpy(array):
        return
    check_library(argument, array, facts)
    device = device_name(array)
    if is_elsewhere(device, facts.device):
        msg = (
            f"{argument} is on device {device}, but the logits are on {facts.device}: move it "
            f"there, or pass a NumPy array or a list"
        )
        raise CTCInputError(msg, argument=argument)


def check_library(argument: str, array: Any, facts: ArrayFacts) -> None:
    """Refuse arrays of other libraries than that of the logits."""
    library = library_name(array)
    if library != facts.namespace:
        msg = (
            f"{argument} is an array of {library}, but the logits are of {facts.namespace}: pass "
            f"the same library, a NumPy array or a list (ctcx converts nothing else by itself)"
        )
        raise CTCInputError(msg, argument=argument)


def _host(array: Any) -> Any:
    return array if is_numpy(array) else None


def _upload(array: Any, facts: ArrayFacts, dtype: Any, device: Any) -> Array:
    """To the library and device of the logits; one transfer at most.

    int32 and int64 of the library stay as they are, if it indexes with both; all else becomes its
    index dtype.
    """
    xp = facts.xp
    if is_numpy(array):
        if array_api_compat.is_numpy_namespace(xp):
            return array if array.dtype in kernel_integers(xp) else array.astype(dtype)
        if (
            array.dtype.byteorder == ">"
            or array.dtype.kind == "u"
            or any(stride < 0 for stride in array.strides)
        ):
            array = np.ascontiguousarray(array.astype(np.int64))
        array = _narrowed(array, dtype)
        if facts.namespace == "torch":  # a backward may read it after the caller has changed it
            array = array.copy()
        if facts.namespace == "jax.numpy" and not facts.traced:
            from ctcx._arrays.jax import uploaded

            return uploaded(array, device)
        return xp.asarray(array, dtype=dtype, device=device)
    return array if array.dtype in kernel_integers(xp) else xp.astype(array, dtype)


def _narrowed(array: Any, dtype: Any) -> Any:
    """Host integers as int32 where the device has no wider ones; past lengths may stand junk."""
    if "32" in str(dtype):
        limits = np.iinfo(np.int32)
        return np.clip(array, limits.min, limits.max).astype(np.int32)
    return array
