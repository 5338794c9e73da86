"""Calls on arrays of JAX's with values, outside of what it compiles: what they cost and leave."""

import re

import numpy as np
import pytest

import ctcx
from tests.helpers import needed

jax, jnp = needed("jax"), needed("jax.numpy")


def batch(frames):
    """Logits of 3 sequences of any lengths, 4 labels of each, and numbers for 5 paths."""
    rng = np.random.default_rng(frames)
    logits, uniforms = rng.standard_normal((3, frames, 7)), rng.random((3, 5, frames))
    integers = np.ones((3, 4), int), frames - np.arange(3), np.full(3, 4)
    arrays = logits.astype(np.float32), *integers, uniforms.astype(np.float32)
    return tuple(map(jnp.asarray, arrays))


CALLS = {
    "loss": lambda x, y, t, s, _, **o: ctcx.ctc_loss(x, y, t, s, **o),
    "loss and gradient": lambda x, y, t, s, _, **o: ctcx.ctc_loss_and_grad(x, y, t, s, **o),
    "align": lambda x, y, t, s, _, **o: ctcx.ctc_align(x, y, t, s, **o),
    "occupancies": lambda x, y, t, s, _, **o: ctcx.ctc_occupancies(x, y, t, s, **o),
    "entropy": lambda x, y, t, s, _, **o: ctcx.ctc_entropy(x, y, t, s, **o),
    "sample": lambda x, y, t, s, u, **o: ctcx.ctc_sample_paths(x, y, u, t, s, **o),
    "greedy": lambda x, _y, t, _s, _u, **o: ctcx.ctc_greedy(x, t, **o),
    "beam search": lambda x, _y, t, _s, _u, **o: ctcx.ctc_beam_search(x, t, **o),
}


@pytest.mark.parametrize("name", CALLS)
def test_of_a_new_shape_jax_compiles_the_kernels_alone(name, caplog):
    unseen = 20 + 2 * list(CALLS).index(name)
    for frames in unseen, unseen + 1:
        given = batch(frames)
        caplog.clear()
        with jax.log_compiles(), ctcx.use_backend("array-api"):
            CALLS[name](*given)
    programs = re.findall(r"Finished XLA compilation of (\S+)", caplog.text)
    # Of a beam search there is a kernel for the exact losses of its results, and one to align them.
    assert programs == ["jit(call)"] * (3 if name == "beam search" else 1)


def test_wrong_values_are_found_without_a_program(caplog):
    for frames in 18, 19:
        *given, _ = batch(frames)
        caplog.clear()
        with jax.log_compiles(), pytest.raises(ctcx.CTCInputError, match=r"labels\[0, 0\] is 1"):
            ctcx.ctc_loss(*given, blank=1, backend="array-api")
    assert "XLA compilation" not in caplog.text


def test_what_was_passed_can_be_donated_afterwards():
    given = jnp.zeros((3, 17, 7)), jnp.ones((3, 4), int), jnp.full(3, 17), jnp.full(3, 4)
    ctcx.ctc_loss(*given, backend="array-api")
    for array in given:
        place = array.unsafe_buffer_pointer()
        result = jax.jit(lambda x: x + 1, donate_argnums=0)(array)
        assert result.unsafe_buffer_pointer() == place
        assert array.is_deleted()


ARGUMENTS = ("logits", "labels", "logit_lengths", "label_lengths", "uniforms")
TAKEN = {"sample": ARGUMENTS, "greedy": ARGUMENTS[:3:2], "beam search": ARGUMENTS[:3:2]}


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, argument) for name in CALLS for argument in TAKEN.get(name, ARGUMENTS[:4])],
)
def test_an_array_that_was_deleted_is_named(name, argument):
    given = list(batch(15))
    given[ARGUMENTS.index(argument)].delete()
    for validate in (True, False):
        with pytest.raises(ctcx.CTCInputError, match=f"{argument} is an .* deleted") as caught:
            CALLS[name](*given, validate=validate)
        assert caught.value.argument == argument
