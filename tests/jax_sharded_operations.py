"""All public operations on arrays over several devices: a program for tests of each backend.

Run as ``python -m tests.jax_sharded_operations BACKEND [--thorough]``, with four devices; prints
what it has compared with NumPy's arrays. :mod:`tests.jax_sharded` has more about losses.
"""

import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ctcx

BACKEND = sys.argv[1]
RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((4, 4, 4)).astype("float32")
LABELS, FRAMES, LENGTHS = RNG.integers(1, 4, (4, 2)), np.asarray([4, 3, 4, 4]), [2, 1, 2, 0]
REST = (LABELS, FRAMES, np.asarray(LENGTHS))
UNIFORMS = RNG.random((4, 3, 4)).astype("float32")
WEIGHT, BIAS = RNG.standard_normal((6, 4)).astype("float32"), np.zeros(6, "float32")
ONE_HOT = ctcx.labels_to_one_hot(*REST[::2], num_classes=4, num_frames=4, blank=0)


def head(hidden, *rest):
    weight, bias = WEIGHT, BIAS
    if not isinstance(hidden, np.ndarray):
        weight, bias = map(jax.numpy.asarray, (weight, bias))
    return ctcx.linear_ctc_loss_and_grad(hidden, weight, bias, *rest, backend=BACKEND, chunk=4)


def guided(logits, frames):
    options = {"width": 4, "top": 2, "boost": {(1, 2): 1.0}, "backend": BACKEND}
    return ctcx.ctc_beam_search(logits, frames, **options)[:-1]


def spans(*arrays):
    return ctcx.spans(ctcx.ctc_align(*arrays, backend=BACKEND, infeasible="empty"), 2)


def time_major(x, *rest):
    x = x.swapaxes(0, 1)
    return ctcx.ctc_occupancies(x, *rest, time_major=True, backend=BACKEND).classes.swapaxes(0, 1)


def named(function, **options):
    return lambda *arrays: function(*arrays, backend=BACKEND, **options)


def of_samples(x, uniforms, *rest):
    return ctcx.ctc_sample_paths(x, rest[0], uniforms, *rest[1:], backend=BACKEND)


wild = {"wildcards": {-2: ("any", -1.0)}, "free_ends": -2.0, "infeasible": "empty"}
OPERATIONS = {
    "loss": (named(ctcx.ctc_loss), (LOGITS, *REST)),
    "loss_and_grad": (named(ctcx.ctc_loss_and_grad), (LOGITS, *REST)),
    "hvp": (lambda x, *rest: named(ctcx.ctc_hvp, vector=x)(x, *rest), (LOGITS, *REST)),
    "align": (named(ctcx.ctc_align, infeasible="empty"), (LOGITS, *REST)),
    "align, wildcards": (named(ctcx.ctc_align, **wild), (LOGITS, *REST)),
    "occupancies": (named(ctcx.ctc_occupancies, states=True), (LOGITS, *REST)),
    "occupancies, time major": (time_major, (LOGITS, *REST)),
    "entropy": (named(ctcx.ctc_entropy), (LOGITS, *REST)),
    "sample_paths": (of_samples, (LOGITS, UNIFORMS, *REST)),
    "greedy": (named(ctcx.ctc_greedy), (LOGITS, FRAMES)),
    "beam_search": (named(ctcx.ctc_beam_search, width=4, top=2), (LOGITS, FRAMES)),
    "linear": (head, (LOGITS, *REST)),
    "min_frames": (ctcx.min_frames, REST[::2]),
    "from one-hot": (lambda x: ctcx.labels_from_one_hot(x, blank=0), (ONE_HOT,)),
    "to one-hot": (
        lambda *labels: ctcx.labels_to_one_hot(*labels, num_classes=4, num_frames=4, blank=0),
        REST[::2],
    ),
}
OF_VALUES = {"beam_search, guided": (guided, (LOGITS, FRAMES)), "spans": (spans, (LOGITS, *REST))}


KERNELS = {"align", "occupancies", "sample_paths", "greedy", "beam_search"}
"""Those of the core that differ from losses. What stands around kernels is the same for ctcx-cpu,
with which nearly nothing has to be compiled."""

CARRIES = {"align", "beam_search"}
"""Those with loops that begin with what depends on no array."""


def compare(name, got, want, batch=None):
    """Compare results with NumPy's; those of a batch must be sharded like it."""
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    for one, other in zip(got, want, strict=True):
        if batch is not None and isinstance(one, jax.Array) and one.shape[:1] == (4,):
            assert one.sharding.spec[0] == batch, (name, one.sharding)
        values = np.asarray(one)
        if values.shape != np.shape(other):  # of a decoder: -1 and 0 past a sequence's labels
            assert not np.any(values[..., np.shape(other)[-1] :] > 0), name
            values = values[..., : np.shape(other)[-1]]
        np.testing.assert_allclose(values, other, rtol=1e-5, atol=1e-5, err_msg=name)
    sys.stdout.write(f"{name}\n")


MESH = jax.make_mesh((2, 2), ("i", "j"), axis_types=(AxisType.Explicit,) * 2)


def placed(arrays, spec):
    """The arrays on the mesh: the first one sharded as the spec says, the others in their batch."""
    specs = (spec, *[P(*spec[:1])] * (len(arrays) - 1))
    pairs = zip(arrays, specs, strict=True)
    return tuple(jax.device_put(array, NamedSharding(MESH, spec)) for array, spec in pairs)


def every_operation(*, thorough):
    """All public operations: results are NumPy's, and sharded like the batch."""
    for name, (function, arrays) in (OPERATIONS | OF_VALUES).items():
        if not (is_whole or name in KERNELS):
            continue
        want = function(*arrays)
        compare(f"{name}, all", function(*placed(arrays, P("i"))), want, "i")
        if thorough:
            with_other_axes(name, function, arrays, want)
        if name in OPERATIONS and thorough:
            in_programs(name, function, arrays, want)
        if name in CARRIES or (name in OPERATIONS and thorough):
            in_shard_map(name, function, arrays, want)


def with_other_axes(name, function, arrays, want):
    """Logits alone are sharded, the mesh is in context, and others than the batch's are sharded."""
    if len(arrays) > 1 and name != "sample_paths":
        first, *rest = arrays
        compare(f"{name}, first", function(*placed([first], P("i")), *rest), want, "i")
    with jax.set_mesh(MESH):
        compare(f"{name}, context", function(*placed(arrays, P(("i", "j")))), want)
    for spec in P(None, "j"), P("i", None, "j"):
        if len(spec) <= arrays[0].ndim:
            compare(f"{name}, {spec}", function(*placed(arrays, spec)), want)


def in_programs(name, function, arrays, want):
    """Under ``jax.jit``."""
    for spec in P("i"), P(None, "j"), P():
        compare(f"{name}, jit, {spec}", jax.jit(function)(*placed(arrays, spec)), want)
    with jax.set_mesh(MESH):
        compare(f"{name}, jit, context", jax.jit(function)(*placed(arrays, P("i"))), want, "i")


def in_shard_map(name, function, arrays, want):
    """Each device computes its own sequences, and JAX checks over which axes results vary."""

    def parts(*arrays):
        found = tuple(jax.tree.leaves(function(*arrays)))
        return found[:count]

    # Others of a layer's results are sums over the batch.
    count = 2 if name == "linear" else len(jax.tree.leaves(want))
    manual = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(parts, mesh=manual, in_specs=P("i"), out_specs=P("i"))
    want = jax.tree.leaves(want)[:count]
    compare(f"{name}, shard_map", jax.jit(mapped)(*arrays), want)
    if is_whole:
        compare(f"{name}, shard_map, eager", mapped(*arrays), want)


def gradients_of_layers():
    """A layer that all devices have: its gradient is the sum of theirs, and lies like it."""
    weight, bias = map(jax.numpy.asarray, (WEIGHT, BIAS))
    want = head(LOGITS, *REST)[1:4]

    def total(hidden, weight, bias, *rest):
        call = ctcx.linear_ctc_loss_and_grad
        return call(hidden, weight, bias, *rest, backend=BACKEND).loss.sum()

    grads = jax.grad(total, argnums=(0, 1, 2))
    with jax.set_mesh(MESH):
        (hidden,), (columns,) = placed([LOGITS], P("i")), placed([weight], P("j"))
        got = jax.jit(grads)(hidden, columns, *placed([bias], P()), *REST)
        compare("explicit, gradients of a layer", got, want)
        assert [each.sharding.spec[0] for each in got] == ["i", "j", None], got
    manual = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,))
    each = (P("i"), P(), P(), P("i"), P("i"), P("i"))
    mapped = jax.shard_map(grads, mesh=manual, in_specs=each, out_specs=each[:3])
    compare("shard_map, gradients of a layer", jax.jit(mapped)(LOGITS, weight, bias, *REST), want)


def wrong_values():
    """Errors are those of NumPy's arrays: they name the place."""
    mesh = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Explicit,))
    split = NamedSharding(mesh, P("i"))
    logits, labels, uniforms = LOGITS.copy(), LABELS.copy(), UNIFORMS.copy()
    logits[2, 1, 3], labels[2, 1], uniforms[3, 1, 2] = np.nan, 9, 1.5
    frames = np.asarray([4, 3, 1, 4])
    cases = [
        (named(ctcx.ctc_align), (LOGITS, LABELS, frames, REST[2])),
        (named(ctcx.ctc_loss, infeasible="raise"), (LOGITS, LABELS, frames, REST[2])),
        (named(ctcx.ctc_greedy), (logits, FRAMES)),
        (lambda x, *rest: named(ctcx.ctc_hvp, vector=x)(x * 0, *rest), (logits, *REST)),
        (of_samples, (LOGITS, uniforms, *REST)),
        (head, (logits, *REST)),
        (ctcx.min_frames, (labels - 10, REST[2])),
    ]
    cases += [(OPERATIONS[name][0], (LOGITS, labels, *REST[1:])) for name in ("loss", "align")]
    for function, arrays in cases:
        with pytest.raises(ctcx.CTCError) as want:
            function(*arrays)
        with pytest.raises(ctcx.CTCError) as got:
            function(*(jax.device_put(each, split) for each in arrays))
        assert str(got.value) == str(want.value)


thorough = "--thorough" in sys.argv
is_whole = thorough or BACKEND != "array-api"
every_operation(thorough=thorough)
if is_whole:
    gradients_of_layers()
    wrong_values()
sys.stdout.write("done\n")
