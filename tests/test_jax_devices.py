"""Logits on one of several devices: labels and lengths go there, and so do the results."""

import os
import subprocess
import sys

import pytest

from tests.helpers import check_sharded, needed

needed("jax")

PROGRAM = """
import jax, numpy as np, ctcx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

labels, lengths = [[1, 2], [3, 3, 1], [2], [1]], [7, 6, 5, 4]
logits = np.random.default_rng(0).standard_normal((4, 7, 4)).astype("float32")
expected = ctcx.ctc_loss_and_grad(logits, labels, lengths)
mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
places = [*jax.devices(), NamedSharding(mesh, PartitionSpec("batch"))]
for place in places:
    x = jax.device_put(logits, place)
    for call in ctcx.ctc_loss_and_grad, jax.jit(
        lambda x: ctcx.ctc_loss_and_grad(x, labels, lengths)
    ):
        arguments = (x,) if call is not ctcx.ctc_loss_and_grad else (x, labels, lengths)
        loss, grad, _ = call(*arguments)
        assert grad.sharding.device_set == x.sharding.device_set, (place, grad.sharding)
        np.testing.assert_allclose(loss, expected.loss, rtol=1e-6)
        np.testing.assert_allclose(grad, expected.grad, atol=1e-6)
    for results in (
        ctcx.ctc_greedy(x),
        ctcx.ctc_beam_search(x)[:-1],
        ctcx.ctc_align(x, labels, lengths),
        [ctcx.ctc_entropy(x, labels, lengths)],
    ):
        for result in results:
            assert result.sharding.device_set == x.sharding.device_set, (place, result.sharding)
with jax.default_device(jax.devices()[1]):
    x = jax.numpy.asarray(logits)
for part in ctcx.ctc_greedy(x):
    assert not part.committed
    assert part.device == x.device == jax.devices()[1]
try:
    x = jax.device_put(logits, jax.devices()[1])
    ctcx.ctc_loss(x, jax.device_put(np.ones((4, 2), int), jax.devices()[0]), lengths)
except ctcx.CTCInputError as error:
    assert "labels is on device" in str(error), error
else:
    raise AssertionError("mixed devices")
print(len(places))
"""


def test_each_device_and_both_together():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "3"


@pytest.mark.slow
@pytest.mark.thorough
def test_types_that_say_how_arrays_are_spread():
    check_sharded("jax_sharded", "array-api")


@pytest.mark.slow
def test_all_operations_on_arrays_whose_types_say_so():
    check_sharded("jax_sharded_operations", "array-api")


@pytest.mark.slow
@pytest.mark.thorough
def test_all_operations_sharded_over_all_axes_under_all_transformations():
    check_sharded("jax_sharded_operations", "array-api", "--thorough")
