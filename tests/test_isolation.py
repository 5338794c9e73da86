"""No plugin, and no package that is none, can end the process or break a call."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import threading
import warnings

import numpy as np
import pytest

import ctcx
import ctcx.plugin
from ctcx.conformance import run_conformance
from ctcx.plugin import Backend, Feature, Namespace
from tests.helpers import current_registry, optional, posix_only, reload_plugins

optional("torch")  # which can't be imported beside the damaged metadata of some tests here
LOGITS = np.zeros((1, 3, 4), dtype=np.float32)


def versions():
    """What is printed for a bug report."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        ctcx.show_versions()
    return printed.getvalue()


# Statements that raise, and how the exception is told.
ERRORS = {
    "SystemExit": ("raise SystemExit(3)", "SystemExit: 3"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "of another thread": (
        """from concurrent.futures import ThreadPoolExecutor
    def interrupt(): raise KeyboardInterrupt('of a thread')
    with ThreadPoolExecutor(1) as pool: pool.submit(interrupt).result()""",
        "KeyboardInterrupt: of a thread",
    ),
    "GeneratorExit": ("raise GeneratorExit", "GeneratorExit"),
    "of its own": ("raise type('Stop', (BaseException,), {})('now')", "Stop: now"),
    "RecursionError": ("def f(): f()\n    f()", "RecursionError: maximum recursion depth"),
    "MemoryError": ("raise MemoryError", "MemoryError"),
    "unprintable": (
        "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0, '__repr__': 0})",
        r"Mute \(its message can't be printed\)",
    ),
    "unprintable exit": (
        "raise type('Mute', (SystemExit,), {'__str__': lambda self: exit()})",
        r"Mute \(its message can't be printed\)",
    ),
    "group": (
        "raise BaseExceptionGroup('two', [SystemExit(), ExceptionGroup('one', [OSError()])])",
        r"BaseExceptionGroup: two \(2 sub-exceptions\)",
    ),
    "deep group": (
        """group = OSError()
    for _ in range(3000): group = ExceptionGroup('deep', [group])
    raise group""",
        r"ExceptionGroup: deep \(1 sub-exception\)",
    ),
    "long": ("raise ValueError('x' * 10**7)", r"ValueError: x{400,600}\.\.\."),
    "unencodable": (r"raise ValueError('\ud800 \x1b[31m\x00')", r"ValueError: \? \?\[31m\?"),
}

HEAD = """
from ctcx.plugin import *
from ctcx.plugin import hookimpl
def trouble(*_):
    {statement}
DEFAULT = dict(name="it", kernels={{"loss": "json:loads"}}, namespaces={{"numpy"}}, opt_in=False)
"""
BACKEND = """
@hookimpl
def ctcx_backends(): return [Backend(**DEFAULT{more})]
"""
# Where a plugin's code runs, and what is done that it runs.
PLACES = {
    "import": ("trouble()", None),
    "hook": ("@hookimpl\ndef ctcx_backends(): trouble()", None),
    "generator": (
        "@hookimpl\ndef ctcx_backends():\n    yield Backend(**DEFAULT)\n    trouble()",
        None,
    ),
    "namespaces": (BACKEND + "@hookimpl\ndef ctcx_namespaces(): trouble()", None),
    "probe": (BACKEND.replace("{more}", ", probe=trouble"), ctcx.backends),
    "accepts": (
        BACKEND.replace("{more}", ", accepts=trouble"),
        lambda: ctcx.explain(LOGITS, [[1]], operation="loss"),
    ),
    "kernel's import": (
        BACKEND.replace("{more}", "")
        + "def __getattr__(name): trouble() if name == 'loss' else exec('raise AttributeError')\n"
        "DEFAULT['kernels'] = {'loss': 'ctcx_it:loss'}",
        lambda: ctcx.ctc_loss(LOGITS, [[1]]),
    ),
    "namespace's probe": (
        """
@hookimpl
def ctcx_namespaces():
    yield Namespace(name='it', distribution='it', from_numpy='a:b', to_numpy='a:b', devices='a:b',
                    probe=trouble)""",
        lambda: current_registry().namespace_unusable("it"),
    ),
    "cases": (
        "@hookimpl\ndef ctcx_conformance_cases(): trouble()",
        lambda: current_registry().cases,
    ),
    "cases, late": (
        "@hookimpl\ndef ctcx_conformance_cases(): yield trouble()",
        lambda: current_registry().cases,
    ),
    "lower bounds": (
        "@hookimpl\ndef ctcx_benchmark_lower_bounds(): yield trouble()",
        lambda: current_registry().lower_bounds,
    ),
    "runtime info": ("@hookimpl\ndef ctcx_runtime_info(): trouble()", versions),
    "runtime info, late": (
        """
@hookimpl
def ctcx_runtime_info(): return {'a': type('Mute', (), {'__str__': trouble})()}""",
        versions,
    ),
}


def everything():
    """What people do, with whatever plugins: nothing of it may raise. The text of it all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ctcx.PluginWarning)
        loss = ctcx.ctc_loss(LOGITS, [[1]])
        assert np.isfinite(loss).all()
        told = [
            str(ctcx.explain(LOGITS, [[1]], operation="loss")),
            str(ctcx.backends()),
            versions(),
        ]
        registry = current_registry()
        told += [repr(registry.plugins), repr(registry.cases), repr(registry.lower_bounds)]
        reasons = map(registry.namespace_unusable, registry.namespaces)
        told += [repr([reason for reason in reasons if reason])]
    text = "\n".join(told)
    text.encode()  # as a terminal or a file would have it
    return text


def caught(action):
    """What an action warns of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        if action:
            action()
    assert {warning.category for warning in found} <= {ctcx.PluginWarning}
    return [str(warning.message) for warning in found]


@pytest.mark.parametrize(
    ("place", "error"),
    [
        # Each place and each error in turn, and all pairs among the slow tests.
        pytest.param(place, error, marks=pytest.mark.slow if (i + j) % len(ERRORS) else ())
        for i, place in enumerate(PLACES)
        for j, error in enumerate(ERRORS)
    ],
)
def test_whatever_a_plugin_raises_is_recorded_named_once_and_ctcx_goes_on(plugins, place, error):
    statement, told = ERRORS[error]
    code, action = PLACES[place]
    plugins.write("it", HEAD.format(statement=statement) + code.replace("{more}", ""))
    _, warned = plugins.load()
    if action is not None:
        assert not warned
        warned = caught(action)
    (message,) = warned
    assert re.search(rf"(plugin|backend|namespace) 'it' of ctcx-it 1\.0.*{told}", message)
    assert "CTCX_DISABLE_PLUGINS=it" in message
    assert len(message) < 1000
    assert not caught(action)  # named once
    text = everything()
    if place not in {"cases", "cases, late", "lower bounds", "runtime info", "runtime info, late"}:
        assert re.search(told, text)


LIBRARY = """
from ctcx.plugin import Namespace, hookimpl
def trouble(*_): raise KeyboardInterrupt('no device')
def nothing(): return []
def things(): return [object()]
def names(): return ['cpu']
def mine(*_): raise ValueError('no array')
@hookimpl
def ctcx_namespaces():
    return [Namespace(name='json', distribution='json', from_numpy='ctcx_it:mine',
                      to_numpy='ctcx_it:mine', {more})]
"""


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("devices='ctcx_it:trouble'", "json: KeyboardInterrupt: no device"),
        ("devices='ctcx_it:nothing'", r"json: its devices() gave []"),
        ("devices='ctcx_it:things'", "expected names of devices"),
        ("devices='ctcx_it:absent'", "has no attribute 'absent'"),
        ("devices='ctcx_it:names', probe=trouble", "its probe() raised KeyboardInterrupt"),
        ("devices='ctcx_it:names'", "json-cpu-float32: no array"),
    ],
)
def test_a_library_that_cannot_be_used_keeps_the_kit_from_no_other(plugins, more, told):
    plugins.write("it", LIBRARY.replace("{more}", more))
    plugins.load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = run_conformance("array-api", dtypes=["float32"], checks=["check_closed_forms"])
    assert told in " ".join(f"{what}: {why}" for what, why in report.not_run.items())
    assert {result.namespace for result in report.results} >= {"numpy"}


@pytest.mark.parametrize(
    "name",
    ["raises_system_exit", "raises_keyboard_interrupt", "unprintable_error", "endless_generator"],
)
def test_awkward_plugins_in_a_process_of_their_own(plugins, name):
    plugins.install(name, "good")
    code = (
        "import warnings; warnings.simplefilter('always')\n"
        "import numpy as np, ctcx\n"
        "x = np.zeros((1, 3, 4), dtype='f4')\n"
        "for _ in range(2):\n"
        "    ctcx.ctc_loss(x, [[1]]), ctcx.explain(x, [[1]], operation='loss'), ctcx.backends()\n"
        "    ctcx.show_versions()\n"
        "print('went on')\n"
    )
    done = plugins.python(code)
    assert (done.returncode, done.stdout[-8:]) == (0, "went on\n"), done.stderr
    of_each = 2 if name == "raises_keyboard_interrupt" else 1  # it has two backends
    assert done.stderr.count(f"of ctcx-{name.replace('_', '-')} 0.1") == of_each, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "trouble()",
        "@hookimpl\ndef ctcx_backends(): trouble()",
        BACKEND.replace("{more}", ", accepts=trouble"),
        BACKEND.replace("{more}", "")
        + "def kernel(*_, **__): trouble()\nDEFAULT['kernels'] = {'loss': 'ctcx_it:kernel'}",
    ],
    ids=["import", "hook", "accepts", "kernel"],
)
def test_an_interrupt_out_of_exec_does_not_end_the_process_later(plugins, code):
    """CPython exits by SIGINT where one has left the latest ``exec``, even if it was caught."""
    plugins.write("it", HEAD.format(statement="exec('raise KeyboardInterrupt')") + code)
    done = plugins.python(
        "import numpy as np, ctcx\n"
        "x = np.zeros((1, 3, 4), dtype='f4')\n"
        "try: ctcx.ctc_loss(x, [[1]], backend='it')\n"
        "except ctcx.CTCError: print('went on')\n"
    )
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


def test_doctor_and_backends_survive_all_of_them(plugins):
    plugins.install(
        "raises_system_exit",
        "raises_keyboard_interrupt",
        "unprintable_error",
        "endless_generator",
        "returns_garbage",
    )
    malformed(plugins, "stranger")
    for command in ("doctor", "doctor --json", "backends", "explain --operation loss"):
        code = (
            "import sys; from ctcx.__main__ import main\n"
            f"sys.argv = ['ctcx', *{command.split()!r}]\n"
            "main()\n"
        )
        done = plugins.python(code, COLUMNS="300")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        if command != "explain --operation loss":
            assert "SystemExit: usage" in done.stdout
        if "doctor" in command:
            assert "stranger" in done.stdout


@pytest.mark.parametrize("hook", ["backends", "namespaces"])
def test_an_endless_hook_is_found_out(plugins, hook):
    kind = {"backends": "Backend(**DEFAULT)", "namespaces": "None"}[hook]
    code = f"@hookimpl\ndef ctcx_{hook}():\n    while True: yield {kind}"
    plugins.write("it", HEAD.format(statement="pass") + code)
    _, (message,) = plugins.load()
    assert "ValueError: it gave more than 1,000 things" in message


RETURNED = {
    "iter": "type('X', (), {'__iter__': trouble})()",
    "next": "type('X', (), {'__iter__': lambda s: s, '__next__': trouble})()",
    "len": "type('X', (list,), {'__len__': trouble, '__iter__': trouble})()",
    "items": "[type('X', (), {'__class__': property(trouble), '__repr__': trouble})()]",
    "evil": "[type('X', (), {'__repr__': trouble, '__eq__': trouble, '__hash__': trouble})()]",
    "repr": "type('X', (str,), {'__repr__': trouble})()",
}


@pytest.mark.parametrize("returned", RETURNED)
@pytest.mark.parametrize(
    "hook",
    ["backends", "namespaces", "conformance_cases", "benchmark_lower_bounds", "runtime_info"],
)
def test_hooks_that_return_what_can_not_be_looked_at(plugins, hook, returned):
    code = f"@hookimpl\ndef ctcx_{hook}(): return {RETURNED[returned]}"
    plugins.write("it", HEAD.format(statement="raise SystemExit(4)") + code)
    _, warned = plugins.load()
    registry = current_registry()
    warned += caught(lambda: (registry.cases, registry.lower_bounds, registry.runtime_info()))
    if hook in {"conformance_cases", "benchmark_lower_bounds"} and returned == "repr":
        assert not warned  # an empty string is nothing
    else:
        (message,) = warned
        assert "ctcx-it 1.0" in message
    everything()


@pytest.mark.parametrize("method", ["__eq__", "__hash__", "__bool__", "__len__"])
def test_a_plugin_that_is_an_awkward_object_breaks_no_other(plugins, method):
    code = (
        f"class Plugin:\n    {method} = trouble\n"
        "    __file__ = __file__\n"
        "    @hookimpl\n    def ctcx_backends(self): return [Backend(**DEFAULT)]\n"
        "import sys; sys.modules[__name__] = Plugin()"
    )
    plugins.write("it", HEAD.format(statement="raise SystemExit(4)") + code)
    plugins.install("good")
    registry, _ = plugins.load()
    assert "good" in registry.backends
    everything()


ANSWERS = {
    "object": ("type('X', (), {'__repr__': trouble, '__eq__': trouble})()", "a X"),
    "string": ("type('X', (str,), {'__str__': trouble, '__format__': trouble})('no')", "no"),
    "lines": (r"'no\ndriver\x1b[0m \udc80'", r"no driver\?\[0m \?"),
    "long": ("'no ' * 10**6", r"no no .{0,600}\.\.\."),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("attribute", ["probe", "accepts"])
def test_answers_that_can_not_be_printed(plugins, attribute, answer):
    value, told = ANSWERS[answer]
    code = BACKEND.replace("{more}", f", {attribute}=lambda *_: {value}")
    plugins.write("it", HEAD.format(statement="raise SystemExit(4)") + code)
    plugins.load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert re.search(told, str(ctcx.explain(LOGITS, [[1]], operation="loss")))
    everything()


def test_a_descriptor_that_is_changed_afterwards_is_taken_as_it_was(plugins):
    code = (
        "MINE = Backend(**DEFAULT)\n"
        "@hookimpl\ndef ctcx_backends(): return [MINE]\n"
        "def spoil():\n"
        "    for field in ('priority', 'kernels', 'namespaces', 'probe', 'name'):\n"
        "        object.__setattr__(MINE, field, None)\n"
    )
    plugins.write("it", HEAD.format(statement="pass") + code)
    registry, _ = plugins.load()
    import ctcx_it

    ctcx_it.spoil()
    assert registry.backends["it"].backend.priority == 0
    assert ctcx.explain(LOGITS, [[1]], operation="loss").selected.backend.name == "it"


def test_a_descriptor_that_was_changed_before_is_refused(plugins):
    code = (
        "@hookimpl\ndef ctcx_backends():\n"
        "    it = Backend(**DEFAULT)\n"
        "    object.__setattr__(it, 'priority', 'high')\n"
        "    yield it\n"
    )
    plugins.write("it", HEAD.format(statement="pass") + code)
    _, (message,) = plugins.load()
    assert "Backend 'it': priority must be of type int, got 'high'" in message
    assert plugins.record("it").status == "invalid"
    everything()


def test_a_subclass_of_a_descriptor_is_taken_as_what_it_is_a_subclass_of(plugins):
    code = (
        "class Lazy(Backend):\n"
        "    def __post_init__(self): pass\n"
        "@hookimpl\ndef ctcx_backends(): yield Lazy(**DEFAULT, priority=float('nan'))\n"
    )
    plugins.write("it", HEAD.format(statement="pass") + code)
    _, (message,) = plugins.load()
    assert "Backend 'it': priority must be of type int, got nan" in message


class Evil:
    """Raises whatever is asked of it."""

    def __repr__(self):
        raise RuntimeError

    __str__ = __len__ = __iter__ = __hash__ = __eq__ = __repr__


GOOD = {
    Backend: {"name": "mine", "kernels": {"loss": "a:b"}, "namespaces": {"numpy"}},
    Namespace: {
        "name": "mine",
        "distribution": "mine",
        "from_numpy": "a:b",
        "to_numpy": "a:b",
        "devices": "a:b",
    },
}
WRONG = {
    (Backend, "name"): [None, 3, "", "Mine", "a b", "mine\n", Evil()],
    (Backend, "kernels"): [None, 3, "a:b", ["a:b"], {}, {"loss": 3}, {"hum": "a:b"}, {3: "a:b"}],
    (Backend, "namespaces"): [None, 3, "numpy", (), [3], [[]], {None}, {"a": 1}, Evil(), [Evil()]],
    (Backend, "devices"): [None, 3, "cpu", (), [3], iter(["cpu"])],
    (Backend, "dtypes"): [None, 3, "float32", (), [3], {"int32"}, {np.float32}],
    (Backend, "features"): [None, 3, "GRAD", {"GRAD"}, {Feature.GRAD}, {Feature.HALF}, [[]]],
    (Backend, "priority"): [None, "high", float("nan"), 1.0, True, np.int64(3), Evil()],
    (Backend, "opt_in"): [None, "no", 0, 1, np.True_, Evil()],
    (Backend, "probe"): [None, "yes", True, Evil()],
    (Backend, "accepts"): [None, "yes", True],
    (Backend, "api"): [None, "1.0", 2, (2,), (2, 0, 0), [2, 0], (2.0, 0), (True, 0), ("2", "0")],
    (Backend, "summary"): [None, 3, "two\nlines", "\ud800", "\x1b[31m", Evil()],
    (Backend, "url"): [None, 3, "two\nlines"],
    (Namespace, "name"): [None, 3, "", "a b", "a..b", "\x1b", Evil()],
    (Namespace, "distribution"): [None, 3, "two\nlines"],
    (Namespace, "from_numpy"): [None, 3, "a.b"],
    (Namespace, "to_numpy"): [None, print],
    (Namespace, "devices"): [None, ("cpu",)],
    (Namespace, "probe"): [None, 3],
    (Namespace, "synchronize"): [3, "a.b"],
    (Namespace, "jit"): [3, print],
    (Namespace, "loop"): [3, ""],
    (Namespace, "dtypes"): [None, "float32", (), {"int32"}],
    (Namespace, "api"): [None, 1.1, (1,)],
}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [(*key, value) for key, values in WRONG.items() for value in values],
    ids=lambda value: getattr(value, "__name__", "value"),
)
def test_a_wrong_field_is_refused_at_construction_with_its_name(kind, field, value):
    kind(**GOOD[kind])
    with pytest.raises((TypeError, ValueError)) as error:
        kind(**GOOD[kind] | {field: value})
    assert kind.__name__ in str(error.value)
    assert field.removesuffix("s") in str(error.value).lower()


# Packages that have nothing to do with ctcx


def malformed(plugins, name, entry_points="[console_scripts]\nfoo\n", metadata=None):
    """Install a distribution whose metadata can't be read."""
    site = plugins._scratch / name
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" if metadata is None else metadata
    )
    if isinstance(entry_points, bytes):
        (info / "entry_points.txt").write_bytes(entry_points)
    else:
        (info / "entry_points.txt").write_text(entry_points)
    plugins._add(site)
    return info


STRANGE = {
    "no value": "[console_scripts]\nfoo\n",
    "binary": b"\x80\x81\xff\x00[x]",
    "half binary": b"[console_scripts]\na = b\xff:c",
}


@pytest.mark.parametrize("what", STRANGE)
def test_malformed_entry_points_of_a_stranger_cost_only_that_stranger(plugins, what):
    malformed(plugins, "stranger", STRANGE[what])
    plugins.install("good")
    registry, (message,) = plugins.load()
    assert "good" in registry.backends
    assert "the metadata of stranger can't be read (" in message
    assert "CTCX_DISABLE_PLUGINS=stranger" in message
    assert list(registry.unreadable) == ["stranger"]
    assert "The metadata of stranger can't be read" in everything()
    plugins.block("stranger")
    _, warned = plugins.load()
    assert not warned


def test_a_stranger_is_no_plugin_and_so_no_error_under_strict_plugins(plugins):
    malformed(plugins, "stranger")
    plugins.monkeypatch.setenv("CTCX_STRICT_PLUGINS", "1")
    _, warned = plugins.load()
    assert len(warned) == 1


def test_malformed_entry_points_of_a_plugin_are_a_plugin_that_failed(plugins):
    malformed(plugins, "ctcx-mine", "[ctcx.plugins]\nmine\n")
    _, (message,) = plugins.load()
    assert plugins.record("ctcx-mine").status == "failed"
    assert "plugin 'ctcx-mine' of ctcx-mine 1.0 is left out (failed): TypeError" in message
    plugins.monkeypatch.setenv("CTCX_STRICT_PLUGINS", "1")
    with pytest.raises(ctcx.PluginError, match="ctcx-mine"):
        reload_plugins()


@pytest.mark.parametrize(
    "metadata",
    ["", "Name: x", "Version: 3\n", "\x00\x01", "Name:\nVersion:\n", "Name: a\x1b[31m\nVersion: 2"],
)
def test_a_plugin_may_have_no_name_or_version(plugins, metadata):
    malformed(plugins, "odd", "[ctcx.plugins]\nodd = ctcx_good\n", metadata)
    plugins.install("good")
    plugins.block("good")
    registry, _ = plugins.load()
    assert "good" in registry.backends
    everything()


@pytest.mark.parametrize("value", ["", "a b c", ":::", "ctcx_good:", "json:nothing", "json.no:x"])
def test_entry_points_that_point_nowhere(plugins, value):
    malformed(plugins, "odd", f"[ctcx.plugins]\nodd = {value}\n")
    plugins.install("good")
    registry, _ = plugins.load()
    assert "array-api" in registry.backends
    everything()


@posix_only
def test_metadata_that_may_not_be_read(plugins):
    info = malformed(plugins, "secret")
    (info / "entry_points.txt").unlink()
    (info / "entry_points.txt").symlink_to("entry_points.txt")  # a loop: OSError
    (info / "METADATA").unlink()
    (info / "METADATA").symlink_to("METADATA")
    registry, warned = plugins.load()
    assert len(warned) == len(registry.unreadable)
    everything()


def test_the_first_distribution_of_a_name_on_the_path_counts(plugins):
    plugins.write("late", "import nothing_such", distribution="ctcx-same")
    site = plugins._scratch / "other"
    info = site / "ctcx_same-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ctcx.same\nVersion: 2.0\n")
    plugins._add(site)
    registry, warned = plugins.load()
    assert not warned
    assert [plugin.name for plugin in registry.plugins if plugin.distribution != "ctcx"] == []


class Finder:
    """Finds a distribution that raises, and then raises itself."""

    def __init__(self, error):
        self._error = error

    def find_spec(self, *_):
        return None

    def find_distributions(self, context):
        from importlib.metadata import Distribution

        error = self._error

        class Bad(Distribution):
            def read_text(self, name):
                raise error

            def locate_file(self, path):
                raise error

        yield Bad()
        raise error


@pytest.mark.parametrize("error", [OSError("gone"), SystemExit(3), KeyboardInterrupt()])
def test_a_finder_of_a_stranger_costs_only_what_it_finds(plugins, error):
    plugins.install("good")
    plugins.monkeypatch.setattr(sys, "meta_path", [Finder(error), *sys.meta_path])
    registry, warned = plugins.load()
    assert "good" in registry.backends
    assert len(warned) == len(registry.unreadable) > 0
    everything()


# Ctrl-C


INTERRUPTED = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np, ctcx
def press():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)
import builtins
builtins.press = lambda: threading.Thread(target=press, daemon=True).start()
try:
    {action}
except KeyboardInterrupt:
    print("interrupted")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
os.environ["CTCX_DISABLE_PLUGINS"] = "it"
print(np.isfinite(ctcx.ctc_loss(np.zeros((1, 3, 4), "f4"), [[1]], backend="array-api")).all())
"""
WAITS = {
    "waits": "press(); import time; time.sleep(30)",
    "is busy": "press()\n    while True: pass",
    "swallows it": """press()
    import time
    try: time.sleep(30)
    except BaseException: pass""",
    "turns it into another": """press()
    import time
    try: time.sleep(30)
    except BaseException: raise ImportError('no driver')""",
}


@posix_only
@pytest.mark.parametrize(
    ("place", "how"),
    [
        (place, how)
        for place in ("import", "generator", "probe", "kernel's import", "accepts")
        for how in WAITS
        # accepts is cheap: ctcx doesn't listen meanwhile, and sees only what comes out of it.
        if place != "accepts" or how in {"waits", "is busy"}
    ],
)
def test_ctrl_c_while_a_plugin_works_interrupts(plugins, place, how):
    code = PLACES[place][0].replace("{more}", "")
    plugins.write("it", HEAD.format(statement=WAITS[how]) + code)
    action = "ctcx.ctc_loss(np.zeros((1, 3, 4), 'f4'), [[1]])"
    done = plugins.python(INTERRUPTED.format(action=action), "-W", "ignore")
    assert done.stdout == "interrupted\nTrue\n", done.stderr


@posix_only
@pytest.mark.parametrize("how", ["waits", "is busy"])
def test_ctrl_c_while_a_kernel_works_interrupts(plugins, how):
    code = (
        BACKEND.replace("{more}", "")
        + "DEFAULT['kernels'] = {'loss': 'ctcx_it:kernel'}\ndef kernel(*_, blank): trouble()\n"
    )
    plugins.write("it", HEAD.format(statement=WAITS[how]) + code)
    action = "ctcx.ctc_loss(np.zeros((1, 3, 4), 'f4'), [[1]])"
    done = plugins.python(INTERRUPTED.format(action=action), "-W", "ignore")
    assert done.stdout == "interrupted\nTrue\n", done.stderr


@posix_only
def test_what_a_signal_handler_of_the_application_raises_goes_to_the_application(plugins):
    """A server that ends on SIGTERM by SystemExit must end, whatever runs at that moment."""
    statement = "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)"
    plugins.write("it", HEAD.format(statement=statement) + PLACES["probe"][0])
    code = (
        "import signal, sys, ctcx\n"
        "class Application:\n"
        "    def stop(self, *_): sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, Application().stop)\n"
        "ctcx.backends()\n"
    )
    assert plugins.python(code, "-W", "ignore").returncode == 7


@posix_only
def test_a_plugin_that_handles_sigint_itself_keeps_its_handler(plugins):
    statement = "import signal; signal.signal(signal.SIGINT, lambda *_: print('mine'))"
    plugins.write("it", HEAD.format(statement=statement) + PLACES["probe"][0])
    code = (
        "import os, signal, ctcx\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "ctcx.backends()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = plugins.python(code, "-W", "ignore")
    assert (done.returncode, done.stdout) == (0, "mine\n"), done.stderr


def test_plugins_load_in_any_thread(plugins):
    plugins.install("raises_keyboard_interrupt", "good")
    plugins.load()
    found = []

    def work():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append([info.name for info in ctcx.backends()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "interrupting-probe" in found[0]
