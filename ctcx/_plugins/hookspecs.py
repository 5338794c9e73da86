"""The hooks that a plugin may implement. They only register, once, and never run in a call.

A plugin is a module (or any object) named by an entry point of the group ``ctcx.plugins``; it marks
its functions with :data:`ctcx.plugin.hookimpl`. Every hook is optional; one is enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ctcx._plugins.backend import Backend
    from ctcx._plugins.case import Case
    from ctcx._plugins.lower_bound import LowerBound
    from ctcx._plugins.namespace import Namespace

__all__ = [
    "ctcx_backends",
    "ctcx_benchmark_lower_bounds",
    "ctcx_conformance_cases",
    "ctcx_namespaces",
    "ctcx_runtime_info",
]

hookspec = pluggy.HookspecMarker("ctcx")


@hookspec
def ctcx_backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """Offer kernels.

    Called once, when ctcx first needs to know its backends. It must not import the heavy library
    that the kernels need: name the kernels as strings, and import in ``probe`` or in the kernel.

    Returns
    -------
    iterable of Backend
        A list, or the function is a generator.

    Examples
    --------
    >>> from ctcx.plugin import Backend, Feature, hookimpl
    >>> @hookimpl
    ... def ctcx_backends():
    ...     yield Backend(
    ...         name="mine",
    ...         kernels={
    ...             "loss": "my_package.kernels:loss",
    ...             "loss_and_grad": "my_package.kernels:loss_and_grad",
    ...         },
    ...         namespaces={"numpy"},
    ...         features={Feature.GRAD},
    ...     )
    >>> [backend.name for backend in ctcx_backends()]
    ['mine']
    """


@hookspec
def ctcx_benchmark_lower_bounds() -> Iterable[LowerBound]:  # type: ignore[empty-body]
    """Offer lower bounds to measure kernels against: work that a kernel can't do without.

    Called when a benchmark first asks. Name the functions as strings: they are imported when they
    are measured. Their results are not looked at.

    Returns
    -------
    iterable of LowerBound
        A list, or the function is a generator.

    Examples
    --------
    >>> from ctcx.plugin import LowerBound, hookimpl
    >>> @hookimpl
    ... def ctcx_benchmark_lower_bounds():
    ...     yield LowerBound(
    ...         name="mine-softmax",
    ...         function="my_package.kernels:softmax_only",
    ...         backends={"mine"},
    ...         summary="the kernel of mine, writing the softmax and nothing else",
    ...     )
    >>> [bound.name for bound in ctcx_benchmark_lower_bounds()]
    ['mine-softmax']
    """


@hookspec
def ctcx_namespaces() -> Iterable[Namespace]:  # type: ignore[empty-body]
    """Teach tests, benchmarks and the command line to handle the arrays of another library.

    The computation doesn't need this: it works with whatever implements the array API standard.

    Returns
    -------
    iterable of Namespace
        A list, or the function is a generator.

    Examples
    --------
    >>> from ctcx.plugin import Namespace, hookimpl
    >>> @hookimpl
    ... def ctcx_namespaces():
    ...     yield Namespace(
    ...         name="my_arrays",
    ...         distribution="my-arrays",
    ...         from_numpy="my_package.arrays:from_numpy",
    ...         to_numpy="my_package.arrays:to_numpy",
    ...         devices="my_package.arrays:devices",
    ...     )
    >>> [namespace.name for namespace in ctcx_namespaces()]
    ['my_arrays']
    """


@hookspec
def ctcx_conformance_cases() -> Iterable[Case]:  # type: ignore[empty-body]
    """Add worked examples to the conformance suite and the benchmarks.

    Called when they are first asked for, so it may read files.

    Returns
    -------
    iterable of Case
        A list, or the function is a generator.

    Examples
    --------
    >>> from ctcx.plugin import Case, hookimpl
    >>> @hookimpl
    ... def ctcx_conformance_cases():
    ...     yield Case(
    ...         name="one-frame",
    ...         description="a single frame that must emit the single label",
    ...         logits=[[[0.0, 0.0]]],
    ...         labels=[[1]],
    ...         logit_lengths=[1],
    ...         label_lengths=[1],
    ...         expected_loss=[0.6931471805599453],
    ...         provenance="log 2, by hand",
    ...     )
    >>> [case.name for case in ctcx_conformance_cases()]
    ['one-frame']
    """


@hookspec
def ctcx_runtime_info() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Tell what a bug report or a benchmark's header should say: drivers, threads, versions.

    Called each time it is shown. It may import what it describes.

    Returns
    -------
    mapping of str to str
        One line for each key. A line that is a path, and nothing else, is for ``ctcx doctor``: a
        benchmark's report is shown to others, and leaves it out.

    Examples
    --------
    >>> from ctcx.plugin import hookimpl
    >>> @hookimpl
    ... def ctcx_runtime_info():
    ...     return {"my driver": "12.4", "my threads": "8"}
    >>> ctcx_runtime_info()["my threads"]
    '8'
    """
