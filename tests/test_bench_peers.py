"""Other implementations in the benchmarks: called so that they compute what ctcx computes.

A peer that is not installed is skipped, unless ``CTCX_TEST_PEERS`` names it.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from ctcx._inputs import ocr_lines
from ctcx.bench._child import Child
from ctcx.bench._contestants import PEERS, Contestant
from ctcx.bench._truth import known_truth
from ctcx.bench._workloads import Inputs, workloads

REQUIRED = [name for name in os.environ.get("CTCX_TEST_PEERS", "").split(",") if name]
LIBRARIES = {"torch", "jax", "optax", "tensorflow", "keras", "numba", "cupy"}
OWN = {
    "torch": {"torch"},
    "optax": {"optax", "jax"},
    # TensorFlow loads Keras and, where it is there, JAX; Keras runs on TensorFlow.
    "tensorflow-v1": {"tensorflow", "keras", "jax"},
    "tensorflow-v2": {"tensorflow", "keras", "jax"},
    "keras": {"tensorflow", "keras", "jax"},
}


def ragged():
    """Lengths of all kinds, repeated labels, and a blank that is neither first nor last."""
    rng = np.random.default_rng(3)
    return Inputs(
        logits=rng.standard_normal((3, 14, 7), dtype=np.float32) * 2,
        labels=np.array([[1, 3, 3, 0], [6, 5, 4, 4], [1, 0, 0, 0]]),
        logit_lengths=np.array([14, 9, 5]),
        label_lengths=np.array([4, 3, 1]),
        blank=2,
    )


BATCHES = {
    "ragged": ragged,
    "notebook": lambda: workloads()["notebook-fixture"].make(),
    "real lines": lambda: workloads()["ocr-lines"].make(),
}


@pytest.fixture(scope="module", params=PEERS)
def peer(request):
    """A peer's name, and its process."""
    child = Child([Contestant(name=request.param, kind="peer")])
    yield request.param, child
    child.end()


@pytest.mark.parametrize("batch", BATCHES)
def test_a_peer_computes_the_same_loss_and_gradient(peer, batch, tmp_path):
    name, child = peer
    inputs = BATCHES[batch]()
    inputs.save(tmp_path / "inputs.npz")
    known_truth(inputs, tmp_path / "kept").save(tmp_path)
    answer = child.ask(
        "prepare",
        timeout=120,
        contestant=name,
        inputs=str(tmp_path / "inputs.npz"),
        truth=str(tmp_path),
        memory=False,
    )
    if answer.get("verdict") == "skipped" and name not in REQUIRED:
        pytest.skip(answer["reason"])
    assert "verdict" not in answer, answer
    assert answer["loss_rel"] < 1e-5
    assert answer["grad"] < 1e-4
    assert answer["steady"] > 0
    turn = child.ask("turn", timeout=60, contestant=name, rounds=3, iterations=2, rest=True)
    assert len(turn["durations"]) == 3
    loaded = set(child.ask("facts", timeout=60)["modules"])
    assert loaded & LIBRARIES <= OWN[name]


def test_the_real_lines_have_their_blank_where_the_recogniser_has_it():
    """So that the batch above says something about blanks."""
    assert workloads()["ocr-lines"].make().blank == ocr_lines().blank % ocr_lines().logits.shape[2]


def test_required_peers_are_peers():
    assert set(REQUIRED) <= set(PEERS)
