"""Selection: who is chosen, why the others are not, and what happens when a kernel can't do it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import sys
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest

import ctcx
from ctcx._dispatch import dispatcher
from ctcx.plugin import Problem
from tests.helpers import current_registry

PROBLEM = Problem(
    operation="loss",
    namespace="numpy",
    device="cpu",
    dtype="float32",
    N=2,
    T=5,
    C=4,
    S=2,
    blank=0,
)
ARRAYS = (
    np.zeros((2, 5, 4), dtype=np.float32),
    np.ones((2, 2), dtype=np.int64),
    np.full(2, 5),
    np.full(2, 2),
)


@pytest.fixture
def good(plugins):
    """The fixture plugin 'good', loaded."""
    plugins.install("good")
    plugins.load()
    return plugins


@pytest.fixture
def awkward(plugins):
    """The fixture plugin 'awkward', loaded; its import failure is a warning, once."""
    plugins.install("awkward")
    plugins.load()
    return plugins


def run(problem=PROBLEM, backend=None):
    """Call the kernel selected; the decision."""
    return called(problem, backend)[1]


def called(problem, backend=None):
    """Call the kernel selected; its result and the decision."""
    plan = dispatcher.Plan(dispatcher.select(problem, backend))
    result, plan = dispatcher.call(plan, backend, ARRAYS, {"blank": problem.blank})
    return result, plan.decision


def selected(**changes):
    return dispatcher.select(replace(PROBLEM, **changes)).selected.backend.name


def verdicts(decision):
    return {c.name: (c.status, c.reason) for c in decision.candidates}


# Automatic selection


def test_without_plugins_the_core_computes(plugins):
    plugins.load()
    assert selected() == "array-api"
    assert selected(namespace="whatever", device="abacus:3", dtype="bfloat16") == "array-api"


def test_the_highest_priority_goes_first_and_opt_in_backends_wait_to_be_named(good):
    decision = dispatcher.explain_problem(PROBLEM)
    assert decision.selected.backend.name == "good-auto"
    assert (decision.source, decision.asked) == ("auto", ())
    assert verdicts(decision) == {
        "good": ("opt-in", "only if named: backend='good'"),
        "good-auto": ("selected", ""),
        "array-api": ("available", "comes after 'good-auto'"),
    }
    assert [c.name for c in decision.candidates] == ["good", "good-auto", "array-api"]


def test_the_core_is_last_whatever_the_priorities(plugins):
    plugins.write(
        "low",
        "from ctcx.plugin import Backend, hookimpl\n@hookimpl\ndef ctcx_backends():\n"
        "    for name in ('low-b', 'low-a'):\n"
        "        yield Backend(name=name, kernels={'loss': 'json:loads'}, namespaces={'numpy'},\n"
        "            priority=-10**6, opt_in=False)\n",
    )
    plugins.load()
    assert [c.name for c in dispatcher.select(PROBLEM).candidates] == [
        "low-a",
        "low-b",
        "array-api",
    ]
    assert selected() == "low-a"


GATES = {
    "operation": ({"operation": "loss_and_grad"}, "has no kernel for loss_and_grad, only for loss"),
    "namespace": ({"namespace": "cupy"}, "takes arrays of numpy, torch, got cupy"),
    "device": ({"device": "cuda:1"}, "needs device cpu, got cuda:1"),
    "dtype": ({"dtype": "float64"}, "takes float32, got float64"),
    "half": ({"dtype": "float16"}, "takes float32, got float16"),
    "tracing": ({"traced": True}, "can't be called while numpy traces (lacks Feature.TRACEABLE)"),
    "layout": (
        {"contiguous": False},
        "needs contiguous logits (lacks Feature.NONCONTIGUOUS); pass a contiguous copy",
    ),
}


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_rejects_with_its_reason(good, gate):
    changes, reason = GATES[gate]
    problem = replace(PROBLEM, **changes)
    decision = dispatcher.select(problem)
    assert decision.selected.backend.name == "array-api"
    assert verdicts(decision)["good-auto"] == ("rejected", reason)
    with pytest.raises(ctcx.BackendRejectedError) as caught:
        dispatcher.select(problem, "good-auto")
    message = str(caught.value)
    assert f"backend 'good-auto' rejected: {reason} (asked for by argument)" in message
    assert "array-api  ctcx" in message


def test_accepts_has_the_last_word(good):
    problem = replace(PROBLEM, C=101)
    assert verdicts(dispatcher.explain_problem(problem))["good"] == (
        "rejected",
        "at most 100 classes",
    )
    with pytest.raises(ctcx.BackendRejectedError, match="at most 100 classes"):
        dispatcher.select(problem, "good")


def test_accepts_that_raises_is_a_rejection_and_reported(plugins):
    plugins.install("accepts_raises")
    plugins.load()
    with pytest.warns(ctcx.PluginWarning, match="ctcx-accepts-raises 0.1") as caught:
        decision = dispatcher.select(PROBLEM)
    assert "CTCX_DISABLE_PLUGINS=accepts_raises" in str(caught[0].message)
    reason = "its accepts() raised KeyError: 'float32'"
    assert verdicts(decision)["unsure"] == ("rejected", reason)
    assert decision.selected.backend.name == "array-api"


@pytest.mark.parametrize("answer", ["True", "False", "''", "3"])
def test_accepts_must_answer_none_or_a_reason(plugins, answer):
    plugins.write(
        "bool",
        "from ctcx.plugin import Backend, hookimpl\n@hookimpl\ndef ctcx_backends():\n"
        "    yield Backend(name='bool', kernels={'loss': 'json:loads'}, namespaces={'numpy'},\n"
        f"        opt_in=False, accepts=lambda problem: {answer})\n",
    )
    plugins.load()
    with pytest.warns(ctcx.PluginWarning, match="neither None nor a reason"):
        assert selected() == "array-api"


def test_probe_that_raises_is_a_rejection_reported_once(plugins):
    plugins.install("probe_raises")
    plugins.load()
    with pytest.warns(ctcx.PluginWarning, match="ctcx-probe-raises 0.1") as caught:
        decisions = [dispatcher.select(replace(PROBLEM, T=frames)) for frames in (1, 2, 3)]
    assert len(caught) == 1
    reason = "its probe() raised OSError: libcuda.so.1: cannot open shared object file"  # one line
    for decision in decisions:
        assert verdicts(decision)["driverless"] == ("rejected", reason)


def test_no_probe_runs_for_arrays_that_its_backend_doesn_t_take(plugins):
    plugins.install("probe_raises")
    plugins.load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decision = dispatcher.select(replace(PROBLEM, namespace="torch"))
    assert verdicts(decision)["driverless"][1] == "takes arrays of numpy, got torch"


def test_a_raising_probe_is_an_error_under_strict_plugins(plugins):
    plugins.install("probe_raises")
    plugins.load()
    plugins.monkeypatch.setenv("CTCX_STRICT_PLUGINS", "1")
    with pytest.raises(ctcx.PluginError, match="driverless") as caught:
        dispatcher.select(PROBLEM)
    assert isinstance(caught.value.__cause__, OSError)


def test_no_backend_at_all(plugins):
    plugins.load()
    core = current_registry().backends["array-api"].backend
    only_cpu = replace(core, devices=frozenset({"cpu"}))
    entry = replace(current_registry().backends["array-api"], backend=only_cpu)
    plugins.monkeypatch.setattr(current_registry(), "backends", {"array-api": entry})
    with pytest.raises(ctcx.BackendError, match="no backend can take this call") as caught:
        dispatcher.select(replace(PROBLEM, device="cuda:0"))
    assert "needs device cpu, got cuda:0" in str(caught.value)
    assert not isinstance(caught.value, ctcx.BackendRejectedError)


# By name


def test_the_argument_names_the_only_one(good):
    decision = dispatcher.select(PROBLEM, "good")
    assert decision.selected.backend.name == "good"
    assert decision.source == "argument"
    assert verdicts(decision)["good-auto"] == ("available", "was not asked for")


def test_an_unknown_name_is_an_error_with_what_is_known(good):
    with pytest.raises(ctcx.UnknownBackendError) as caught:
        dispatcher.select(PROBLEM, "goood")
    message = str(caught.value)
    assert "the argument backend= names the backend 'goood'" in message
    assert "known: array-api, good, good-auto." in message
    assert "Did you mean 'good'?" in message
    assert "ctcx-good 1.2" in message


@pytest.mark.parametrize("name", ["import_fails", "ctcx-import-fails", "import-fails"])
def test_an_unknown_name_tells_of_the_plugin_that_failed(plugins, name):
    plugins.install("import_fails")
    plugins.load()
    with pytest.raises(ctcx.UnknownBackendError) as caught:
        dispatcher.select(PROBLEM, name)
    message = str(caught.value)
    assert "plugin 'import_fails' of ctcx-import-fails 0.3 was left out (failed): Mod" in message
    assert "unusable" in message


@pytest.mark.parametrize("backend", [3, ["good"], np])
def test_a_name_must_be_a_string(good, backend):
    with pytest.raises(ctcx.CTCInputError, match="backend must be the name of a backend"):
        dispatcher.select(PROBLEM, backend)
    with pytest.raises(ctcx.CTCInputError, match="backend"), ctcx.use_backend(backend):
        pass


def test_use_backend_takes_the_first_that_can(good):
    with ctcx.use_backend("good", "array-api"):
        assert selected() == "good"
        assert selected(namespace="torch") == "array-api"
        assert dispatcher.select(PROBLEM).source == "use_backend"
        assert dispatcher.select(PROBLEM).asked == ("good", "array-api")
    assert selected() == "good-auto"


def test_use_backend_is_strict(good):
    problem = replace(PROBLEM, namespace="jax.numpy")
    with ctcx.use_backend("good", "good-auto"), pytest.raises(ctcx.BackendRejectedError) as caught:
        dispatcher.select(problem)
    message = str(caught.value)
    assert "backend 'good' rejected: takes arrays of numpy, got jax.numpy" in message
    assert "backend 'good-auto' rejected: takes arrays of numpy, torch, got jax.numpy" in message
    assert "asked for by use_backend" in message
    assert "array-api  ctcx" in message


def test_use_backend_checks_names_on_entry(good):
    with (
        pytest.raises(ctcx.UnknownBackendError, match=r"use_backend\(\) names the backend 'gud'"),
        ctcx.use_backend("good", "gud"),
    ):
        pytest.fail("entered")
    with pytest.raises(TypeError), ctcx.use_backend():
        pass


def test_use_backend_nests_and_ends_even_after_an_error(good):
    with ctcx.use_backend("good"):
        with pytest.raises(ZeroDivisionError), ctcx.use_backend("array-api"):  # noqa: PT012
            assert selected() == "array-api"
            assert dispatcher.select(PROBLEM, "good").source == "argument"
            1 / 0  # noqa: B018
        assert selected() == "good"
    assert selected() == "good-auto"


def test_use_backend_is_for_this_thread_and_task_only(good):
    def in_a_thread():
        found = []
        thread = threading.Thread(target=lambda: found.append(selected()), **_fresh_context())
        thread.start()
        thread.join()
        return found[0]

    async def task(name, turn, other):
        with ctcx.use_backend(name):
            turn.set()
            await other.wait()
            return selected()

    async def both():
        one, two = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(task("good", one, two), task("array-api", two, one))

    with ctcx.use_backend("good"):
        assert in_a_thread() == "good-auto"
    assert asyncio.run(both()) == ["good", "array-api"]


def _fresh_context():
    """Arguments for a thread that inherits nothing, also where threads inherit by default."""
    return {"context": contextvars.Context()} if sys.version_info >= (3, 14) else {}


def test_the_environment_is_read_at_each_call(good):
    assert selected() == "good-auto"
    good.monkeypatch.setenv("CTCX_BACKEND", "array-api")
    assert selected() == "array-api"
    assert dispatcher.select(PROBLEM).source == "CTCX_BACKEND"
    good.monkeypatch.setenv("CTCX_BACKEND", " good , array-api,")
    assert selected() == "good"
    assert selected(namespace="torch") == "array-api"
    with ctcx.use_backend("good-auto"):
        assert selected() == "good-auto"
    good.monkeypatch.setenv("CTCX_BACKEND", "")
    assert selected() == "good-auto"


def test_the_environment_is_strict_and_named_in_errors(good):
    good.monkeypatch.setenv("CTCX_BACKEND", "goood")
    with pytest.raises(
        ctcx.UnknownBackendError, match="environment variable CTCX_BACKEND names the backend 'goo"
    ):
        dispatcher.select(PROBLEM)
    good.monkeypatch.setenv("CTCX_BACKEND", "good")
    with pytest.raises(ctcx.BackendRejectedError, match="asked for by CTCX_BACKEND"):
        dispatcher.select(replace(PROBLEM, namespace="torch"))


def test_a_name_said_twice_counts_once(good):
    with ctcx.use_backend("good", "good"):
        names = [c.name for c in dispatcher.select(PROBLEM).candidates]
    assert names == ["good", "good-auto", "array-api"]


# Calls


def test_the_selected_kernel_runs(good):
    (loss, grad), decision = called(replace(PROBLEM, operation="loss_and_grad"), "good")
    assert not loss.any()
    assert grad.shape == (2, 5, 4)
    assert decision.selected.provenance == "ctcx-good 1.2"


def test_public_calls_go_through_it(good):
    logits = np.ones((1, 3, 4), dtype=np.float32)
    assert ctcx.ctc_loss(logits, [[1]], backend="good") == 0
    assert ctcx.ctc_loss(logits, [[1]], backend="array-api") > 1
    with pytest.raises(ctcx.BackendRejectedError, match="takes float32, got float64"):
        ctcx.ctc_loss(logits.astype(np.float64), [[1]], backend="good-auto")


def test_declining_and_missing_kernels_give_way_in_automatic_selection(awkward):
    with pytest.warns(ctcx.PluginWarning) as caught:
        decision = run()
    (warning,) = caught
    target = "ctcx_awkward.not_compiled:loss"
    assert f"backend 'unbuilt' of ctcx-awkward 0.9: its kernel '{target}'" in str(warning.message)
    assert "CTCX_DISABLE_PLUGINS=awkward" in str(warning.message)
    found = verdicts(decision)
    assert found["unbuilt"][0] == "unusable"
    assert f"its kernel '{target}' can't be imported: ModuleNotFoundError" in found["unbuilt"][1]
    assert found["declining"] == ("declined", "the moon is not full")
    assert found["array-api"] == ("selected", "")


def test_a_missing_kernel_is_remembered_and_a_decline_is_not(awkward):
    with pytest.warns(ctcx.PluginWarning):
        run()
    decision = dispatcher.select(PROBLEM)
    assert verdicts(decision)["unbuilt"][0] == "unusable"
    assert decision.selected.backend.name == "declining"
    assert verdicts(run())["declining"][0] == "declined"


def test_a_decline_is_an_error_for_who_asked(awkward):
    for strict in (lambda: run(backend="declining"), _with_use_backend("declining", "array-api")):
        with pytest.raises(ctcx.BackendRejectedError) as caught:
            strict()
        message = str(caught.value)
        assert "'declining' of ctcx-awkward 0.9 declined: the moon is not full" in message
        assert "array-api" in message
        assert isinstance(caught.value.__cause__, ctcx.plugin.Decline)


def _with_use_backend(*names):
    def strict():
        with ctcx.use_backend(*names):
            run()

    return strict


def test_a_missing_kernel_is_an_error_for_who_asked(awkward):
    with pytest.raises(ctcx.BackendError, match=r"ctcx_awkward\.not_compiled:loss") as caught:
        run(backend="unbuilt")
    assert isinstance(caught.value.__cause__, ImportError)
    assert "unusable" in str(caught.value)


def test_a_missing_kernel_is_an_error_under_strict_plugins(awkward):
    awkward.monkeypatch.setenv("CTCX_STRICT_PLUGINS", "1")
    with pytest.raises(ctcx.PluginError, match=r"ctcx_awkward\.not_compiled:loss"):
        run()


def test_a_bug_in_a_kernel_propagates_with_a_note(awkward):
    with pytest.raises(NotImplementedError, match="repeated labels") as caught:
        run(backend="buggy")
    assert caught.value.__notes__ == ["in backend 'buggy' from ctcx-awkward 0.9, operation loss"]


# Explanations, traces, logs


def test_to_explain_imports_no_kernel(good):
    logits = np.zeros((1, 3, 4), dtype=np.float32)
    decision = ctcx.explain(logits, [[1]], backend="good")
    assert decision.selected.backend.name == "good"
    assert "ctcx_good.kernels" not in sys.modules
    run(backend="good")
    assert "ctcx_good.kernels" in sys.modules


def test_to_explain_a_rejection_is_no_error(good):
    decision = dispatcher.explain_problem(replace(PROBLEM, namespace="cupy"), "good")
    assert decision.selected is None
    assert "no backend can take it" in str(decision)
    with pytest.raises(ctcx.UnknownBackendError):
        dispatcher.explain_problem(PROBLEM, "gud")


def test_a_decision_prints_as_an_aligned_table(good):
    good.install("import_fails", "awkward")
    good.block("awkward")
    good.load()
    head, titles, *rows = str(dispatcher.explain_problem(PROBLEM)).splitlines()
    assert head == (
        "loss of numpy float32 on cpu, N=2 T=5 C=4 S=2 blank=0: 'good-auto' chosen automatically"
    )
    assert titles.split() == ["backend", "from", "status", "reason"]
    starts = [titles.index(title) for title in titles.split()]
    for row in rows:
        assert all(row.ljust(80)[start - 1] == " " for start in starts[1:])
    cells = [
        [row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for row in rows
    ]
    assert cells == [
        ["good", "ctcx-good 1.2", "opt-in", "only if named: backend='good'"],
        ["good-auto", "ctcx-good 1.2", "selected", ""],
        ["array-api", f"ctcx {ctcx.__version__}", "available", "comes after 'good-auto'"],
        ["awkward", "ctcx-awkward 0.9", "unusable", "blocked by CTCX_DISABLE_PLUGINS"],
        [
            "import_fails",
            "ctcx-import-fails 0.3",
            "unusable",
            "plugin failed: ModuleNotFoundError: No module named 'a_module_that_nobody_has'",
        ],
    ]
    odd = replace(PROBLEM, traced=True, contiguous=False)
    assert "blank=0, traced, not contiguous:" in str(dispatcher.explain_problem(odd))


def test_trace_tells_what_ran(good):
    with ctcx.trace() as outer:
        run()
        with ctcx.trace() as inner:
            run(backend="good")
        run(backend="array-api")
    assert [r.backend for r in outer] == ["good-auto", "good", "array-api"]
    assert [r.backend for r in inner] == ["good"]
    (ran,) = inner
    assert (ran.provenance, ran.operation, ran.problem) == ("ctcx-good 1.2", "loss", PROBLEM)
    assert ran.decision.source == "argument"
    run()
    assert len(outer) == 3


def test_trace_leaves_out_what_failed_and_what_other_threads_ran(awkward):
    awkward.install("good")
    awkward.load()
    with ctcx.trace() as runs:
        with pytest.raises(NotImplementedError):
            run(backend="buggy")
        thread = threading.Thread(target=run, args=(PROBLEM, "good"), **_fresh_context())
        thread.start()
        thread.join()
    assert runs == []


def test_decisions_are_logged(good, caplog):
    caplog.set_level(logging.DEBUG, logger="ctcx.select")
    dispatcher.select(PROBLEM)
    (logged,) = caplog.records
    assert logged.name == "ctcx.select"
    assert "'good-auto' chosen automatically" in logged.getMessage()


# The cache


def test_a_decision_is_made_once_for_equal_problems(good):
    assert dispatcher.select(PROBLEM) is dispatcher.select(replace(PROBLEM))
    assert dispatcher.select(PROBLEM) is not dispatcher.select(replace(PROBLEM, T=6))


def test_the_cache_is_bounded(good):
    good.monkeypatch.setattr(dispatcher, "CACHE_SIZE", 10)
    good.monkeypatch.setattr(dispatcher, "_cache", {})
    for frames in range(30):
        dispatcher.select(replace(PROBLEM, T=frames))
    assert len(dispatcher._cache) == 10


def test_calls_of_one_form_ask_again_whose_kernel_it_is(good):
    def ran(*arrays, **options):
        with ctcx.trace() as runs:
            for _ in range(2):
                ctcx.ctc_loss(*(arrays or ARRAYS), **options)
        return {run.backend for run in runs}

    assert ran() == {"good-auto"}
    assert ran(backend="good") == {"good"}
    with ctcx.use_backend("array-api"):
        assert ran() == {"array-api"}
    assert ran() == {"good-auto"}
    good.monkeypatch.setenv("CTCX_BACKEND", "good")
    assert ran() == {"good"}
    good.monkeypatch.delenv("CTCX_BACKEND")
    with pytest.raises(ctcx.CTCInputError, match="backend must be the name of a backend, got list"):
        ran(backend=[])
    # Of the same shapes and dtypes, but of another form.
    logits = np.asfortranarray(ARRAYS[0])
    assert ran(logits, *ARRAYS[1:]) == {"array-api"}
    with pytest.raises(ctcx.CTCInputError, match="blank"):
        ran(blank=True)
    good.monkeypatch.setenv("CTCX_DISABLE_PLUGINS", "good")
    good.load()
    assert ran() == {"array-api"}


def test_few_forms_of_calls_are_remembered(monkeypatch):
    forms = {}
    monkeypatch.setattr("ctcx._inputs.prepare._MOST_FORMS", 10)
    monkeypatch.setattr("ctcx._inputs.prepare._forms", forms)
    for frames in range(5, 35):
        logits = np.zeros((2, frames, 4), np.float32)
        assert ctcx.ctc_loss(logits, *ARRAYS[1:]).shape == (2,)
    assert len(forms) == 10


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
def test_a_signal_handler_may_call(plugins):
    """It may interrupt another call anywhere, also where that remembers what it found out."""
    code = """
import faulthandler, itertools, signal, time
import numpy as np
import ctcx

faulthandler.dump_traceback_later(60, exit=True)
sizes = itertools.count(3)

def call(*_):
    logits = np.zeros((1, 1, next(sizes)), np.float32)
    for validate in (True, False):  # by a shortcut, if there is one, and by a kernel
        ctcx.ctc_loss(logits, np.ones((1, 1), np.int64), validate=validate)

busy = []

def interrupt(*_):
    if not busy:
        busy.append(True)
        call()
        busy.pop()

call()
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
end = time.monotonic() + 4
while time.monotonic() < end:
    call()
signal.setitimer(signal.ITIMER_REAL, 0)
print("done")
"""
    ended = plugins.python(code)
    assert ended.stdout == "done\n", ended.stderr


def test_new_plugins_mean_new_decisions(plugins):
    plugins.load()
    assert selected() == "array-api"
    plugins.install("good")
    plugins.load()
    assert selected() == "good-auto"
