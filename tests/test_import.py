"""What importing ctcx costs: told by what it imports, not by a clock."""

import json
import subprocess
import sys

import pytest

from tests.helpers import needed

# `import ctcx` may import these of the standard library (what typing needs), and nothing else.
ALLOWED = {"ctcx", "__future__", "typing", "_typing", "collections", "contextlib", "warnings"}
ALLOWED |= {"abc", "functools", "operator", "re", "types", "copyreg", "enum", "sre_compile"}


def imported_by(statement):
    code = (
        "import sys, json; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    return set(json.loads(out))


def test_import_ctcx_imports_nothing_but_itself():
    assert {name.partition(".")[0] for name in imported_by("import ctcx")} <= ALLOWED


def test_the_check_can_fail():
    assert "numpy" in imported_by("import ctcx, numpy")


@pytest.mark.parametrize("library", ["torch", "jax", "cupy", "numba", "pytest", "typer", "rich"])
def test_a_call_on_numpy_imports_no_other_library(library):
    call = "import numpy, ctcx; ctcx.ctc_loss(numpy.zeros((1, 3, 2)), [[1]])"
    assert library not in imported_by(call)


@pytest.mark.parametrize(
    "call",
    [
        "ctcx.ctc_loss(x, [[1]], reduction='mean').backward()",
        "ctcx.LinearCTCLoss(2, 2)(x, torch.ones((1, 1), dtype=torch.int64)).backward()",
    ],
)
def test_training_imports_no_compiler_of_pytorch(call):
    needed("torch")
    prepare = "import torch, ctcx; x = torch.zeros((1, 3, 2), requires_grad=True); "
    assert not {"torch._dynamo", "torch._inductor"} & imported_by(prepare + call)


def test_every_public_name_resolves_and_nothing_is_hidden():
    import ctcx

    for name in ctcx.__all__:
        assert getattr(ctcx, name) is not None
    assert set(dir(ctcx)) == set(ctcx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ctcx.nonsense
