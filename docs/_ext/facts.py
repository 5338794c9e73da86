"""What the pages state about the code, read from the code, as Markdown.

One function for each ``{facts}`` block of the pages; :data:`FACTS` has them by name. A text that
has sections has nothing outside of them, since a page would put that last. Nothing here needs
Sphinx, so that the tests can ask for the same text.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from dataclasses import fields
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import ctcx
from ctcx import _errors, fixtures, plugin
from ctcx._comparison import result
from ctcx._diagnosis import MISTAKES
from ctcx._peers import PEERS
from ctcx._plugins import builtin, hookspecs
from ctcx.bench.workloads import SWEEPS, workloads
from ctcx.conformance import KIT_VERSION, checks
from ctcx.conformance._external.operations import OPERATIONS
from ctcx.conformance.cases import cases
from ctcx.conformance.oracle import TOLERANCES, Tolerance
from ctcx.data.bundled import notebook_fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["FACTS", "commands", "help_text", "public_api", "variables_in_source"]

ROOT = Path(__file__).parents[2]

# Where each public name stands on the page of the API. A name that is missing here fails the build.
API = {
    "Loss and gradient": ("ctc_loss", "ctc_loss_and_grad", "LossAndGrad", "ctc_hvp"),
    "Last linear layer and loss": ("linear_ctc_loss_and_grad", "LinearLossAndGrad"),
    "Alignment": ("ctc_align", "Alignment", "spans", "Span"),
    "Decoding": ("ctc_greedy", "Decoded", "ctc_beam_search", "Beams", "BeamState", "NGram"),
    "All paths of the labels": (
        "ctc_occupancies",
        "Occupancies",
        "ctc_entropy",
        "ctc_sample_paths",
    ),
    "Labels": ("labels_from_one_hot", "labels_to_one_hot", "min_frames"),
    "Backends": ("use_backend", "explain", "trace", "backends", "show_versions"),
    "Modules": ("compat", "conformance", "plugin"),
    "Errors": (
        "CTCError",
        "CTCInputError",
        "InfeasibleError",
        "BackendError",
        "UnknownBackendError",
        "BackendRejectedError",
        "KernelError",
        "PluginError",
        "PluginWarning",
    ),
    "Version": ("__version__",),
}

# What the environment variables are for, in Markdown. The build fails if the source reads others.
VARIABLES = {
    "CTCX_BACKEND": (
        "names, separated by commas",
        """Compute with these backends only, in this order. {py:func}`ctcx.use_backend` and
        `backend=` go before.""",
    ),
    "CTCX_DISABLE_PLUGINS": (
        "names, separated by commas, or `all`",
        """Leave these plugins out, by the name of the entry point or of the distribution. They are
        not even imported. The built-in one can't be left out.""",
    ),
    "CTCX_NUM_THREADS": (
        "a positive number",
        """Threads of a call that the plugin `ctcx-cpu` computes; by default the cores that the
        process may use. The core doesn't read it.""",
    ),
    "CTCX_CPU_INSTRUCTIONS": (
        "`baseline`, `avx2`, `avx512` or `neon`",
        """Instructions that the plugin `ctcx-cpu` uses; by default the best that the processor
        has.""",
    ),
    "CTCX_CUDA_SCRATCH_MIB": (
        "a positive number",
        """MiB of scratch memory that a call of the plugin `ctcx-cuda` may take; by default 256.""",
    ),
    "CTCX_STRICT_PLUGINS": (
        "yes or no",
        "A plugin that can't be used is a {py:exc}`ctcx.PluginError` instead of a warning.",
    ),
    "CTCX_TEST_DRAW": (
        "a number",
        """How many problems {py:class}`ctcx.conformance.BackendConformance` draws for each library,
        device and dtype.""",
    ),
    "CTCX_TEST_NAMESPACES": (
        "names, separated by commas",
        """Array libraries that must be there when the conformance kit runs. One that is missing
        fails the run instead of being left out.""",
    ),
    "CTCX_TEST_SEED": (
        "a number",
        "{py:class}`ctcx.conformance.BackendConformance` draws other problems.",
    ),
    "CTCX_TEST_SLOW": (
        "yes or no",
        "{py:class}`ctcx.conformance.BackendConformance` runs the slow checks too.",
    ),
    "CTCX_TEST_THOROUGH": (
        "yes or no",
        """{py:class}`ctcx.conformance.BackendConformance` draws thousands of problems, large ones
        among them, and runs the slow checks: for a night.""",
    ),
}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def code(text: object) -> str:
    """Inline code, or a dash for nothing."""
    return f"`{text}`" if str(text) else "-"


def doc_line(obj: object) -> str:
    """First paragraph of a docstring, in one line."""
    return inline(" ".join((inspect.getdoc(obj) or "").split("\n\n")[0].split()))


def inline(text: str) -> str:
    """The little reStructuredText that docstrings have, as Markdown."""
    text = re.sub(r":(\w+):`~?([^`]+)`", r"{py:\1}`\2`", text)
    return text.replace("``", "`")


def literal(text: str, language: str = "text") -> str:
    """Fenced block."""
    return f"```{language}\n{text.rstrip()}\n```"


def rst(*lines: str) -> str:
    """Block of reStructuredText, for autodoc."""
    return "\n".join(["```{eval-rst}", *lines, "```"])


def attribute_doc(module: str, name: str) -> str:
    """Docstring of a module's constant: the string that follows its assignment."""
    tree = ast.parse(inspect.getsource(import_module(module)))
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if named and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            return inline(inspect.cleandoc(str(following.value.value)))
    msg = f"{module}.{name} has no docstring"
    raise LookupError(msg)


def fields_of(cls: type) -> dict[str, str]:
    """What the Attributes section of a class says about each field, in one line."""
    found: dict[str, str] = {}
    names: list[str] = []
    section = (inspect.getdoc(cls) or "").partition("Attributes\n----------\n")[2]
    for line in re.split(r"\n\n[A-Z]\w+\n-{4,}", section)[0].splitlines():
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.partition(" : ")[0].split(",")]
        else:
            for name in names:
                found[name] = inline(f"{found.get(name, '')} {line.strip()}".strip())
    return found


def public_api() -> str:
    """Every name of ``ctcx.__all__``, with autodoc."""
    placed = {name for names in API.values() for name in names}
    if wrong := placed ^ set(ctcx.__all__):
        msg = f"docs/_ext/facts.py places other names than ctcx.__all__ has: {sorted(wrong)}"
        raise LookupError(msg)
    parts = []
    for title, names in API.items():
        parts.append(f"## {title}")
        if title == "Errors":
            parts.append("See [](errors.md).")
            continue
        parts.extend(map(_entry, names))
    return "\n\n".join(parts)


def _entry(name: str) -> str:
    value = getattr(ctcx, name)
    if inspect.ismodule(value):
        page = {
            "compat": "../compat.md",
            "conformance": "../conformance.md",
            "plugin": "plugin.md",
        }[name]
        return f"[`ctcx.{name}`]({page})\n: {doc_line(value)}"
    if inspect.isclass(value):
        return rst(f".. autoclass:: ctcx.{name}")
    if callable(value):
        return rst(f".. autofunction:: ctcx.{name}")
    return rst(f".. py:data:: ctcx.{name}", "", f'   "{value}"')


def returned_classes() -> str:
    """The classes of results, which callers get and do not make."""
    classes = (
        "_dispatch.decision.Decision",
        "_dispatch.decision.Candidate",
        "_dispatch.tracing.Run",
        "_dispatch.report.BackendInfo",
        "_plugins.records.RegisteredBackend",
    )
    return "\n\n".join(rst(f".. autoclass:: ctcx.{name}") for name in classes)


def plugin_api() -> str:
    """Every name of ``ctcx.plugin.__all__``, with autodoc."""
    entries = []
    for name in plugin.__all__:
        value = getattr(plugin, name)
        if inspect.ismodule(value):  # the hooks have a section of their own
            continue
        if inspect.isclass(value):
            members = ["   :members:", "   :undoc-members:"] * issubclass(value, Enum)
            entries.append(rst(f".. autoclass:: ctcx.plugin.{name}", *members))
            continue
        if inspect.isfunction(value):
            entries.append(rst(f".. autofunction:: ctcx.plugin.{name}"))
            continue
        home = "ctcx._plugins.backend" if name == "API_VERSION" else "ctcx.plugin"
        shown = f":value: {value}\n" if name == "API_VERSION" else ""
        about = attribute_doc(home, name)
        entries.append(f"```{{py:data}} {name}\n:module: ctcx.plugin\n{shown}\n{about}\n```")
    return "\n\n".join(entries)


def features() -> str:
    """The features that a backend may declare."""
    rows = [(code(f"Feature.{feature.name}"), feature.value) for feature in plugin.Feature]
    return table(("feature", "the kernel"), rows)


def hooks() -> str:
    """Every hook, with autodoc."""
    lines = [f".. autofunction:: ctcx._plugins.hookspecs.{name}" for name in hookspecs.__all__]
    return rst(".. py:module:: ctcx._plugins.hookspecs", "   :no-index-entry:", "", *lines)


def error_tree() -> str:
    """The exceptions as a nested list, and each with autodoc."""
    named = [getattr(_errors, name) for name in _errors.__all__]
    public = [cls for cls in named if isinstance(cls, type)]
    lines: list[str] = []

    def walk(cls: type, depth: int) -> None:
        others = [base.__name__ for base in cls.__bases__ if base not in (*public, Exception)]
        note = f" (a `{'`, `'.join(others)}`)" if others else ""
        lines.append(f"{'  ' * depth}- {{py:exc}}`ctcx.{cls.__name__}`{note}: {doc_line(cls)}")
        for child in (c for c in public if cls in c.__bases__):
            walk(child, depth + 1)

    for cls in public:
        if not any(base in public for base in cls.__bases__):
            walk(cls, 0)
    entries = [rst(f".. autoexception:: ctcx.{cls.__name__}") for cls in public]
    return "\n\n".join(["\n".join(lines), *entries])


def variables_in_source() -> set[str]:
    """The environment variables that the package names."""
    text = "\n".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "ctcx").rglob("*.py"))
    )
    return set(re.findall(r"\bCTCX_[A-Z][A-Z_]*\b", text))


def environment() -> str:
    """Table of the environment variables."""
    if wrong := set(VARIABLES) ^ variables_in_source():
        msg = f"docs/_ext/facts.py describes other variables than the source has: {sorted(wrong)}"
        raise LookupError(msg)
    rows = [(code(name), value, what) for name, (value, what) in VARIABLES.items()]
    return table(("variable", "value", "effect"), rows)


def check_list() -> str:
    """Every check of the conformance kit."""
    rows = []
    for check in checks().values():
        needs = [code(feature.name) for feature in sorted(check.requires, key=lambda f: f.name)]
        if len(check.dtypes) < len(TOLERANCES):
            needs.append(", ".join(code(dtype) for dtype in sorted(check.dtypes)))
        needs += ["a library with jit"] * check.jit + ["to be asked for (slow)"] * check.slow
        needs += ["nothing yet: provisional"] * check.provisional
        rows.append((code(check.name), inline(check.summary), "; ".join(needs) or "-"))
    count = f"Version {KIT_VERSION} of the kit has {len(rows)} checks."
    return f"{count}\n\n{table(('check', 'proves', 'needs'), rows)}"


def case_list() -> str:
    """Every built-in case of the conformance kit."""
    rows = [
        (case.name, " x ".join(map(str, case.shape)), inline(case.why).rstrip("."))
        for case in cases()
    ]
    return table(("case", "N x T x C x S", "why it is there"), rows)


def tolerances() -> str:
    """What the conformance kit allows."""
    return _tolerances(TOLERANCES, "dtype")


def compare_tolerances() -> str:
    """What ``ctcx compare`` allows."""
    return _tolerances(result.TOLERANCE_OF, "input")


def _tolerances(values: dict[str, Tolerance], what: str) -> str:
    names = [field.name for field in fields(Tolerance)]
    rows = [
        (code(key), *(f"{getattr(value, name):g}" for name in names))
        for key, value in values.items()
    ]
    told = fields_of(Tolerance)
    meaning = "\n".join(f"- `{name}`: {told[name]}" for name in names)
    return f"{table((what, *map(code, names)), rows)}\n\n{meaning}"


def statuses() -> str:
    """What the statuses of a candidate mean."""
    return _as_list(attribute_doc("ctcx._dispatch.decision", "Status"))


def plugin_statuses() -> str:
    """What the statuses of a plugin mean."""
    return _as_list(attribute_doc("ctcx._plugins.records", "PluginStatus"))


def _as_list(text: str) -> str:
    """``name: meaning. name: meaning.`` as a list."""
    parts = re.split(r"(?:^|(?<=\. ))([a-z-]+): ", " ".join(text.split()))[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return "\n".join(f"- `{name}`: {meaning.strip()}" for name, meaning in pairs)


def benchmark_workloads() -> str:
    """The workloads of ``ctcx bench`` that are no sweep."""
    rows = []
    for name, one in workloads().items():
        if one.sweep is None:
            batch = one.make()
            sizes = (*batch.logits.shape, batch.labels.shape[1])
            rows.append((code(name), " x ".join(map(str, sizes)), one.origin, "yes" * one.quick))
    return table(("workload", "N x T x C x S", "what it is", "`--quick`"), rows)


def benchmark_sweeps() -> str:
    """The sweeps of ``ctcx bench``."""
    rows = [
        (
            code(f"scale-{letter}-*"),
            sweep.what,
            ", ".join(map(str, sweep.sizes)),
            ", ".join(f"{each}={getattr(sweep, each)}" for each in "NTCL" if each != letter),
        )
        for letter, sweep in SWEEPS.items()
    ]
    return table(("workloads", "what grows", "sizes", "what stays"), rows)


def benchmark_peers() -> str:
    """The other implementations that ``ctcx bench`` measures."""
    return table(("peer", "what is called"), [(code(name), what) for name, what in PEERS.items()])


def libraries() -> str:
    """The array libraries that ctcx itself describes."""
    rows = [
        (
            code(library.name),
            code(library.distribution),
            ", ".join(code(dtype) for dtype in sorted(library.dtypes)),
            "yes" if library.jit else "-",
        )
        for library in builtin.ctcx_namespaces()
    ]
    return table(("library", "package", "logits", "jit"), rows)


def command_names() -> list[str]:
    """Every command of the program."""
    from ctcx._cli import app

    return [command.name for command in app.registered_commands if command.name]


@cache
def commands() -> dict[str, str]:
    """Every command with its help text."""
    return {name: help_text(name) for name in command_names()}


def help_text(*arguments: str) -> str:
    """What a command prints with ``--help``."""
    return run_command(*arguments, "--help")


def run_command(*arguments: str) -> str:
    """What a command prints, as if into a file."""
    from typer.testing import CliRunner

    from ctcx._cli import app

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "90"
    try:
        return CliRunner().invoke(app, arguments, prog_name="ctcx").stdout
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def program_help() -> str:
    """The help text of the program itself."""
    return literal(help_text())


def command_help() -> str:
    """A section for every command, with its help text."""
    parts = []
    for name, text in commands().items():
        parts += [f"## `ctcx {name}`", literal(text)]
        if name == "explain":
            shown = ("explain", "--library", "jax", "--traced")
            parts += [f"For example, `ctcx {' '.join(shown)}`:", literal(run_command(*shown))]
    return "\n\n".join(parts)


def fixture_list() -> str:
    """Every named fixture."""
    return table(
        ("name", "what it catches"), [(code(n), about) for n, about in fixtures.names().items()]
    )


def fixture_arrays() -> str:
    """Every array of a fixture, as the JSON Schema describes it."""
    told = fixtures.schema()["properties"]["fixtures"]["items"]["properties"]
    rows = [
        (code(name), " x ".join(axes), told[name]["description"])
        for name, axes in fixtures.ARRAYS.items()
    ]
    return table(("array", "axes", "what"), rows)


def mistakes() -> str:
    """Every mistake that ``ctcx diagnose`` knows."""
    rows = [(code(mistake.name), mistake.sentence) for mistake in MISTAKES]
    return table(("mistake", "what is said"), rows)


def operation_mistakes() -> str:
    """Every mistake of an operation that ``ctcx conformance --operation`` knows."""
    rows = [
        (code(operation.name), code(mistake.name), mistake.sentence)
        for operation in OPERATIONS.values()
        for mistake, _ in operation.mistakes
    ]
    return table(("operation", "mistake", "what is said"), rows)


def explain_example() -> str:
    """What ``ctcx.explain`` says."""
    logits = np.zeros((64, 150, 28), dtype=np.float32)
    return literal(str(ctcx.explain(logits, np.ones((64, 40), dtype=np.int64))))


def notebook_numbers() -> str:
    """The notebook's example: inputs, loss and gradient as it printed them."""
    fixture = notebook_fixture()
    labels = fixture.labels[0, : fixture.label_lengths[0]]
    rows = [
        (t, *(f"{logit:g}" for logit in logits), *map(str, slopes))
        for t, (logits, slopes) in enumerate(
            zip(fixture.logits[0], fixture.expected_grad[0], strict=True)
        )
    ]
    classes = range(fixture.logits.shape[2])
    head = ("frame", *(f"logit {c}" for c in classes), *(f"gradient {c}" for c in classes))
    loss = float(fixture.expected_loss[0])
    return (
        f"Labels {labels.tolist()}, blank {fixture.blank}, loss {loss:.6f} nats.\n\n"
        f"{table(head, rows)}\n\n{fixture.provenance}"
    )


def differences(framework: str, title: str) -> str:
    """Table of the tests that call a framework and ctcx, and state how the two differ."""
    source = ROOT / "tests" / "frameworks" / f"test_{framework}.py"
    rows = []
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_difference_"):
            row = re.split(r"\s\|\s", ast.get_docstring(node) or "")
            if len(row) != 3:
                msg = f"{node.name} in {source} doesn't say: what is passed | {title} | ctcx"
                raise LookupError(msg)
            rows.append(row)
    return table(("what is passed", title, "ctcx"), rows)


def coming_from_torch() -> str:
    """How ctcx.compat.torch differs from torch."""
    return differences("torch", "PyTorch")


def coming_from_tensorflow() -> str:
    """How ctcx.compat.tensorflow differs from TensorFlow."""
    return differences("tensorflow", "TensorFlow")


def coming_from_optax() -> str:
    """How ctcx.compat.optax differs from Optax."""
    return differences("optax", "Optax")


def coming_from_keras() -> str:
    """How ctcx.compat.keras differs from Keras."""
    return differences("keras", "Keras")


FACTS: dict[str, Callable[[], str]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        benchmark_peers,
        benchmark_sweeps,
        benchmark_workloads,
        case_list,
        check_list,
        coming_from_keras,
        coming_from_optax,
        coming_from_tensorflow,
        coming_from_torch,
        command_help,
        compare_tolerances,
        environment,
        error_tree,
        explain_example,
        features,
        fixture_arrays,
        fixture_list,
        hooks,
        libraries,
        mistakes,
        notebook_numbers,
        operation_mistakes,
        plugin_api,
        plugin_statuses,
        program_help,
        public_api,
        returned_classes,
        statuses,
        tolerances,
    )
}
"""What a page may ask for in a ``{facts}`` block."""
