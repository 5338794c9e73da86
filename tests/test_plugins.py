"""Plugins: what is loaded, what is left out and why, and that no plugin can break the others."""

from __future__ import annotations

import doctest
import re
import threading

import pytest

import ctcx
import ctcx.plugin
from ctcx.plugin import hookspecs
from tests.helpers import current_registry, forget_plugins, reload_plugins

BACKEND = """
from ctcx.plugin import Backend, hookimpl

@hookimpl
def ctcx_backends():
    yield Backend(name={name!r}, kernels={{"loss": "json:loads"}}, namespaces={{"numpy"}}{more})
"""


def backend_code(name, more=""):
    return BACKEND.format(name=name, more=more)


def status_of(name):
    (info,) = [info for info in ctcx.backends() if info.name == name]
    return info.status


def test_the_core_is_a_plugin_like_any_other(plugins):
    registry, warned = plugins.load()
    core = registry.plugins[0]
    assert (core.name, core.distribution, core.version) == ("ctcx", "ctcx", ctcx.__version__)
    assert core.status == "active"
    assert core.backends == ("array-api",)
    assert core.namespaces == (
        "numpy",
        "torch",
        "jax.numpy",
        "array_api_strict",
        "cupy",
        "mlx.core",
    )
    assert not warned


def test_a_good_plugin_registers_through_every_hook(plugins):
    plugins.install("good")
    registry, warned = plugins.load()
    record = plugins.record("good")
    assert (record.distribution, record.version, record.status) == ("ctcx-good", "1.2", "active")
    assert (record.reason, record.traceback) == ("", "")
    assert record.backends == ("good", "good-auto")
    assert record.namespaces == ("good_arrays",)
    assert registry.backends["good"].provenance == "ctcx-good 1.2"
    assert registry.namespaces["good_arrays"].provenance == "ctcx-good 1.2"
    assert registry.namespace_unusable("good_arrays") == "good-arrays is not installed"
    assert "good-case" in [case.name for case in registry.cases]
    (bound,) = registry.lower_bounds
    assert (bound.name, bound.backends) == ("good-bound", {"good"})
    info = registry.runtime_info()
    assert info["good driver"] == "12.4"
    assert info["python"] != "as seen by good"
    assert info["python (ctcx-good)"] == "as seen by good"
    assert not warned


UNUSABLE = {
    "import_fails": (
        "failed",
        "ctcx-import-fails 0.3",
        "ModuleNotFoundError: No module named 'a_module_that_nobody_has'",
    ),
    "bad_name": ("invalid", "ctcx-bad-name 0.1", "Backend name 'Bad Name' is not valid"),
    "later_api": (
        "incompatible",
        "ctcx-later-api 2.0",
        "Backend 'later': it is written for plugin API 2.99 and this ctcx has 2.7: upgrade ctcx",
    ),
    "misspelt_hook": (
        "invalid",
        "ctcx-misspelt-hook 0.1",
        "unknown hook 'ctcx_backend': did you mean 'ctcx_backends'?",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_plugin_is_left_out_and_reported(plugins, name):
    status, provenance, reason = UNUSABLE[name]
    plugins.install("good", name)
    registry, warned = plugins.load()
    record = plugins.record(name)
    assert (record.status, record.provenance) == (status, provenance)
    assert reason in record.reason
    assert (record.backends, record.namespaces) == ((), ())
    (message,) = warned
    assert f"plugin {name!r} of {provenance} is left out ({status})" in message
    assert reason in message
    assert f"CTCX_DISABLE_PLUGINS={name}" in message
    assert set(registry.backends) == {"array-api", "good", "good-auto"}


def test_the_traceback_of_a_failed_plugin_is_kept(plugins):
    plugins.install("import_fails")
    plugins.load()
    assert "import a_module_that_nobody_has" in plugins.record("import_fails").traceback


@pytest.mark.parametrize("name", UNUSABLE)
def test_strict_plugins_turn_the_warning_into_an_error(plugins, name):
    _, provenance, reason = UNUSABLE[name]
    plugins.install("good", name)
    plugins.monkeypatch.setenv("CTCX_STRICT_PLUGINS", "1")
    with pytest.raises(ctcx.PluginError) as caught:
        reload_plugins()
    assert provenance in str(caught.value)
    assert reason in str(caught.value)
    if name in {"import_fails", "bad_name"}:
        assert reason in f"{type(caught.value.__cause__).__name__}: {caught.value.__cause__}"


def test_strict_plugins_raise_at_every_use(plugins):
    plugins.install("import_fails")
    plugins.monkeypatch.setenv("CTCX_STRICT_PLUGINS", "1")
    forget_plugins(plugins.monkeypatch)
    for _ in range(2):
        with pytest.raises(ctcx.PluginError, match="ctcx-import-fails"):
            ctcx.backends()
    plugins.block("import_fails")
    assert status_of("array-api") == "available"


def test_strict_plugins_name_all_that_are_broken(plugins):
    plugins.install("import_fails", "misspelt_hook")
    plugins.monkeypatch.setenv("CTCX_STRICT_PLUGINS", "yes")
    with pytest.raises(ctcx.PluginError) as caught:
        reload_plugins()
    assert "ctcx-import-fails 0.3" in str(caught.value)
    assert "ctcx-misspelt-hook 0.1" in str(caught.value)


INVALID = {
    "returns nothing": (
        "from ctcx.plugin import hookimpl\n@hookimpl\ndef ctcx_backends(): pass\n",
        "ctcx_backends() returned None; it must return or yield Backend descriptors",
    ),
    "returns one": (
        backend_code("x").replace("yield", "return"),
        "it must return or yield Backend descriptors",
    ),
    "yields something else": (
        "from ctcx.plugin import hookimpl\n@hookimpl\ndef ctcx_namespaces(): yield 'torch'\n",
        "ctcx_namespaces() gave 'torch', which is no ctcx.plugin.Namespace",
    ),
    "forgets the mark": (
        backend_code("x").replace("@hookimpl", ""),
        "its function 'ctcx_backends' is not marked with @ctcx.plugin.hookimpl",
    ),
    "has no hook": ("", "its module implements no hook of ctcx; the hooks are ctcx_backends"),
    "has an unheard-of hook": (
        "from ctcx.plugin import hookimpl\n@hookimpl\ndef ctcx_zebra(): pass\n",
        "unknown hook 'ctcx_zebra': the hooks are ctcx_backends",
    ),
    "wants arguments": (
        backend_code("x").replace("ctcx_backends()", "ctcx_backends(config)"),
        "config",
    ),
    "has no set of names": (
        backend_code("x").replace('{"numpy"}', '"numpy"'),
        "namespaces must be a set of names, got the string 'numpy'",
    ),
    "knows a later field": (
        backend_code("x", ", memory=3"),
        "unexpected keyword argument 'memory'; if a later plugin API than 2.7 has it, upgrade ctcx",
    ),
}


@pytest.mark.parametrize("what", INVALID)
def test_a_plugin_that_breaks_a_rule_is_invalid(plugins, what):
    code, reason = INVALID[what]
    plugins.write("rulebreaker", code)
    _, (message,) = plugins.load()
    record = plugins.record("rulebreaker")
    assert record.status == "invalid"
    assert reason in record.reason
    assert reason in message


def test_a_plugin_for_an_older_api_needs_an_update(plugins):
    plugins.write("old", backend_code("old", ", api=(1, 1)"))
    _, (message,) = plugins.load()
    assert plugins.record("old").status == "incompatible"
    assert "written for plugin API 1.1 and this ctcx has 2.7" in message
    assert "the plugin needs an update, upgrade ctcx-old" in message


def test_an_api_version_that_is_none(plugins):
    plugins.write("odd", backend_code("odd", ", api='1.0'"))
    _, (message,) = plugins.load()
    assert plugins.record("odd").status == "invalid"
    assert "api must be two integers (major, minor), got '1.0'" in message


def test_one_incompatible_backend_leaves_the_others_of_its_plugin(plugins):
    code = backend_code("new", ", api=(3, 0)") + backend_code("fine").splitlines()[-1]
    plugins.write("mixed", code)
    registry, (message,) = plugins.load()
    assert "fine" in registry.backends
    assert "new" not in registry.backends
    assert plugins.record("mixed").status == "active"
    assert "is used only in part" in message
    assert "Backend 'new'" in message
    assert status_of("new") == "unusable"


def test_a_hook_that_raises_half_way_takes_its_plugin_out(plugins):
    plugins.write("half", backend_code("half") + "    raise RuntimeError('disk full')\n")
    registry, (message,) = plugins.load()
    assert plugins.record("half").status == "failed"
    assert "RuntimeError: disk full" in message
    assert "half" not in registry.backends


def test_two_plugins_that_claim_a_name_both_lose_it_and_keep_their_others(plugins):
    plugins.install("good", "duplicate")
    registry, warned = plugins.load()
    assert {"good-auto", "unique", "array-api"} <= set(registry.backends)
    assert "good" not in registry.backends
    clash = "backend 'good' is registered by both ctcx-duplicate 4.0 and ctcx-good 1.2"
    for name in ("good", "duplicate"):
        record = plugins.record(name)
        assert record.status == "active"
        assert clash in record.reason
    assert len(warned) == 2
    assert all(clash in message for message in warned)
    with pytest.raises(ctcx.UnknownBackendError, match=clash), ctcx.use_backend("good"):
        pass


def test_nobody_can_replace_the_core(plugins):
    plugins.install("duplicate")
    registry, (message,) = plugins.load()
    assert registry.backends["array-api"].distribution == "ctcx"
    assert "backend 'array-api' is built into ctcx; choose another name" in message
    assert plugins.record("duplicate").backends == ("good", "unique")


def test_a_plugin_left_with_nothing_is_invalid(plugins):
    plugins.write("one", backend_code("same"))
    plugins.write("two", backend_code("same"))
    plugins.load()
    assert plugins.record("one").status == plugins.record("two").status == "invalid"


def test_a_plugin_that_names_two_backends_alike(plugins):
    plugins.write("twins", backend_code("twin") + backend_code("twin").splitlines()[-1])
    _, (message,) = plugins.load()
    assert "backend 'twin' is registered twice" in message


def test_entry_points_of_two_distributions_may_have_the_same_name(plugins):
    plugins.write("fast", backend_code("fast-a"), distribution="ctcx-a")
    plugins.write("fast", backend_code("fast-b"), distribution="ctcx-b")
    registry, warned = plugins.load()
    assert {"fast-a", "fast-b"} <= set(registry.backends)
    assert not warned


def test_one_module_behind_two_entry_points_is_used_once(plugins):
    plugins.write("first", backend_code("shared"), distribution="ctcx-first", module="shared_one")
    plugins.write("second", backend_code("shared"), distribution="ctcx-second", module="shared_one")
    registry, (message,) = plugins.load()
    assert registry.backends["shared"].distribution == "ctcx-first"
    assert plugins.record("second").status == "invalid"
    assert "already registered" in message


def test_damaged_metadata_of_a_plugin_is_no_obstacle(plugins):
    plugins.write("bare", backend_code("bare"), meta=False)
    registry, _ = plugins.load()
    assert registry.backends["bare"].backend.name == "bare"


@pytest.mark.parametrize("blocked", ["import_fails", "CTCX.import_Fails", " good , import_fails"])
def test_a_blocked_plugin_is_not_even_imported(plugins, blocked):
    plugins.install("import_fails", "good")
    plugins.block(blocked)
    _, warned = plugins.load()
    record = plugins.record("import_fails")
    assert (record.status, record.reason) == ("blocked", "blocked by CTCX_DISABLE_PLUGINS")
    assert not warned
    code = "import sys, ctcx; ctcx.backends(); print('ctcx_good' in sys.modules)"
    assert plugins.python(code).stdout.strip() == str("good" not in blocked)
    assert plugins.python(code, CTCX_DISABLE_PLUGINS="all").stdout.strip() == "False"


def test_blocking_all_spares_the_core(plugins):
    plugins.install("good")
    plugins.block("all")
    registry, _ = plugins.load()
    assert set(registry.backends) == {"array-api"}
    plugins.block("ctcx")
    registry, _ = plugins.load()
    assert "array-api" in registry.backends


def test_strict_plugins_don_t_mind_blocked_ones(plugins):
    plugins.install("import_fails")
    plugins.block("import_fails")
    plugins.monkeypatch.setenv("CTCX_STRICT_PLUGINS", "1")
    assert "array-api" in reload_plugins().backends


def test_a_broken_plugin_is_reported_once_and_at_the_callers_line(plugins):
    plugins.install("import_fails")
    code = "import ctcx\nctcx.backends()\nctcx.backends()\nctcx.show_versions()\n"
    done = plugins.python(code, "-W", "always")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("PluginWarning") == 1
    assert "<string>:2: PluginWarning" in done.stderr
    assert "import_fails" in done.stdout


def test_a_warning_turned_into_an_error_leaves_the_registry_whole(plugins):
    plugins.install("import_fails")
    forget_plugins(plugins.monkeypatch)
    with pytest.raises(ctcx.PluginWarning):
        ctcx.backends()
    assert status_of("array-api") == "available"


def test_ctcx_is_imported_without_its_plugins(plugins):
    plugins.install("import_fails", "good")
    code = (
        "import sys, ctcx\n"
        "print(sorted({'pluggy', 'importlib.metadata', 'numpy', 'ctcx_good'} & set(sys.modules)))"
    )
    done = plugins.python(code, "-W", "error")
    assert done.stdout.strip() == "[]", done.stderr


def test_threads_that_come_first_together_get_the_same_registry(plugins):
    count = "import ctcx.plugin\nctcx.plugin.loaded = getattr(ctcx.plugin, 'loaded', 0) + 1\n"
    plugins.write("counted", count + backend_code("counted"))
    forget_plugins(plugins.monkeypatch)
    plugins.monkeypatch.setattr(ctcx.plugin, "loaded", 0, raising=False)
    barrier = threading.Barrier(8)
    found = []

    def first_use():
        barrier.wait()
        found.append(current_registry())

    threads = [threading.Thread(target=first_use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert ctcx.plugin.loaded == 1


def test_each_registry_has_its_own_generation(plugins):
    first, _ = plugins.load()
    second, _ = plugins.load()
    assert first.generation < second.generation
    assert current_registry() is second


def test_a_plugin_may_not_compute_while_it_is_imported(plugins):
    plugins.write("eager", "import ctcx\nctcx.backends()\n")
    forget_plugins(plugins.monkeypatch)
    _, (message,) = plugins.load()
    assert plugins.record("eager").status == "failed"
    assert "a plugin may only register while it is imported" in message


def test_a_broken_case_hook_costs_only_its_cases(plugins):
    hook = "\n@hookimpl\ndef ctcx_conformance_cases():\n    yield from open('/nowhere')\n"
    plugins.write("lost", backend_code("lost") + hook)
    plugins.install("good")
    registry, _ = plugins.load()
    with pytest.warns(ctcx.PluginWarning, match=r"ctcx-lost 1.0: its ctcx_conformance_cases\(\)"):
        cases = registry.cases
    assert "good-case" in [case.name for case in cases]
    assert "lost" in registry.backends


def test_a_case_hook_that_gives_something_else(plugins):
    hook = "\n@hookimpl\ndef ctcx_conformance_cases():\n    return [3]\n"
    plugins.write("lost", backend_code("lost") + hook)
    registry, _ = plugins.load()
    with pytest.warns(ctcx.PluginWarning, match="gave something that is no Case"):
        assert registry.cases is not None


BOUND_HOOK = """
from ctcx.plugin import LowerBound

@hookimpl
def ctcx_benchmark_lower_bounds():
    {}
"""
BOUND = 'LowerBound(name="low", function="json:loads", summary={!r})'
BROKEN_BOUNDS = {
    "raises": ("yield from open('/nowhere')", "FileNotFoundError"),
    "gives something else": ("return [3]", "gave something that is no LowerBound"),
    "gives one": (f"return {BOUND.format('')}", "TypeError"),
}


@pytest.mark.parametrize("what", BROKEN_BOUNDS)
def test_a_broken_hook_for_lower_bounds_costs_only_those(plugins, what):
    body, reason = BROKEN_BOUNDS[what]
    plugins.write("lost", backend_code("lost") + BOUND_HOOK.format(body))
    plugins.install("good")
    registry, _ = plugins.load()
    with pytest.warns(ctcx.PluginWarning, match=rf"ctcx-lost 1.0: its .*{reason}"):
        lower_bounds = registry.lower_bounds
    assert [bound.name for bound in lower_bounds] == ["good-bound"]
    assert "lost" in registry.backends


def test_a_lower_bound_whose_name_is_taken_is_left_out(plugins):
    for name in ("first", "second"):
        body = f"yield {BOUND.format(name)}"
        plugins.write(name, backend_code(name) + BOUND_HOOK.format(body))
    registry, _ = plugins.load()
    with pytest.warns(
        ctcx.PluginWarning, match="ctcx-second 1.0: .*lower bound 'low', whose name is"
    ):
        lower_bounds = registry.lower_bounds
    assert [bound.summary for bound in lower_bounds] == ["first"]


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("name", "Low", "LowerBound name 'Low' is not valid"),
        (
            "function",
            "json.loads",
            "LowerBound 'low': function must look like 'package.module:function'",
        ),
        (
            "backends",
            "mine",
            "LowerBound 'low': backends must be a set of names, got the string 'mine'",
        ),
        ("namespaces", "numpy", "namespaces must be a set of names"),
        ("namespaces", (), "namespaces is empty, so it could never be used"),
    ],
)
def test_a_lower_bound_says_what_is_wrong_with_it(field, value, error):
    facts = {"name": "low", "function": "json:loads"} | {field: value}
    with pytest.raises((TypeError, ValueError), match=re.escape(error)):
        ctcx.plugin.LowerBound(**facts)


@pytest.mark.parametrize("body", ["raise OSError('no driver')", "return 'driver 12'"])
def test_a_broken_info_hook_costs_only_its_lines(plugins, body):
    hook = f"\n@hookimpl\ndef ctcx_runtime_info():\n    {body}\n"
    plugins.write("mute", backend_code("mute") + hook)
    registry, _ = plugins.load()
    with pytest.warns(ctcx.PluginWarning, match=r"ctcx-mute 1.0: its ctcx_runtime_info\(\)"):
        assert "python" in registry.runtime_info()


def test_versions_are_told_with_plugins_and_variables(plugins, capsys):
    plugins.install("good", "import_fails")
    plugins.monkeypatch.setenv("CTCX_BACKEND", "array-api")
    plugins.load()
    ctcx.show_versions()
    told = capsys.readouterr().out
    for fact in (
        ctcx.__version__,
        "numpy",
        "pluggy",
        "usable cores",
        "good driver",
        "CTCX_BACKEND",
        "ctcx-good 1.2",
        "plugin failed: ModuleNotFoundError",
    ):
        assert fact in told


def test_backends_are_told_with_their_state(plugins):
    plugins.install("good", "import_fails", "probe_raises")
    plugins.block("accepts_raises")
    plugins.install("accepts_raises")
    plugins.load()
    with pytest.warns(ctcx.PluginWarning, match="driverless"):
        found = {info.name: info for info in ctcx.backends()}
    good = found["good"]
    assert (good.provenance, good.status, good.opt_in) == ("ctcx-good 1.2", "opt-in", True)
    assert good.namespaces == {"numpy"}
    assert good.features == {ctcx.plugin.Feature.GRAD}
    assert (good.priority, good.summary, good.url) == (
        50,
        "returns zeros",
        "https://example.org/good",
    )
    assert found["good-auto"].status == found["array-api"].status == "available"
    assert found["driverless"].status == "unusable"
    assert "cannot open shared object file" in found["driverless"].reason
    assert found["import_fails"].status == found["accepts_raises"].status == "unusable"
    assert found["accepts_raises"].reason == "blocked by CTCX_DISABLE_PLUGINS"
    assert list(found).index("array-api") > list(found).index("good-auto")


@pytest.mark.parametrize(
    ("value", "meaning"),
    [(v, True) for v in ("1", "true", "YES", " on ")]
    + [(v, False) for v in ("0", "False", "no", "OFF", "", " ")],
)
def test_environment_flags_mean_what_they_say(plugins, value, meaning):
    plugins.write("broken", "raise ValueError")
    plugins.monkeypatch.setenv("CTCX_STRICT_PLUGINS", value)
    if meaning:
        with pytest.raises(ctcx.PluginError, match="broken"):
            reload_plugins()
    else:
        assert len(plugins.load()[1]) == 1


def test_an_environment_flag_that_says_nothing_is_an_error(plugins):
    plugins.monkeypatch.setenv("CTCX_STRICT_PLUGINS", "maybe")
    with pytest.raises(ctcx.CTCError, match="CTCX_STRICT_PLUGINS='maybe' is neither yes"):
        reload_plugins()


def test_every_hook_has_an_example_that_runs():
    for hook in hookspecs.__all__:
        assert ">>> @hookimpl" in getattr(hookspecs, hook).__doc__
    assert doctest.testmod(hookspecs).failed == 0


def test_the_plugin_api_is_complete():
    assert all(hasattr(ctcx.plugin, name) for name in ctcx.plugin.__all__)
    assert re.fullmatch(r"\(2, \d+\)", str(ctcx.plugin.API_VERSION))


@pytest.mark.parametrize("field", ["name", "provenance"])
def test_a_case_must_say_what_it_is(field):
    facts = {"name": "x", "provenance": "by hand"} | {field: ""}
    with pytest.raises(TypeError, match=f"{field} must be a non-empty string"):
        ctcx.plugin.Case(
            description="",
            logits=[],
            labels=[],
            logit_lengths=[],
            label_lengths=[],
            **facts,
        )
