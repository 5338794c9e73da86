"""Facts about tensors of PyTorch that decide how a kernel may be called; torch is not imported.

A tensor whose elements lie in memory of its own, as its strides say, is *plain*: its address may be
taken, and any kernel can be called with it. All others are left to PyTorch's dispatcher
(:mod:`ctcx._autodiff.torch_custom_ops`), which knows what to do: it computes tensors of zeros and
lazy negatives, unwraps and wraps functional tensors and subclasses, records operators for a tracer,
or calls no kernel at all, as for fake tensors. Which a tensor is, its set of dispatch keys says.
"""

from __future__ import annotations

import inspect
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import numpy as np

from ctcx._errors import CTCError, CTCInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctcx._typing import Array

F = TypeVar("F", bound="Callable[..., Any]")

__all__ = [
    "BATCHED",
    "FUNCTIONAL",
    "META",
    "OPAQUE",
    "SUBCLASS",
    "TRANSFORMED",
    "UNREADABLE",
    "Form",
    "are_plain",
    "check_held",
    "form_of",
    "form_of_modes",
    "forms_as_seen",
    "forms_of",
    "hidden_from_dynamo",
    "is_plain",
    "is_torch_recording",
    "never_recorded",
]

Form = int
"""Bits about a tensor, or about several together; 0 for plain ones."""

META: Form = 1  # no values, only a shape
OPAQUE: Form = 2  # memory not its own, or not in the form that the strides say; or a mode listens
TRANSFORMED: Form = 4  # wrapped by torch.func: vmap, grad, jvp
FUNCTIONAL: Form = 8  # wrapped by torch.func.functionalize
BATCHED: Form = 32  # wrapped by torch.autograd.functional(vectorize=True), an older vmap
SUBCLASS: Form = 16  # plain, and operations give results of its class
UNREADABLE: Form = META | OPAQUE | TRANSFORMED  # no Python code may ask for a value

# The dispatch keys of plain tensors are a device, and one key each for autograd and autocast on it.
_DEVICES = ("CPU", "CUDA", "HIP", "XPU", "MPS", "HPU", "MTIA", "MAIA", "VE", "IPU", "PrivateUse")
_PREFIXES = ("Autograd", "Autocast")
_HARMLESS = frozenset({"ADInplaceOrView"})
_MORE_BITS = {
    "Meta": META,
    "FuncTorchBatched": TRANSFORMED,
    "FuncTorchGradWrapper": TRANSFORMED,
    "Functionalize": OPAQUE | FUNCTIONAL,
    "Batched": OPAQUE | BATCHED,
}

_forms: dict[int, Form] = {}  # by the set of keys, of which a process sees a few
_on_host: set[int] = set()  # such sets of plain tensors in the host's memory


def form_of(argument: str, tensor: Array) -> Form:
    """Tell the form of one tensor of a call.

    Raises CTCInputError: ctcx doesn't compute on its layout or kind, or its memory was freed.
    """
    torch: Any = sys.modules["torch"]
    form = _forms.get(torch._C._dispatch_keys(tensor).raw_repr())  # noqa: SLF001 - see _form
    if form == 0 and type(tensor) is torch.Tensor:  # the common case, as fast as can be
        if (
            tensor.storage_offset() == 0
            and tensor.is_contiguous()
            and tensor.untyped_storage().nbytes() >= tensor.nbytes
        ) or _lies_in_storage(tensor):
            return 0
        _refuse_freed(argument, tensor)
    form = _form(tensor)
    if form & OPAQUE:
        _require_dense(argument, tensor)
    if (form == 0 or tensor.is_neg()) and not _lies_in_storage(tensor):
        _refuse_freed(argument, tensor)
    if form == 0 and type(tensor) is not torch.Tensor:
        is_default = type(tensor).__torch_function__ is torch._C._disabled_torch_function_impl  # noqa: SLF001
        return 0 if is_default else SUBCLASS  # a Parameter, for example, leaves none
    return form


def forms_as_seen(tensors: tuple[Array | None, ...]) -> list[Any] | None:
    """Return dtype, shape, device and contiguity of each tensor: what a call's form is known by.

    None if a tensor isn't known to be plain, or reaches beyond its storage. Absent ones are None.
    """
    torch: Any = sys.modules["torch"]
    plain, keys_of = torch.Tensor, torch._C._dispatch_keys  # noqa: SLF001 - see _form
    seen: list[Any] = []
    for tensor in tensors:
        if tensor is None:
            seen.append(None)
            continue
        if type(tensor) is not plain or _forms.get(keys_of(tensor).raw_repr()) != 0:
            return None
        contiguous = tensor.is_contiguous()
        if not (
            contiguous
            and tensor.storage_offset() == 0
            and tensor.untyped_storage().nbytes() >= tensor.nbytes
        ) and not _lies_in_storage(tensor):
            return None
        seen += (tensor.dtype, tensor.shape, tensor.device, contiguous)
    return seen


def are_plain(tensors: tuple[Any, ...]) -> bool:
    """Whether all are plain tensors in the host's memory, or None, and nothing listens to calls.

    What could are modes, transformations of torch.func, and forward mode.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return False
    plain, keys_of, on_host = torch.Tensor, torch._C._dispatch_keys, _on_host  # noqa: SLF001 - see _form
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) is not plain:
            return False
        if (number := keys_of(tensor).raw_repr()) not in on_host:
            if _form(tensor) or not tensor.is_cpu:
                return False
            on_host.add(number)
        if not (
            tensor.is_contiguous()
            and tensor.storage_offset() == 0
            and tensor.untyped_storage().nbytes() >= tensor.nbytes
        ) and not _lies_in_storage(tensor):
            return False
    return not (
        form_of_modes()
        or torch._C._are_functorch_transforms_active()  # noqa: SLF001 - there is no public way
        or torch.autograd.forward_ad._current_level >= 0  # noqa: SLF001
    )


def forms_of(*tensors: Array) -> Form:
    """Tell the forms of several tensors together, whose layouts were looked at before."""
    form = form_of_modes()
    for tensor in tensors:
        form |= _form(tensor)
    return form


def form_of_modes() -> Form:
    """Give what holds for all tensors: a dispatch mode sees each operator that runs.

    Such are the modes of fake tensors and of ``make_fx``.
    """
    return OPAQUE if sys.modules["torch"]._C._len_torch_dispatch_stack() > 0 else 0  # noqa: SLF001


def check_held(*tensors: Array) -> None:
    """Refuse tensors whose storage was freed or made smaller since they were looked at.

    Raises CTCError: one doesn't reach to the last element any more.
    """
    for tensor in tensors:
        if _form(tensor) == 0 and not _lies_in_storage(tensor):
            msg = (
                f"a tensor of shape {tuple(tensor.shape)} that backward needs again was freed or "
                f"made smaller: its storage holds {tensor.untyped_storage().nbytes()} bytes. Go "
                f"back before it is resized, or compute the loss of a copy"
            )
            raise CTCError(msg)


def is_plain(tensor: Array) -> bool:
    """Whether the tensor has memory of its own, in which its elements lie as its strides say."""
    return _form(tensor) == 0 and _lies_in_storage(tensor)


def _form(tensor: Array) -> Form:
    keys = sys.modules["torch"]._C._dispatch_keys(tensor)  # noqa: SLF001 - there is no public way
    form = _forms.get(number := keys.raw_repr())
    if form is None:
        form = _forms[number] = _meaning(str(keys))
    if form & TRANSFORMED and _is_functionalizing():
        return form | OPAQUE | FUNCTIONAL
    return form


def _is_functionalizing() -> bool:
    """Whether torch.func.functionalize is one of the transformations that are going on."""
    functorch = sys.modules["torch"]._C._functorch  # noqa: SLF001 - there is no public way
    going_on = functorch.get_interpreter_stack() or ()
    return any(each.key() == functorch.TransformType.Functionalize for each in going_on)


def _meaning(keys: str) -> Form:
    """Tell the form from what PyTorch prints: ``DispatchKeySet(CPU, ADInplaceOrView, ...)``."""
    form = 0
    for key in keys.partition("(")[2].rstrip(")").split(", "):
        name = key
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if name in _MORE_BITS:
            form |= _MORE_BITS[name]
        elif name not in _HARMLESS and name.rstrip("123") not in _DEVICES:
            form |= OPAQUE
    return form


def _lies_in_storage(tensor: Array) -> bool:
    """Whether the storage reaches to the last element: it can be freed or cut under a tensor."""
    end = tensor.storage_offset()
    if tensor.is_contiguous():
        end += tensor.numel()
    elif tensor.numel():
        end += 1
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            end += (size - 1) * stride
    reaches: bool = end * tensor.itemsize <= tensor.untyped_storage().nbytes()
    return reaches or tensor.numel() == 0


def _refuse_freed(argument: str, tensor: Array) -> NoReturn:
    held = tensor.untyped_storage().nbytes()
    msg = (
        f"{argument} is a tensor of shape {tuple(tensor.shape)} whose storage was freed or made "
        f"smaller: it holds {held} bytes. Pass it before its storage is resized, or a copy"
    )
    raise CTCInputError(msg, argument=argument)


def _require_dense(argument: str, tensor: Array) -> None:
    """Refuse layouts for which a dense tensor must be made, and say how."""
    torch: Any = sys.modules["torch"]
    if tensor.is_nested:
        what = "a nested tensor"
        advice = "torch.nested.to_padded_tensor(tensor, 0), and the lengths as arguments"
    elif tensor.layout is not torch.strided:
        what = f"a tensor of layout {tensor.layout}"
        advice = "tensor.to_dense()"
    elif tensor.is_quantized:
        what = "a quantized tensor"
        advice = "tensor.dequantize()" if argument == "logits" else "tensor.int_repr()"
    elif "torch.masked" in sys.modules and isinstance(tensor, torch.masked.MaskedTensor):
        what = "a torch.masked.MaskedTensor, whose mask would be lost"
        advice = "tensor.to_tensor(value) to fill what is masked, and the lengths as arguments"
    else:
        return
    msg = f"{argument} is {what}: expected a dense tensor, as from {advice}"
    raise CTCInputError(msg, argument=argument)


def is_torch_recording(array: object) -> bool:
    """Whether ``torch.compile``, ``torch.export`` or ``torch.jit.trace`` traces a tensor's call."""
    torch: Any = sys.modules.get("torch")
    # NumPy's at once: PyTorch's isinstance() takes longer.
    if torch is None or type(array) is np.ndarray or not isinstance(array, torch.Tensor):
        return False
    return bool(torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None)  # noqa: SLF001


def hidden_from_dynamo(function: F) -> F:
    """Let PyTorch's compiler and transformations call a function as it is where it isn't theirs.

    ``torch.compile`` does where it can't record the function's operators: for arrays of other
    libraries, and where PyTorch runs a compiled function as it is, as under ``torch.func.vmap``,
    but goes on to compile whatever this calls. What is inside of ctcx is no PyTorch: a kernel takes
    the address of a tensor. Transformations do where none of the tensors is theirs.
    """
    return _hidden(function, records=True)


def _is_any_transformed(*arguments: Any) -> bool:
    """Whether a transformation of torch.func has wrapped any tensor among the arguments."""
    torch: Any = sys.modules["torch"]
    return any(
        isinstance(leaf, torch.Tensor) and _form(leaf) & (TRANSFORMED | FUNCTIONAL)
        for leaf in torch.utils._pytree.tree_leaves(arguments)  # noqa: SLF001 - no other way
    )


def never_recorded(function: F) -> F:
    """Do the same for a function that has no operators."""
    return _hidden(function, records=False)


def _hidden(function: F, *, records: bool) -> F:
    first = next(iter(inspect.signature(function).parameters))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        torch: Any = sys.modules.get("torch")
        if torch is None:
            return function(*args, **kwargs)
        if torch.compiler.is_dynamo_compiling():
            array = args[0] if args else kwargs.get(first)
            # Operators know no forward mode: tangents would be lost without a word.
            is_seen = not (
                records
                and isinstance(array, torch.Tensor)
                and torch.autograd.forward_ad._current_level < 0  # noqa: SLF001 - no other way
            )
        else:
            transforms = torch._C._are_functorch_transforms_active()  # noqa: SLF001 - see above
            if transforms and not _is_any_transformed(args, kwargs):
                # Constants of a transformation, whose operations would wrap all that they compute.
                with torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack():  # noqa: SLF001
                    return call(*args, **kwargs)
            is_seen = torch._C._dynamo.eval_frame.get_eval_frame_callback()  # noqa: SLF001 - see above
        if is_seen:
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return cast("F", call)
