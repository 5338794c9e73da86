"""Calls on TensorFlow's tensors, which are not of the array API: through NumPy, and back.

In eager mode the tensors' memory is read as it is. Under ``tf.function`` the same code runs as a
``tf.numpy_function``. Either way it runs on the host. Nothing here imports TensorFlow before a
tensor of it is seen.
"""

from __future__ import annotations

import sys
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "differentiable",
    "holds_tensors",
    "in_single_or_double",
    "on_host",
    "without_autograph",
]

_Function = TypeVar("_Function", bound="Callable[..., Any]")
_HALVES = ("float16", "bfloat16")
_NO_SECOND = (
    "ctcx.compat.tensorflow.ctc_loss has no second derivative on TensorFlow's tensors "
    "(tf.nn.ctc_loss gives NaN); ctcx.ctc_loss has it on PyTorch and JAX"
)
_ALIGNMENT = 64
"""Bytes: TensorFlow reads memory that is aligned less with instructions that fail on it."""


def without_autograph(function: _Function) -> _Function:
    """Keep AutoGraph, with which ``tf.function`` rewrites what it calls, out of a function of ctcx.

    There is nothing in it to rewrite, and AutoGraph warns of what it can't.
    """

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        tf = sys.modules.get("tensorflow")
        if tf is None or tf.executing_eagerly():
            return function(*args, **options)
        return tf.autograph.experimental.do_not_convert(function)(*args, **options)

    return cast("_Function", call)


def holds_tensors(*values: Any) -> bool:
    """Whether any is a TensorFlow tensor or variable, or a sparse tensor's part that is one."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and any(
        isinstance(value, (tf.Tensor, tf.Variable))
        or (isinstance(value, tuple) and holds_tensors(*value))
        for value in values
    )


def on_host(compute: Callable[..., Any], arguments: Sequence[Any], dtypes: Sequence[Any]) -> Any:
    """``compute(*arrays)`` on NumPy arrays, results as tensors; None stays None.

    ``compute`` returns as many arrays as ``dtypes`` has, in a tuple.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        results = compute(*map(_to_numpy, arguments))
        return tuple(
            _to_tensor(tf, result, dtype) for result, dtype in zip(results, dtypes, strict=True)
        )
    given = [place for place, value in enumerate(arguments) if value is not None]

    def inside(*arrays: Any) -> Any:
        full = [None] * len(arguments)
        for place, array in zip(given, arrays, strict=True):
            full[place] = array
        results = compute(*full)
        return tuple(
            np.asarray(result, dtype=tf.as_dtype(dtype).as_numpy_dtype)
            for result, dtype in zip(results, dtypes, strict=True)
        )

    tensors = [tf.convert_to_tensor(arguments[place]) for place in given]
    return tuple(tf.numpy_function(inside, tensors, list(dtypes), stateful=False))


def in_single_or_double(logits: Any) -> Any:
    """Logits as a tensor, halves in float32."""
    import tensorflow as tf

    logits = tf.convert_to_tensor(logits)
    return tf.cast(logits, tf.float32) if logits.dtype.name in _HALVES else logits


def differentiable(
    compute: Callable[..., tuple[Any, Any]],
    logits: Any,
    others: Sequence[Any],
    *,
    time_major: bool,
    name: str | None,
) -> Any:
    """Loss (N,) of ``compute(logits, *others) -> (loss, grad)``, known to ``tf.GradientTape``.

    Half precision is computed in float32, and the loss stays in it.
    """
    import tensorflow as tf

    # A variable among the others would be one to differentiate by, for custom_gradient.
    others = [tf.convert_to_tensor(x) if isinstance(x, tf.Variable) else x for x in others]
    if tf.executing_eagerly():
        # A second backward computes again, of labels that the caller may have written over by then.
        others = [x.copy() if isinstance(x, np.ndarray) else _to_numpy(x) for x in others]
        eager = _Eager(compute, others, time_major=time_major)
        return _recorded()(in_single_or_double(logits), call=eager)
    with tf.name_scope(name or "ctcx_ctc_loss"):
        logits = in_single_or_double(logits)

        def call(x: Any) -> Any:
            loss, grad = on_host(compute, (x, *others), (x.dtype, x.dtype))
            rank = x.shape.rank
            loss.set_shape([x.shape[1 if time_major else 0]] if rank == 3 else None)
            grad.set_shape(x.shape)
            return loss, lambda upstream: _once(tf, x, grad, upstream, time_major=time_major)

        return tf.custom_gradient(call)(logits)


@cache
def _recorded() -> Callable[..., Any]:
    """Return a function of ``(logits, call=call)`` that tapes know the gradient of.

    One for all calls: what ``tf.custom_gradient`` makes costs as much as a small loss.
    """
    import tensorflow as tf

    return cast("Callable[..., Any]", tf.custom_gradient(lambda logits, *, call: call(logits)))


class _Eager:
    """A loss of tensors whose values are there, and its gradient.

    The first backward gives the gradient's own memory away, scaled in place if need be. Whoever
    comes later has it computed again.
    """

    def __init__(
        self, compute: Callable[..., tuple[Any, Any]], others: Sequence[Any], *, time_major: bool
    ) -> None:
        self.compute, self.others, self.time_major = compute, others, time_major
        self.logits: Any = None
        self.found: list[Any] = []

    def __call__(self, logits: Any) -> tuple[Any, Callable[[Any], Any]]:
        import tensorflow as tf

        self.logits = logits
        loss, grad = self.compute(_to_numpy(logits), *self.others)
        self.found.append(grad)
        return _to_tensor(tf, loss, logits.dtype), self.backward

    def backward(self, upstream: Any) -> Any:
        """Return the gradient times the upstream gradient; differentiating it again raises."""
        import tensorflow as tf

        logits, upstream = self.logits, tf.convert_to_tensor(upstream)
        try:
            grad = self.found.pop()
        except IndexError:
            _, grad = self.compute(_to_numpy(logits), *self.others)
        if not tf.executing_eagerly():  # a tape that is asked inside of a tf.function
            grad = _to_tensor(tf, grad, logits.dtype)
            return _once(tf, logits, grad, upstream, time_major=self.time_major)
        factor = _to_numpy(upstream)
        if not (factor == 1).all():
            factor = factor[(None, slice(None), None) if self.time_major else (..., None, None)]
            with np.errstate(all="ignore"):  # TensorFlow says nothing of an overflow or a NaN
                grad = np.multiply(grad, factor, out=grad if grad.flags.writeable else None)
        grad = _to_tensor(tf, grad, logits.dtype)
        # Tapes see that the gradient depends on both, by an operation without a derivative.
        guards = [
            tf.raw_ops.PreventGradient(input=x, message=_NO_SECOND) for x in (logits, upstream)
        ]
        return tf.raw_ops.IdentityN(input=[grad, *guards])[0]


def _once(tf: Any, logits: Any, grad: Any, upstream: Any, *, time_major: bool) -> Any:
    """Return the gradient times the upstream gradient; differentiating it again raises."""

    # The logits are an argument so that a tape sees that the gradient depends on them.
    def scaled(_logits: Any, factor: Any) -> Any:
        axes = (
            (tf.newaxis, slice(None), tf.newaxis) if time_major else (..., tf.newaxis, tf.newaxis)
        )

        def again(*_: Any) -> Any:
            raise LookupError(_NO_SECOND)

        # Of a sum, which is what most losses end in, all factors are 1: then no array is touched.
        is_one = tf.reduce_all(tf.equal(factor, 1))
        return tf.cond(is_one, lambda: grad, lambda: grad * factor[axes]), again

    return tf.custom_gradient(scaled)(logits, upstream)


def _to_tensor(tf: Any, result: Any, dtype: Any) -> Any:
    """Lend the memory of a result, which nothing else uses, to a tensor; converting copies it."""
    host = np.asarray(result)
    if (
        host.dtype == tf.as_dtype(dtype).as_numpy_dtype
        and host.flags.c_contiguous
        and host.flags.writeable
        and host.size
        and host.ctypes.data % _ALIGNMENT == 0
    ):
        return tf.experimental.dlpack.from_dlpack(host.__dlpack__())
    return tf.convert_to_tensor(host, dtype)


def _to_numpy(value: Any) -> Any:
    # .numpy() of a tensor would copy.
    return np.asarray(value) if hasattr(value, "numpy") else value
