"""Other implementations in the benchmarks: called so that they compute what ctcx computes.

A peer that is not installed is skipped, unless ``CTCX_TEST_PEERS`` names it.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace

import numpy as np
import pytest

from ctcx.bench import Implementation
from ctcx.bench.workloads import workloads
from ctcx.conformance.oracle import reference
from ctcx.data.batch import Batch
from ctcx.data.bundled import ocr_lines
from tests.helpers import run_cli
from tests.test_bench import accuracy, worker_process

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

WRONG = 1e-3
"""An error above it means that a peer was called wrongly: the loss relative, the gradient absolute.

A peer's rounding depends on the peer and on the CPU, and stays far below it on these batches; what
a wrong call costs at least is in :data:`MISTAKES`.
"""


def ragged():
    """Lengths of all kinds, repeated labels, and a blank that is neither first nor last."""
    rng = np.random.default_rng(3)
    return Batch(
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


@pytest.fixture(scope="module", params=OWN)
def peer(request):
    """A peer's name, and its process."""
    child = worker_process.WorkerProcess([Implementation(name=request.param, kind="peer")])
    yield request.param, child
    child.end()


@pytest.mark.parametrize("batch", BATCHES)
def test_a_peer_computes_the_same_loss_and_gradient(peer, batch, tmp_path):
    name, child = peer
    inputs = BATCHES[batch]()
    inputs.save(tmp_path / "inputs.npz")
    accuracy.known_truth(inputs, tmp_path / "kept").save(tmp_path)
    answer = child.ask(
        "prepare",
        timeout=120,
        implementation=name,
        inputs=str(tmp_path / "inputs.npz"),
        truth=str(tmp_path),
        memory=False,
    )
    if answer.get("verdict") == "skipped" and name not in REQUIRED:
        pytest.skip(answer["reason"])
    assert "verdict" not in answer, answer
    assert answer["loss_rel"] < WRONG
    assert answer["grad"] < WRONG
    assert answer["steady"] > 0
    turn = child.ask("turn", timeout=60, implementation=name, rounds=3, iterations=2, rest=True)
    assert len(turn["durations"]) == 3
    loaded = set(child.ask("facts", timeout=60)["modules"])
    assert loaded & LIBRARIES <= OWN[name]


MISTAKES = {
    "another blank": lambda x: replace(x, blank=(x.blank + 1) % x.logits.shape[2]),
    "all frames": lambda x: replace(x, logit_lengths=np.full_like(x.logit_lengths, 14)),
    "all labels": lambda x: replace(x, label_lengths=np.full_like(x.label_lengths, 4)),
    "the next row's labels": lambda x: replace(
        x, labels=np.roll(x.labels, 1, 0), label_lengths=np.roll(x.label_lengths, 1)
    ),
    "classes shifted": lambda x: replace(x, logits=np.roll(x.logits, 1, 2)),
    "probabilities for logits": lambda x: replace(
        x, logits=np.exp(x.logits) / np.exp(x.logits).sum(-1, keepdims=True)
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_call_of_a_peer_would_be_seen(mistake, tmp_path):
    inputs = ragged()
    wrong = MISTAKES[mistake](inputs)
    result = reference(
        wrong.logits, wrong.labels, wrong.logit_lengths, wrong.label_lengths, wrong.blank
    )
    truth = accuracy.known_truth(inputs, tmp_path)
    found = accuracy.errors(inputs, truth, result.loss, result.grad)
    assert found.loss_rel > 20 * WRONG
    assert found.grad > 20 * WRONG


def test_the_real_lines_have_their_blank_where_the_recogniser_has_it():
    """So that the batch above says something about blanks."""
    assert workloads()["ocr-lines"].make().blank == ocr_lines().blank


def test_required_peers_are_peers():
    refused = run_cli("bench", "--peer", "nonsense", env={"COLUMNS": "4000"})
    (named,) = re.findall(r"there are ([\w, -]+)", " ".join(refused.output.split()))
    assert set(named.split(", ")) - {"none"} == set(OWN) >= set(REQUIRED)
