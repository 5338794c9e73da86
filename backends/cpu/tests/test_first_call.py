"""Nothing is waited for: told by what the first call imports, not by a clock.

``benchmarks/first_call.py`` measures it.
"""

import json
import subprocess
import sys

import pytest

SETUP = {
    "numpy": "x, y = numpy.zeros((1, 3, 2), 'float32'), [[1]]",
    "torch": "import torch; x, y = torch.zeros(1, 3, 2), torch.ones(1, 1, dtype=torch.int32)",
    "jax": "import jax.numpy as jnp; x, y = jnp.zeros((1, 3, 2)), jnp.ones((1, 1), 'int32')",
}
# What NumPy and JAX import on first use, and take most of 100 ms for.
SLOW = {"numpy.f2py", "numpy.testing", "numpy.ma", "jax.extend"}


@pytest.mark.parametrize("library", SETUP)
@pytest.mark.parametrize(
    "call", ["ctcx.ctc_loss_and_grad(x, y)", "ctcx.ctc_loss(x, y, reduction='mean')"]
)
def test_a_first_call_imports_nothing_slow(library, call):
    pytest.importorskip(library)
    code = f"""
import json, sys, numpy
{SETUP[library]}
before = set(sys.modules)
import ctcx
with ctcx.trace() as runs:
    {call}
assert runs[0].backend == "cpu", runs
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    imported = set(json.loads(printed))
    assert "ctcx_cpu.kernels" in imported
    assert not SLOW & imported
