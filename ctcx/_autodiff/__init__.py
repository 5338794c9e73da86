"""Loss and gradient as operations that PyTorch, JAX and MLX can differentiate.

One idea a module:

``operation``
    The call of a kernel without its arrays, which a library sees as one operation.
``adapters``
    Whether a library has to know of a call, and which module tells it.
``torch_function``
    A ``torch.autograd.Function`` for each derivative.
``jax_rules``
    The ``jax.custom_jvp``.
``mlx_rules``
    The ``mx.custom_function`` for each derivative, which maps, too.
``torch_custom_ops``
    How operators of PyTorch are defined, for compilers and for tensors that kernels can't read.
``torch_kernels``
    The operators of a kernel's call.

That operation goes from arrays in the kernels' form to losses (N,) and their gradient (N, T, C).
Layouts and reductions around it are ordinary operations of the library, which it differentiates
itself. The gradient is
the kernel's, whichever backend it is of, and second derivatives are the core's
(:mod:`ctcx._core.hessian`). No library ever records a recursion over frames.
"""
