"""Labels and lengths reach a kernel in int32 or int64 as the caller passed them."""

from __future__ import annotations

import itertools

import array_api_strict
import numpy as np
import pytest

import ctcx
from tests.helpers import needed

SEEING = """
from ctcx.plugin import Backend, Feature, hookimpl, load_kernel

seen = []


@hookimpl
def ctcx_backends():
    yield Backend(
        name="seeing",
        kernels={"loss": "ctcx_seeing:loss"},
        namespaces={"*"},
        devices={"*"},
        features={Feature.NONCONTIGUOUS},
    )


def loss(*arrays, blank):
    seen[:] = arrays
    return load_kernel("array-api", "loss")(*arrays, blank=blank)
"""
LOGITS = np.zeros((3, 9, 5), dtype=np.float32)
INTEGERS = (
    np.array([[1, 2, 1, 3], [4, 4, 0, 0], [2, 0, 0, 0]]),
    np.array([9, 8, 7]),
    np.array([4, 2, 1]),
)
# Of each library: arrays from NumPy's, and the integer dtypes that become another one.
NARROW = ("int8", "int16", "uint8", "uint16", "uint32")


def numpy_array(array, dtype):
    return np.asarray(array, dtype=dtype)


def strict_array(array, dtype):
    return array_api_strict.asarray(array, dtype=getattr(array_api_strict, dtype))


def torch_array(array, dtype):
    torch = needed("torch")
    return torch.tensor(array, dtype=getattr(torch, dtype))


def jax_array(array, dtype):
    jax = needed("jax")
    return jax.numpy.asarray(array, dtype=dtype)


MAKERS = {"numpy": numpy_array, "strict": strict_array, "torch": torch_array, "jax": jax_array}


@pytest.fixture
def seen(plugins):
    """What the kernel of the backend 'seeing' got last."""
    plugins.write("seeing", SEEING)
    plugins.load()
    with ctcx.use_backend("seeing"):
        import ctcx_seeing

        yield ctcx_seeing.seen


def names(arrays):
    return [str(array.dtype).rpartition(".")[2] for array in arrays]


@pytest.mark.parametrize("library", MAKERS)
def test_int32_and_int64_pass_as_they_come(seen, library):
    make = MAKERS[library]
    widths = ("int32",) if library == "jax" else ("int32", "int64")  # JAX is in its 32-bit mode
    logits = make(LOGITS, "float32")
    expected = np.asarray(ctcx.ctc_loss(logits, *INTEGERS, backend="array-api"))
    for kinds in itertools.product(widths, repeat=3):
        given = [make(array, kind) for array, kind in zip(INTEGERS, kinds, strict=True)]
        loss = ctcx.ctc_loss(logits, *given)
        assert all(got is array for got, array in zip(seen[1:], given, strict=True))
        np.testing.assert_allclose(np.asarray(loss), expected, rtol=1e-6)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_strides_pass_as_they_come(seen, library, kind):
    make = MAKERS[library]
    labels, frames, counts = INTEGERS
    wide = make(np.repeat(labels, 2, axis=1).T.copy(), kind).T[:, ::2]
    sparse = make(np.repeat(frames, 3), kind)[::3]
    strided = (wide, sparse, make(counts, kind))
    loss = ctcx.ctc_loss(make(LOGITS, "float32"), *strided)
    assert all(got is array for got, array in zip(seen[1:], strided, strict=True))
    expected = ctcx.ctc_loss(LOGITS, *INTEGERS, backend="array-api")
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("kind", NARROW)
def test_other_integers_are_converted(seen, library, kind):
    make = MAKERS[library]
    logits = make(LOGITS, "float32")
    loss = ctcx.ctc_loss(logits, *(make(array, kind) for array in INTEGERS))
    assert set(names(seen[1:])) == {"int32" if library == "jax" else "int64"}
    expected = ctcx.ctc_loss(LOGITS, *INTEGERS, backend="array-api")
    np.testing.assert_allclose(np.asarray(loss), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["int32", "int64", ">i4", "uint64"])
@pytest.mark.parametrize("library", MAKERS)
def test_host_data_is_uploaded_once_in_the_index_dtype(seen, library, kind):
    logits = MAKERS[library](LOGITS, "float32")
    ctcx.ctc_loss(logits, *(array.astype(kind) for array in INTEGERS))
    kept = library == "numpy" and kind in {"int32", "int64"}
    assert set(names(seen[1:])) == {kind if kept else "int32" if library == "jax" else "int64"}
    ctcx.ctc_loss(logits, [[1, 2, 1, 3], [4, 4], [2]], [9, 8, 7])
    assert set(names(seen[1:])) == {"int32" if library == "jax" else "int64"}


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_wrong_values_are_located_in_either_width(seen, library, kind):
    make = MAKERS[library]
    labels, frames, counts = (array.copy() for array in INTEGERS)
    labels[1, 1] = 5
    if library == "jax":
        kind = "int32"
    given = [make(array, kind) for array in (labels, frames, counts)]
    with pytest.raises(ctcx.CTCInputError, match=r"labels\[1, 1\] is 5"):
        ctcx.ctc_loss(make(LOGITS, "float32"), *given)
    assert not seen


def test_every_combination_under_autograd(seen):
    torch = needed("torch")
    assert not seen
    logits = torch.tensor(LOGITS, requires_grad=True)
    gradients = []
    for kinds in itertools.product((torch.int32, torch.int64), repeat=3):
        given = (torch.tensor(a, dtype=k) for a, k in zip(INTEGERS, kinds, strict=True))
        loss = ctcx.ctc_loss(logits, *given, backend="array-api", reduction="mean_per_label")
        gradients += torch.autograd.grad(loss, logits)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])
