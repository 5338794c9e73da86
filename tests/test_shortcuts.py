"""Shortcuts: when a backend's is called, and that what it returns is looked at."""

from __future__ import annotations

import signal
import warnings
from functools import partial

import numpy as np
import pytest

import ctcx
from ctcx.plugin import Backend, Decline
from tests.helpers import needed
from tests.test_results import ENDS, FORMS, PAIRS, VALUES

LOGITS = np.zeros((2, 5, 4), dtype=np.float32)
LABELS = np.array([[1, 0], [2, 3]])
LENGTHS = np.array([5, 4]), np.array([1, 2])
PLAIN = LOGITS, LABELS, *LENGTHS

RECORDER = """
from ctcx.plugin import Backend, Feature, hookimpl, load_kernel

CALLS = []

def detached(logits):
    return logits.detach() if hasattr(logits, "detach") else logits

def loss(logits, labels, logit_lengths, label_lengths, blank):
    CALLS.append(("loss", blank))
    return {returned}load_kernel("array-api", "loss")(
        detached(logits), labels, logit_lengths, label_lengths, blank=blank % logits.shape[2]
    )

def loss_and_grad(logits, labels, logit_lengths, label_lengths, blank):
    CALLS.append(("loss_and_grad", blank))
    return {returned}load_kernel("array-api", "loss_and_grad")(
        detached(logits), labels, logit_lengths, label_lengths, blank=blank % logits.shape[2]
    )

def kernel(*arrays, blank):
    CALLS.append(("kernel", blank))
    return load_kernel("array-api", "loss")(*arrays, blank=blank)

def pair(*arrays, blank):
    CALLS.append(("kernel", blank))
    return load_kernel("array-api", "loss_and_grad")(*arrays, blank=blank)

@hookimpl
def ctcx_backends():
    yield Backend(
        name="quick",
        kernels={{"loss": "ctcx_quick:kernel", "loss_and_grad": "ctcx_quick:pair"}},
        shortcuts={{"loss": "ctcx_quick:loss", "loss_and_grad": "ctcx_quick:loss_and_grad"}},
        namespaces={{"numpy", "torch"}},
        dtypes={{"float32", "float64"}},
        features={{Feature.GRAD, Feature.NONCONTIGUOUS}},
        priority=5,
        opt_in={opt_in},
        api=(2, 7),
        {more}
    )
    {others}
"""
OTHER = """yield Backend(
        name="other", kernels={"loss": "ctcx_quick:kernel"}, namespaces={"numpy"}, **{}
    )"""


@pytest.fixture
def garbage(plugins):
    """The fixture plugin 'returns_garbage', loaded."""
    plugins.install("returns_garbage")
    plugins.load()
    return plugins


@pytest.fixture
def quick(plugins):
    """A plugin whose shortcuts record what they are called with, and the record."""

    def load(*, returned="", more="", others="", opt_in=False):
        code = RECORDER.format(returned=returned, more=more, others=others, opt_in=opt_in)
        plugins.write("quick", code)
        plugins.load()
        import ctcx_quick

        ctcx_quick.CALLS.clear()
        return ctcx_quick.CALLS

    return load


def called(calls, function, *arrays, **options):
    """What a call of ctcx has called."""
    calls.clear()
    function(*arrays, **options)
    return [what for what, _ in calls]


def test_a_plain_call_goes_by_the_shortcut(quick):
    calls = quick()
    assert called(calls, ctcx.ctc_loss, *PLAIN) == ["loss"]
    assert called(calls, ctcx.ctc_loss_and_grad, *PLAIN) == ["loss_and_grad"]
    assert called(calls, ctcx.ctc_loss, *PLAIN, blank=-4) == ["loss"]
    assert calls == [("loss", -4)]
    for options in (
        {"reduction": "sum"},
        {"reduction": "mean_per_label", "infeasible": "zero"},
        {"infeasible": "raise"},
        {"backend": "quick"},
    ):
        assert called(calls, ctcx.ctc_loss, *PLAIN, **options) == ["loss"], options
    turned = LOGITS.swapaxes(0, 1)
    assert called(calls, ctcx.ctc_loss, turned, *PLAIN[1:], time_major=True) == ["loss"]


@pytest.mark.parametrize("what", ["list", "subclass", "one sequence", "no validation"])
def test_any_other_call_does_not(quick, what):
    calls = quick()
    arrays, options = {
        "list": ((LOGITS, LABELS.tolist(), *LENGTHS), {}),
        "subclass": ((LOGITS.view(np.memmap), *PLAIN[1:]), {}),
        "one sequence": ((LOGITS[0], LABELS[0, :1]), {}),
        "no validation": (PLAIN, {"validate": False}),
    }[what]
    assert called(calls, ctcx.ctc_loss, *arrays, **options) == ["kernel"]


def test_only_the_first_choice_may_take_a_shortcut(quick):
    """Selection decides: by name, by use_backend, and by priority."""
    calls = quick(others=OTHER.replace("{}", "{'priority': 9, 'opt_in': False}", 1))
    assert called(calls, ctcx.ctc_loss, *PLAIN) == ["kernel"]
    assert called(calls, ctcx.ctc_loss_and_grad, *PLAIN) == ["loss_and_grad"]  # has none of it
    assert called(calls, ctcx.ctc_loss, *PLAIN, backend="quick") == ["loss"]
    assert called(calls, ctcx.ctc_loss, *PLAIN, backend="array-api") == []
    with ctcx.use_backend("array-api", "quick"):
        assert called(calls, ctcx.ctc_loss, *PLAIN) == []
    with ctcx.use_backend("quick", "array-api"):
        assert called(calls, ctcx.ctc_loss, *PLAIN) == ["loss"]


def test_the_environment_decides_too(quick, monkeypatch):
    calls = quick()
    monkeypatch.setenv("CTCX_BACKEND", "array-api")
    assert called(calls, ctcx.ctc_loss, *PLAIN) == []
    monkeypatch.setenv("CTCX_BACKEND", "nobody")
    with pytest.raises(ctcx.UnknownBackendError, match="nobody"):
        ctcx.ctc_loss(*PLAIN)
    monkeypatch.delenv("CTCX_BACKEND")
    assert called(calls, ctcx.ctc_loss, *PLAIN) == ["loss"]


def test_one_that_has_to_be_named_is_not_taken_without_its_name(quick):
    calls = quick(opt_in=True)
    assert called(calls, ctcx.ctc_loss, *PLAIN) == []
    assert called(calls, ctcx.ctc_loss, *PLAIN, backend="quick") == ["loss"]


def test_a_backend_that_can_not_be_used_here_has_no_shortcut(quick):
    calls = quick(more="probe=lambda: 'no such processor',")
    assert called(calls, ctcx.ctc_loss, *PLAIN) == []
    with pytest.raises(ctcx.BackendError, match="no such processor"):
        ctcx.ctc_loss(*PLAIN, backend="quick")


@pytest.mark.parametrize("function", [ctcx.ctc_loss, ctcx.ctc_loss_and_grad])
def test_a_shortcut_that_declines_leaves_the_call_to_the_kernel(quick, function):
    calls = quick(returned="None and ")
    expected = function(*PLAIN, backend="array-api")
    calls.clear()
    found = function(*PLAIN)
    assert [what for what, _ in calls] == [function.__name__.removeprefix("ctc_"), "kernel"]
    np.testing.assert_array_equal(np.asarray(found[0]), np.asarray(expected[0]))


def test_trace_tells_of_it(quick):
    quick()
    with ctcx.trace() as runs:
        ctcx.ctc_loss_and_grad(*PLAIN)
    (run,) = runs
    assert (run.backend, run.operation, run.problem.N) == ("quick", "loss_and_grad", 2)
    assert [candidate.status for candidate in run.decision.candidates] == ["selected", "available"]


def test_trace_finds_a_shortcut_for_what_the_backend_does_not_accept(quick):
    quick(more="accepts=lambda problem: 'takes no pairs',")
    with ctcx.trace(), pytest.raises(ctcx.KernelError, match="a call that isn't its own"):
        ctcx.ctc_loss(*PLAIN)


def test_a_shortcut_that_can_not_be_imported_is_reported_once(quick):
    calls = quick()
    import ctcx_quick

    del ctcx_quick.loss
    with pytest.warns(ctcx.PluginWarning, match="shortcut 'ctcx_quick:loss' can't be imported"):
        assert called(calls, ctcx.ctc_loss, *PLAIN) == ["kernel"]
    with warnings.catch_warnings(action="error"):
        assert called(calls, ctcx.ctc_loss, *PLAIN) == ["kernel"]


@pytest.mark.parametrize("way", [way for way in (FORMS | VALUES) if way != "none"])
@pytest.mark.usefixtures("garbage")
def test_a_loss_that_a_shortcut_returns_is_looked_at(way):
    with pytest.raises(ctcx.KernelError, match=(FORMS | VALUES)[way]) as caught:
        ctcx.ctc_loss(*PLAIN, backend=f"{way}-shortcut")
    assert caught.value.backend == f"{way}-shortcut"


@pytest.mark.parametrize("way", [way for way in (FORMS | VALUES | PAIRS) if way != "none"])
@pytest.mark.usefixtures("garbage")
def test_a_pair_that_a_shortcut_returns_is_looked_at(way):
    with pytest.raises(ctcx.KernelError, match=(FORMS | VALUES | PAIRS)[way]):
        ctcx.ctc_loss_and_grad(*PLAIN, backend=f"{way}-shortcut")


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.usefixtures("garbage")
def test_a_shortcut_can_not_end_the_process(way):
    with pytest.raises(ctcx.KernelError, match=ENDS[way]):
        ctcx.ctc_loss(*PLAIN, backend=f"{way}-shortcut")


@pytest.mark.usefixtures("garbage")
def test_tensors_that_a_shortcut_returns_are_looked_at():
    torch = needed("torch")
    arrays = tuple(map(torch.tensor, PLAIN))
    for way, message in {
        "shape": r"shape \(1,\) as loss, expected \(2,\)",
        "dtype": "an array of int32 as loss, expected float32",
        "library": "an array of numpy as loss, expected one of torch",
        "wants-gradient": "a tensor that requires a gradient as loss",
        "negative": VALUES["negative"],
    }.items():
        with pytest.raises(ctcx.KernelError, match=message):
            ctcx.ctc_loss(*arrays, backend=f"{way}-shortcut")
    for way in ("grad-shape", "grad-library", "grad-input", "three"):
        with pytest.raises(ctcx.KernelError, match="expected"):
            ctcx.ctc_loss(
                arrays[0].clone().requires_grad_(), *arrays[1:], backend=f"{way}-shortcut"
            )


def test_torch_differentiates_a_call_by_a_shortcut(quick):
    torch = needed("torch")
    calls = quick()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, 5, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([[1, 2, 2], [3, 0, 0], [4, 4, 4]])
    lengths = torch.tensor([9, 4, 4]), torch.tensor([3, 1, 3])  # the last one has no path
    for reduction in ("none", "sum", "mean", "mean_per_label"):
        for infeasible in ("inf", "zero"):
            loss = partial(
                ctcx.ctc_loss,
                labels=labels,
                logit_lengths=lengths[0],
                label_lengths=lengths[1],
                reduction=reduction,
                infeasible=infeasible,
            )
            calls.clear()
            results = [loss(logits), loss(logits, backend="array-api")]
            assert [what for what, _ in calls] == ["loss_and_grad"]
            above = torch.rand(results[0].shape, generator=generator, dtype=torch.float64)
            for upstream in (torch.ones_like(above), above):
                found, expected = (
                    torch.autograd.grad(result, logits, upstream, retain_graph=True)[0]
                    for result in results
                )
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
            # Again, and a second derivative.
            first, expected = (
                torch.autograd.grad(result, logits, above, create_graph=True)[0]
                for result in results
            )
            torch.testing.assert_close(first, expected, rtol=1e-12, atol=1e-14)
            second, expected = (
                torch.autograd.grad((grad * logits.detach()).sum(), logits)[0]
                for grad in (first, expected)
            )
            torch.testing.assert_close(second, expected, rtol=1e-9, atol=1e-12)


def test_modes_and_transformations_of_torch_see_the_usual_way(quick):
    torch = needed("torch")
    calls = quick()
    arrays = tuple(map(torch.tensor, PLAIN))
    assert called(calls, ctcx.ctc_loss, *arrays) == ["loss"]

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    with Mode():
        assert called(calls, ctcx.ctc_loss, *arrays) == ["kernel"]
    with torch.autograd.forward_ad.dual_level():
        assert called(calls, ctcx.ctc_loss, *arrays) == ["kernel"]
    vmapped = torch.func.vmap(lambda x: ctcx.ctc_loss(x, *arrays[1:]))
    assert called(calls, vmapped, arrays[0][None]) == ["kernel"]


def test_results_lie_where_the_logits_do(quick):
    torch = needed("torch")
    quick()
    arrays = tuple(map(torch.tensor, PLAIN))
    torch.set_default_device("meta")
    try:
        losses = [
            ctcx.ctc_loss(arrays[0].requires_grad_(), arrays[1], reduction=reduction)
            for reduction in ("sum", "mean_per_label")
        ]
    finally:
        torch.set_default_device(None)
    assert [loss.device.type for loss in losses] == ["cpu", "cpu"]


@pytest.mark.parametrize(
    ("shortcuts", "message"),
    [
        (["loss"], "shortcuts must map operations to functions"),
        ({"loss": 7}, r"shortcuts\['loss'\] must look like"),
        ({"loss_and_grad": "a:b"}, "shortcuts has 'loss_and_grad'"),
        ({"align": "a:b"}, "there can be one for loss and loss_and_grad if there is a kernel"),
    ],
)
def test_a_descriptor_says_what_is_wrong_with_its_shortcuts(shortcuts, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Backend(
            name="quick",
            kernels={"loss": "a:b"},
            namespaces={"numpy"},
            shortcuts=shortcuts,
        )


class Look(list):
    """A list with an attribute of PyTorch's tensors."""

    requires_grad = True


@pytest.mark.parametrize("function", [ctcx.ctc_loss, ctcx.ctc_loss_and_grad])
def test_what_is_no_array_gets_the_usual_error(quick, function):
    torch = needed("torch")
    calls = quick()
    for labels in (LABELS, torch.tensor(LABELS), None):
        for logits in (None, Look([[1.0]])):
            with pytest.raises(ctcx.CTCInputError, match="logits must be an array of NumPy"):
                function(logits, labels)
    assert not calls


def test_an_array_of_a_subclass_may_have_any_attribute(quick):
    class Recorded(np.ndarray):
        requires_grad = True

    calls = quick()
    assert called(calls, ctcx.ctc_loss, LOGITS.view(Recorded), *PLAIN[1:]) == ["kernel"]


@pytest.mark.parametrize("function", [ctcx.ctc_loss, ctcx.ctc_loss_and_grad])
def test_of_two_mistakes_the_usual_one_is_told(quick, function):
    calls = quick()
    with pytest.raises(ctcx.CTCInputError, match=r"labels must have shape \(2, S\)"):
        function(LOGITS, LABELS[:1], backend=7)
    with pytest.raises(ctcx.CTCInputError, match="backend must be the name of a backend"):
        function(*PLAIN, backend=7)
    assert not calls


@pytest.mark.parametrize("function", [ctcx.ctc_loss, ctcx.ctc_loss_and_grad])
def test_trace_tells_once_of_a_call_that_ends_in_an_error(quick, function):
    quick()
    with ctcx.trace() as runs, pytest.raises(ctcx.InfeasibleError):
        function(*PLAIN[:2], np.array([5, 1]), LENGTHS[1], infeasible="raise")
    assert [run.backend for run in runs] == ["quick"]


def test_a_shortcut_may_decline_as_a_kernel_does(quick):
    calls = quick()
    import ctcx_quick

    def loss(*_):
        reason = "not today"
        raise Decline(reason)

    ctcx_quick.loss = loss
    assert called(calls, ctcx.ctc_loss, *PLAIN) == ["kernel"]


def test_an_interrupt_during_a_wrong_call_is_the_users(quick):
    quick()
    import ctcx_quick

    def loss(*_):
        signal.raise_signal(signal.SIGINT)

    ctcx_quick.loss = loss
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            ctcx.ctc_loss(LOGITS, LABELS[:1])
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("lazy-negative", "a tensor with a lazy negative bit as loss"),
        ("lazy-negative-grad", "a tensor with a lazy negative bit as grad"),
        ("sparse", "a result that can't be looked at"),
        ("sparse-grad", "a result that can't be looked at"),
        ("recorded", "a tensor that requires a gradient as loss"),
        ("recorded-grad", "a tensor that requires a gradient as grad"),
    ],
)
def test_tensors_of_odd_kinds_are_no_results(quick, way, message):
    torch = needed("torch")
    quick()
    import ctcx_quick

    change = {
        "lazy-negative": lambda tensor: torch._neg_view(-tensor),
        "sparse": lambda tensor: tensor.to_sparse(),
        "recorded": lambda tensor: tensor.requires_grad_(),
    }[way.removesuffix("-grad")]

    def loss_and_grad(logits, *_):
        loss, grad = torch.ones(2), torch.zeros(2, 5, 4)
        return (loss, change(grad)) if way.endswith("-grad") else (change(loss), grad)

    ctcx_quick.loss_and_grad = loss_and_grad
    arrays = tuple(map(torch.tensor, PLAIN))
    with pytest.raises(ctcx.KernelError, match=message):
        ctcx.ctc_loss_and_grad(*arrays)
    with pytest.raises(ctcx.KernelError, match=message):
        ctcx.ctc_loss(arrays[0].requires_grad_(), *arrays[1:])


def test_compiled_autograd_goes_back_through_a_shortcut(quick):
    torch = needed("torch")
    from torch._dynamo import compiled_autograd

    calls = quick()
    arrays = tuple(map(torch.tensor, PLAIN))
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = ctcx.ctc_loss(logits, *arrays[1:], reduction="sum")
    assert [what for what, _ in calls] == ["loss_and_grad"]
    with compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward()
    (expected,) = torch.autograd.grad(
        ctcx.ctc_loss(logits, *arrays[1:], reduction="sum", backend="array-api"), logits
    )
    torch.testing.assert_close(logits.grad, expected)
