"""What a type checker sees of the public functions and descriptors."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("backends/*/ctcx_*/__init__.py"))

USER = """
import numpy as np
from numpy.typing import NDArray

import ctcx
from ctcx.plugin import Backend, Namespace

class Tensor: ...  # any library's

def call(logits: NDArray[np.float32]) -> None:
    loss = ctcx.ctc_loss(logits, [[1]], reduction="mean")
    reveal_type(loss)
    both = ctcx.ctc_loss_and_grad(logits, [[1]])
    reveal_type(both.grad)
    reveal_type(ctcx.ctc_hvp(logits, [[1]], vector=logits))
    reveal_type(ctcx.ctc_entropy(logits, [[1]]))
    reveal_type(ctcx.ctc_occupancies(logits, [[1]]).classes)
    reveal_type(ctcx.ctc_sample_paths(logits, [[1]], logits))
    reveal_type(ctcx.ctc_align(logits, [[1]]).score)
    reveal_type(ctcx.ctc_greedy(logits).score)
    reveal_type(ctcx.ctc_beam_search(logits).scores)
    reveal_type(ctcx.linear_ctc_loss_and_grad(logits, logits, None, [[1]]).weight)

def help(labels: NDArray[np.int32], one_hot: NDArray[np.bool_]) -> None:
    reveal_type(ctcx.min_frames(labels))
    reveal_type(ctcx.min_frames([[1, 2]]))
    reveal_type(ctcx.labels_from_one_hot(one_hot, blank=0)[0])
    reveal_type(ctcx.labels_to_one_hot(labels, num_classes=3, num_frames=4, blank=0))
    reveal_type(ctcx.labels_to_one_hot([1, 2], num_classes=3, num_frames=4, blank=0))

def torch(x: Tensor, labels: Tensor) -> None:
    reveal_type(ctcx.ctc_loss(x, labels))
    reveal_type(ctcx.ctc_loss_and_grad(x, labels).loss)
    reveal_type(ctcx.ctc_hvp(x, labels, vector=x))
    reveal_type(ctcx.ctc_entropy(x, labels))
    reveal_type(ctcx.ctc_occupancies(x, labels).loss)
    reveal_type(ctcx.ctc_sample_paths(x, labels, x))
    reveal_type(ctcx.ctc_align(x, labels).log_probs)
    reveal_type(ctcx.ctc_greedy(x).log_probs)
    reveal_type(ctcx.ctc_beam_search(x).log_probs)
    reveal_type(ctcx.linear_ctc_loss_and_grad(x, x, None, labels).hidden)
    reveal_type(ctcx.min_frames(labels))
    reveal_type(ctcx.labels_from_one_hot(x, blank=0)[1])
    reveal_type(ctcx.labels_to_one_hot(labels, num_classes=3, num_frames=4, blank=0))

Backend(
    name="mine", kernels={"loss": "mine:loss"}, namespaces={"numpy"}, devices={"cpu", "cuda"},
    dtypes={"float32"},
)
Namespace(
    name="n", distribution="n", from_numpy="a:b", to_numpy="a:b", devices="a:b", dtypes={"float32"},
)
"""

WRONG = """
from ctcx.plugin import Backend

Backend(name="mine", kernels={"loss": "mine:loss"}, namespaces="numpy")
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What mypy says of the two programs, by name: it reads NumPy's types once for both."""
    folder = tmp_path_factory.mktemp("programs")
    for name, program in (("user", USER), ("wrong", WRONG)):
        (folder / f"{name}.py").write_text(program)
    options = ["--strict", "--config-file=", f"--cache-dir={folder}", "--follow-imports=silent"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *folder.glob("*.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    return {name: [line for line in lines if f"{name}.py:" in line] for name in ("user", "wrong")}


@pytest.mark.slow
@pytest.mark.xdist_group("mypy")
def test_results_have_the_type_of_the_logits_and_sets_are_sets(told):
    assert not [line for line in told["user"] if "error:" in line], told["user"]
    revealed = [line for line in told["user"] if "Revealed type" in line]
    expected = [*["32"] * 10, *["64"] * 5, *["user.Tensor"] * 13]
    for line, of in zip(revealed, expected, strict=True):
        assert of in line, line
        assert ("numpy.ndarray[" in line) == of.isdigit(), line


@pytest.mark.slow
@pytest.mark.xdist_group("mypy")
def test_one_name_is_no_set_of_names(told):
    (line,) = told["wrong"]
    assert 'error: Argument "namespaces" to "Backend" has incompatible type "str"' in line


@pytest.mark.parametrize("package", [ROOT / "ctcx", *PACKAGES], ids=lambda path: path.name)
def test_every_package_says_that_it_has_types(package):
    assert (package / "py.typed").is_file()
