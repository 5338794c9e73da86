"""Ways in which JAX calls a function, and operations of ctcx on arrays that it closes over.

A table for the tests of each backend. All arrays of an operation have values, also where JAX is
making a program of the operation.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import ctcx

LOGITS = np.random.default_rng(0).standard_normal((2, 3, 3)).astype("float32")
LABELS, FRAMES, LENGTHS = np.asarray([[1, 2], [2, 1]]), np.asarray([3, 2]), np.asarray([2, 1])
VECTOR = np.random.default_rng(1).standard_normal((2, 3, 3)).astype("float32")
ARRAYS = tuple(map(jnp.asarray, (LOGITS, LABELS, FRAMES, LENGTHS)))
JAX_VECTOR = jnp.asarray(VECTOR)


def loss(backend):
    """Loss alone, every array one of JAX's."""
    return ctcx.ctc_loss(*ARRAYS, backend=backend)


def loss_of_lists(backend):
    """Loss of lists beside logits of JAX's."""
    rest = (LABELS.tolist(), FRAMES.tolist(), LENGTHS.tolist())
    return ctcx.ctc_loss(ARRAYS[0], *rest, backend=backend)


def gradient(backend):
    """Loss and gradient, by JAX."""
    logits, *rest = ARRAYS
    total = lambda x: ctcx.ctc_loss(x, *rest, backend=backend, reduction="sum")
    return jax.value_and_grad(total)(logits)


def loss_and_grad(backend):
    """Loss and gradient, by ctcx."""
    return tuple(ctcx.ctc_loss_and_grad(*ARRAYS, backend=backend))


def hvp(backend):
    """Second derivatives."""
    return ctcx.ctc_hvp(*ARRAYS, vector=JAX_VECTOR, backend=backend)


def expected():
    """What each operation returns, in NumPy arrays."""
    arrays = (LOGITS, LABELS, FRAMES, LENGTHS)
    result = ctcx.ctc_loss_and_grad(*arrays, backend="array-api")
    return {
        loss: result.loss,
        loss_of_lists: result.loss,
        gradient: (result.loss.sum(), result.grad),
        loss_and_grad: tuple(result),
        hvp: ctcx.ctc_hvp(*arrays, vector=VECTOR, backend="array-api"),
    }


def _first(tree):
    return jax.tree.map(lambda array: array[0], tree)


def _empty(f):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(f))


def _scan(f):
    return _first(lax.scan(lambda carry, _: (carry, f()), 0, None, length=2)[1])


def _fori_loop(f):
    return lax.fori_loop(0, 2, lambda *_: f(), _empty(f))


def _while_loop(f):
    below = lambda state: state[0] < 2
    return lax.while_loop(below, lambda state: (state[0] + 1, f()), (0, _empty(f)))[1]


def _vmap(f, **options):
    return _first(jax.vmap(lambda _: f(), **options)(jnp.ones(2)))


def _custom_vjp(f):
    @jax.custom_vjp
    def call(_):
        return f()

    call.defvjp(lambda _: (f(), None), lambda *_: (0.0,))
    return jax.vjp(call, 1.0)[0]


def _custom_jvp(f):
    @jax.custom_jvp
    def call(_):
        return f()

    @call.defjvp
    def _(*_):
        result = f()
        zero = lambda x: np.zeros(
            x.shape, x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jax.dtypes.float0
        )
        return result, jax.tree.map(zero, result)

    return jax.jvp(call, (1.0,), (1.0,))[0]


def _shard_map(f, **options):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec()
    return jax.shard_map(f, mesh=mesh, in_specs=(), out_specs=spec, **options)()


def _at_compile_time(f):
    def call():
        with jax.ensure_compile_time_eval():
            return f()

    return jax.jit(call)()


def _abstractly(f):
    """Traced, and not run: the shapes must be those of the call itself."""
    shapes, result = jax.eval_shape(f), f()
    jax.make_jaxpr(f)()
    assert jax.tree.map(jnp.shape, result) == jax.tree.map(jnp.shape, shapes)
    return result


def _callback(f):
    to_host = lambda: jax.tree.map(np.asarray, f())
    return jax.pure_callback(to_host, jax.eval_shape(f))


def _within(context, *arguments):
    def call(f):
        with context(*arguments):
            return f()

    return call


def _then_jit(transformation):
    return lambda f: jax.jit(lambda: transformation(f))()


def _jit(f):
    return jax.jit(f)()


TRANSFORMATIONS = {
    "none": lambda f: f(),
    "jit": _jit,
    "jit of jit": _then_jit(_jit),
    "lower and compile": lambda f: jax.jit(f).lower().compile()(),
    "eval_shape and make_jaxpr": _abstractly,
    "scan": _scan,
    "fori_loop": _fori_loop,
    "while_loop": _while_loop,
    "map": lambda f: _first(lax.map(lambda _: f(), jnp.ones(2))),
    "cond": lambda f: lax.cond(True, f, f),
    "jit of cond": lambda f: jax.jit(lambda which: lax.cond(which, f, f))(True),
    "switch": lambda f: lax.switch(1, [f, f, f]),
    "checkpoint": lambda f: jax.checkpoint(f)(),
    "vmap": _vmap,
    "vmap with a name": lambda f: _vmap(f, axis_name="i"),
    "jit of vmap": _then_jit(_vmap),
    "grad": lambda f: jax.grad(lambda x: (x, f()), has_aux=True)(1.0)[1],
    "jit of grad": lambda f: jax.jit(jax.grad(lambda x: (x, f()), has_aux=True))(1.0)[1],
    "jvp": lambda f: jax.jvp(lambda x: (x, f()), (1.0,), (1.0,))[0][1],
    "vjp": lambda f: jax.vjp(lambda x: (x, f()), 1.0)[0][1],
    "linearize": lambda f: jax.linearize(lambda x: (x, f()), 1.0)[0][1],
    "custom_vjp": _custom_vjp,
    "jit of custom_vjp": _then_jit(_custom_vjp),
    "custom_jvp": _custom_jvp,
    "jit of custom_jvp": _then_jit(_custom_jvp),
    "shard_map": _shard_map,
    "jit of shard_map": _then_jit(_shard_map),
    "jit of shard_map, unchecked": _then_jit(lambda f: _shard_map(f, check_vma=False)),
    "pure_callback": _callback,
    "jit of pure_callback": _then_jit(_callback),
    "ensure_compile_time_eval": _at_compile_time,
    "disable_jit": lambda f: _within(jax.disable_jit)(lambda: _jit(f)),
    "debug_nans": _within(jax.debug_nans, True),
    "debug_nans, jit": lambda f: _within(jax.debug_nans, True)(lambda: _jit(f)),
    "debug_infs": _within(jax.debug_infs, True),
    "checking_leaks": lambda f: _within(jax.checking_leaks)(lambda: _jit(f)),
    "strict dtype promotion": _within(jax.numpy_dtype_promotion, "strict"),
    "strict dtype promotion, jit": lambda f: _within(jax.numpy_dtype_promotion, "strict")(
        lambda: _jit(f)
    ),
    "no rank promotion": _within(jax.numpy_rank_promotion, "raise"),
    # Without jit, JAX's own operators raise: x == 0 would upload a 0.
    "transfer_guard, jit": lambda f: _within(jax.transfer_guard, "disallow")(lambda: _jit(f)),
    "enable_x64": _within(jax.enable_x64, True),
    "enable_x64, jit": lambda f: _within(jax.enable_x64, True)(lambda: _jit(f)),
    "enable_x64 inside of jit": lambda f: _jit(lambda: _within(jax.enable_x64, True)(f)),
}


def check(transformation, operation, backend):
    """Assert that an operation returns the right numbers, in arrays of JAX's."""
    result = TRANSFORMATIONS[transformation](lambda: operation(backend))
    want = expected()[operation]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(result))
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(result))
    compare = lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-6, atol=5e-6)
    jax.tree.map(compare, result, want)
