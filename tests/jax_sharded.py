"""Arrays over several devices, with types that say so: a program for tests of each backend.

Run as ``python -m tests.jax_sharded BACKEND``, with several devices; prints what it has checked.
"""

import sys

import jax
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ctcx

BACKEND = sys.argv[1]
RNG = np.random.default_rng(0)
LOGITS, VECTOR = RNG.standard_normal((2, 4, 4, 4)).astype("float32")
LABELS, FRAMES, LENGTHS = RNG.integers(1, 4, (4, 2)), np.asarray([4, 3, 4, 4]), [2, 1, 2, 0]
REST = (LABELS, FRAMES, np.asarray(LENGTHS))
FACTS = ctcx.ctc_loss_and_grad(LOGITS, *REST, backend="array-api")
MEAN = ctcx.ctc_loss_and_grad(LOGITS, *REST, reduction="mean_per_label", backend="array-api")
PRODUCT = ctcx.ctc_hvp(LOGITS, *REST, vector=VECTOR, backend="array-api")


def loss(x, *rest, **options):
    return ctcx.ctc_loss(x, *rest, backend=BACKEND, **options)


def gradient(x, *rest, **options):
    return jax.value_and_grad(lambda x: loss(x, *rest, **options).sum())(x)


def loss_and_grad(x, *rest):
    return tuple(ctcx.ctc_loss_and_grad(x, *rest, backend=BACKEND))[:2]


def hvp(x, *rest):
    return ctcx.ctc_hvp(x, *rest, vector=x * 0 + VECTOR[: x.shape[0]], backend=BACKEND)


def check(name, got, want):
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=5e-6, err_msg=name)
    sys.stdout.write(f"{name}\n")


def in_manual_axes():
    """``jax.shard_map``, which tracks what varies over the axes of the mesh."""
    mesh = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,))
    split = P("i")

    def over(f, out=split, into=split):
        return jax.shard_map(f, mesh=mesh, in_specs=into, out_specs=out)

    run = lambda f, *specs: jax.jit(over(f, *specs))
    check("shard_map, loss", run(loss)(LOGITS, *REST), FACTS.loss)
    check("shard_map, eager", over(loss)(LOGITS, *REST), FACTS.loss)
    check("shard_map, both", run(loss_and_grad)(LOGITS, *REST), FACTS[:2])
    inside = lambda *arrays: (gradient(*arrays)[0][None], gradient(*arrays)[1])
    check("shard_map, gradient inside", run(inside)(LOGITS, *REST), FACTS[:2])
    second = lambda x, vector, *rest: ctcx.ctc_hvp(x, *rest, vector=vector, backend=BACKEND)
    check("shard_map, second", run(second)(LOGITS, VECTOR, *REST), PRODUCT)

    # The loss must be known to vary, or JAX would not add up what the devices have.
    total = over(lambda *arrays: lax.psum(loss(*arrays, reduction="sum"), "i"), P())
    outside = jax.jit(jax.value_and_grad(total))(LOGITS, *REST)
    check("shard_map, gradient outside", outside, (FACTS.loss.sum(), FACTS.grad))
    same = lambda x: loss(x, [[1, 2]], [4], [2])
    whole = ctcx.ctc_loss_and_grad(LOGITS, [[1, 2]] * 4, backend="array-api")
    check("shard_map, labels of all", run(same)(LOGITS), whole.loss)
    lent = jax.jit(jax.grad(lambda x: over(loss, P("i"), (P(), P("i"), P(), P()))(x, *ONE).sum()))
    grad = ctcx.ctc_loss_and_grad(np.repeat(LOGITS[:1], 4, 0), LABELS, backend="array-api").grad
    check("shard_map, logits of all", lent(LOGITS[:1]), grad.sum(0, keepdims=True))
    both = jax.make_mesh((2, 2), ("i", "j"), axis_types=(AxisType.Auto, AxisType.Auto))
    part = jax.shard_map(
        loss, mesh=both, in_specs=P("i"), out_specs=P("i"), axis_names=frozenset({"i"})
    )
    check("shard_map over one of two", jax.jit(part)(LOGITS, *REST), FACTS.loss)


ONE = (LABELS, np.asarray([4]), np.asarray([2]))


def in_explicit_axes(*, thorough):
    """Meshes of ``AxisType.Explicit``: shardings are part of types, and results have them too."""
    mesh = jax.make_mesh((2, 2), ("i", "j"), axis_types=(AxisType.Explicit,) * 2)
    specs = [P("i"), P(("i", "j")), P(None, "j"), P("i", None, "j"), P()]
    for spec in specs if thorough else specs[:3]:
        x = jax.device_put(LOGITS, NamedSharding(mesh, spec))
        whole = NamedSharding(mesh, P(*(*spec, None, None, None)[:3]))
        for way in (lambda f: f, jax.jit) if thorough else (jax.jit,):
            name = f"explicit {spec}, {'jit' if way is jax.jit else 'eager'}"
            both = way(loss_and_grad)(x, *REST)
            check(f"{name}, both", both, FACTS[:2])
            assert both[1].sharding.is_equivalent_to(whole, 3), both[1].sharding
            with jax.set_mesh(mesh):  # which jax.grad itself needs without jit
                mean = way(lambda *a: gradient(*a, reduction="mean_per_label"))(x, *REST)
            check(f"{name}, gradient", mean, MEAN[:2])
            assert mean[1].sharding.is_equivalent_to(whole, 3), mean[1].sharding
            if thorough:
                check(f"{name}, second", way(hvp)(x, *REST), PRODUCT)
    with jax.set_mesh(mesh):
        x = jax.device_put(LOGITS, NamedSharding(mesh, P("i")))
        rest = (jax.device_put(a, NamedSharding(mesh, P("i"))) for a in REST)
        check("explicit, context", jax.jit(gradient)(x, *rest), (FACTS.loss.sum(), FACTS.grad))
        check("explicit, context, lists", jax.jit(lambda x: loss(x, LABELS.tolist()))(x), PLAIN)
        part = jax.shard_map(loss, in_specs=P("j"), out_specs=P("j"), axis_names={"j"})
        arrays = (jax.device_put(a, NamedSharding(mesh, P("j"))) for a in (LOGITS, *REST))
        check("shard_map over one of two explicit", jax.jit(part)(*arrays), FACTS.loss)
    with pytest.raises(ctcx.CTCInputError, match=r"labels\[2, 1\] is 9"):
        loss(x, [[1, 2], [3, 3], [1, 9], [1, 1]])


PLAIN = ctcx.ctc_loss(LOGITS, LABELS, backend="array-api")


def by_partitioner():
    """Meshes of ``AxisType.Auto``, any axis of the logits, and one device of several."""
    mesh = jax.make_mesh((2, 2), ("i", "j"), axis_types=(AxisType.Auto,) * 2)
    for spec in P("i"), P(None, "j"), P(None, None, "j"), P("j"):
        x = jax.device_put(LOGITS, NamedSharding(mesh, spec))
        check(f"auto {spec}", jax.jit(loss_and_grad)(x, *REST), FACTS[:2])
    pmapped = jax.pmap(loss_and_grad)(*(a[:, None] for a in (LOGITS, *REST)))
    check("pmap", [a[:, 0] for a in pmapped], FACTS[:2])


thorough = "--thorough" in sys.argv
in_manual_axes()
in_explicit_axes(thorough=thorough)
by_partitioner()
sys.stdout.write("done\n")
