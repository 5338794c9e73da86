"""What the core calls in PyTorch exists on its accelerators, none of which is here.

Apple's MPS has the fewest operators. PyTorch's own table of operators, which is installed with it,
says which have a kernel there.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

import ctcx
from ctcx.plugin import load_kernel
from tests.helpers import needed

torch = needed("torch")
torchgen = needed("torchgen")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torchgen.gen import parse_native_yaml  # noqa: E402
from torchgen.model import DispatchKey  # noqa: E402

# Written in terms of other operators, for all devices.
COMPOSITE = {
    DispatchKey.CompositeExplicitAutograd,
    DispatchKey.CompositeExplicitAutogradNonFunctional,
    DispatchKey.CompositeImplicitAutograd,
}
HOST_READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}


class Recorder(TorchDispatchMode):
    """Records the operators that are called, with the dtypes of their tensors."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if operator.namespace == "aten":
            name = operator._schema.name.partition("::")[2]
            overload = operator._schema.overload_name
            tensors = torch.utils._pytree.tree_leaves((args, kwargs, result))
            dtypes = {leaf.dtype for leaf in tensors if isinstance(leaf, torch.Tensor)}
            self.calls.setdefault(f"{name}.{overload}".rstrip("."), set()).update(dtypes)
        return result


@pytest.fixture(scope="module")
def exists_on_mps():
    """Return a function that says whether an operator has a kernel for MPS, or needs none."""
    native = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native"
    table = parse_native_yaml(str(native / "native_functions.yaml"), str(native / "tags.yaml"))
    functions = {str(function.func.name): function for function in table.native_functions}
    keys = [key for key in table.backend_indices if key in COMPOSITE | {DispatchKey.MPS}]

    def exists(name):
        function = functions[name]
        if any(table.backend_indices[key].has_kernel(function) for key in keys):
            return True
        return function.structured_delegate and exists(str(function.structured_delegate))

    return exists


def make_arrays(n, frames, classes, count, dtype):
    """Return the arguments of kernels, and uniform numbers for two paths."""
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.standard_normal((n, frames, classes)), dtype=dtype)
    labels = torch.tensor(rng.integers(1, classes, (n, count)), dtype=torch.int32)
    lengths = torch.full((n,), frames, dtype=torch.int32)
    counts = torch.full((n,), count, dtype=torch.int32)
    uniforms = torch.tensor(rng.random((n, 2, frames)), dtype=torch.float32)
    return (logits, labels, lengths, counts), uniforms


def run_all(arrays, uniforms):
    """Call each kernel of the core, and the loss with its gradient."""
    logits, labels, lengths, _ = arrays
    core = partial(load_kernel, "array-api")
    core("loss")(*arrays, blank=0)
    core("loss_and_grad")(*arrays, blank=0)
    core("occupancies")(*arrays, blank=0, states=True)
    core("align")(*arrays, blank=0, extra=None, ends=(0, 0))
    core("sample_paths")(*arrays, blank=0, uniforms=uniforms)
    core("greedy")(logits, lengths, blank=0)
    core("beam_search")(logits, lengths, blank=0, width=4, top=2, max_classes=None)
    leaf = logits.clone().requires_grad_()
    for reduction in ("none", "sum", "mean", "mean_per_label"):
        options = {"reduction": reduction, "backend": "array-api", "validate": False}
        ctcx.ctc_loss(leaf, labels, infeasible="zero", **options).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("sizes", [(2, 5, 4, 2), (3, 60, 9, 20), (1, 300, 5, 50), (2, 12, 3000, 7)])
def test_every_operator_exists_there(sizes, dtype, exists_on_mps, monkeypatch):
    monkeypatch.setattr("ctcx._core.context.has_float64", lambda *_: False)
    arrays = make_arrays(*sizes, dtype)
    run_all(*arrays)  # array-api-compat tries which dtypes a device has, once
    with Recorder() as recorder:
        run_all(*arrays)
    calls = recorder.calls
    assert {name for name in calls if not exists_on_mps(name)} == set()
    assert {name for name in calls if name.partition(".")[0] in HOST_READS} == set()
    assert {name for name, dtypes in calls.items() if torch.float64 in dtypes} == set()
    scattered = {name for name in calls if "scatter" in name or "index_add" in name}
    assert {name for name in scattered if torch.int64 in calls[name]} == set()


def test_the_table_knows_what_is_missing(exists_on_mps):
    assert exists_on_mps("index_select")
    assert exists_on_mps("sum.dim_IntList")
    assert not exists_on_mps("_ctc_loss")
    assert not exists_on_mps("geqrf")
