"""Loss and gradient as operations that PyTorch and JAX can differentiate.

One idea a module:

``unit``
    The unit that a library sees.
``adapters``
    Whether a library has to know of a call, and which module tells it.
``torch_function``
    A ``torch.autograd.Function`` for each derivative.
``torch_op``
    Operators for ``torch.compile`` and ``torch.export``.
``jax_rules``
    The ``jax.custom_jvp``.

The unit is the call of a kernel: from arrays in the kernels' form to losses
(N,) and their gradient (N, T, C). Layouts and reductions around it are ordinary operations of the
library, which it differentiates itself. The gradient is the kernel's, whichever backend it is of,
and second derivatives are the core's (:mod:`ctcx._core.hessian`). No library ever records a
recursion over frames.
"""
