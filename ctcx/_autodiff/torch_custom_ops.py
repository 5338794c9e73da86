"""How ctcx defines operators of PyTorch, for all that sees operators only.

A compiler can't look into a selection of backends at run time, and need not: it sees an operator of
which it knows the shapes and the derivative. Backends are selected when the operator runs.
PyTorch's dispatcher also takes operators to the tensors that kernels can't read
(:mod:`ctcx._arrays.tensor_forms`).

Arrays of an operator have N in front, logits are (N, T, C), and a layout says how the caller passed
them, for error messages: "NTC", "TNC", or "TC" for one sequence.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import torch

from ctcx._arrays.tensor_forms import FUNCTIONAL
from ctcx._autodiff.torch_function import merge
from ctcx._errors import BackendError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType

    from ctcx._inputs.options import Options
    from ctcx._inputs.prepare import KernelInputs
    from ctcx._typing import Array

__all__ = [
    "as_passed",
    "call_operator",
    "define_operator",
    "float_dtype",
    "layout_of",
    "own_memory",
]

_codes: set[CodeType] = set()  # of the functions that operators run


def define_operator(
    name: str,
    arguments: str,
    *,
    arrays: int,
    results: tuple[tuple[str, str], ...],
    sizes: Callable[..., dict[str, Any]] = lambda *_: {},
) -> Callable[[Callable[..., Any]], Any]:
    """Make a function an operator; ``torch.vmap`` adds sequences to its batch.

    The name is in the namespace ``ctcx``, the arguments are as in a schema; the first ``arrays`` of
    them have sequences in front. ``results`` are axes and dtype of each result: N, T and C of the
    logits, and those that ``sizes`` gives for the arguments; ``"probability"`` is the dtype of
    losses and probabilities, ``"logits"`` that of the logits.
    """
    tensors = ", ".join(["Tensor"] * len(results))
    schema = f"({arguments}) -> {tensors if len(results) == 1 else f'({tensors})'}"

    def define(function: Callable[..., Any]) -> Any:
        _codes.add(function.__code__)
        operator = torch.library.custom_op(
            f"ctcx::{name}", function, mutates_args=(), schema=schema
        )

        def fake(logits: Array, *others: Any) -> Any:
            known = dict(zip("NTC", logits.shape, strict=True)) | sizes(logits, *others)
            dtypes = {"probability": float_dtype(logits), "logits": logits.dtype}
            made = tuple(
                logits.new_empty(
                    tuple(known[axis] for axis in axes),
                    dtype=dtypes.get(dtype) or getattr(torch, dtype),
                )
                for axes, dtype in results
            )
            return made if len(made) > 1 else made[0]

        def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
            merged = merge(arguments[:arrays], in_dims[:arrays], info.batch_size)
            found = operator(*merged, *arguments[arrays:])
            sizes = (info.batch_size, -1)
            if isinstance(found, torch.Tensor):
                return found.unflatten(0, sizes), 0
            return tuple(array.unflatten(0, sizes) for array in found), (0,) * len(found)

        operator.register_fake(fake)
        operator.register_vmap(vmap)
        return operator

    return define


def call_operator(operator: Any, prepared: KernelInputs, *arguments: Any) -> Any:
    """Call an operator for tensors that have to go through PyTorch's dispatcher.

    Raises BackendError: PyTorch can't take the operator to a kernel for tensors of these types.
    """
    try:
        return operator(*arguments)
    except Exception as error:
        frames = traceback.walk_tb(error.__traceback__)
        if any(frame.f_code in _codes for frame, _ in frames):
            raise  # from within the operator, not from PyTorch's way to it
        types = ", ".join(dict.fromkeys(type(array).__name__ for array in prepared[:4]))
        if prepared.facts.form & FUNCTIONAL:
            advice = "Under torch.func.functionalize, differentiate with torch.autograd"
        else:
            advice = "Pass plain tensors, such as those that these wrap"
        name = operator._qualname  # noqa: SLF001 - there is no other
        msg = (
            f"PyTorch can't take the operator {name} to a kernel for arguments of the types "
            f"{types}: {one_line(error)}. {advice}"
        )
        raise BackendError(msg) from error


def layout_of(prepared: KernelInputs, options: Options) -> str:
    """Say how the caller passed the logits."""
    return "TC" if prepared.single else "TNC" if options.time_major else "NTC"


def as_passed(layout: str, logits: Array, *rest: Array) -> tuple[bool, list[Array]]:
    """Give an operator's arrays the caller's layout, and say whether they are one sequence."""
    single = layout == "TC" and logits.shape[0] == 1  # under vmap there are more
    if single:
        return True, [array[0] for array in (logits, *rest)]
    return False, [logits.permute(1, 0, 2) if layout == "TNC" else logits, *rest]


def own_memory(found: Iterable[Array], *, single: bool) -> tuple[Array, ...]:
    """Give results N in front, and memory that no two of them share, as those of operators have."""
    return tuple((array[None] if single else array).clone() for array in found)


def float_dtype(logits: Array) -> Any:
    """Return the dtype of losses and probabilities."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
