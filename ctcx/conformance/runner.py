"""Run the kit from Python or the command line, without pytest, and report."""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ctcx._plugins.registry import registry
from ctcx.conformance import KIT_VERSION
from ctcx.conformance._drawing import DRAWN, FAILURES, Drawing
from ctcx.conformance._execute import Result, execute
from ctcx.conformance._plan import Expectations, make_plan

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ctcx.conformance._plan import CheckPlan

__all__ = ["Report", "Result", "run_conformance", "versions_of"]

_REPORT_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run of the kit found out about a backend.

    Attributes
    ----------
    backend : str
        Its name.
    provenance : str
        Distribution and version that it comes from.
    results : tuple of Result
        One for each check, library, device and dtype.
    not_run : dict of str to str
        Whole libraries, devices and dtypes that were left out, with the reason.
    problems : tuple of str
        What was wrong with the run itself; any of them fails it.
    versions : dict of str to str
        Of Python and of the libraries used.
    kit_version : str
        Of the checks.
    kind : str
        What was tested: ``"backend"``; ``"program"`` or ``"file"`` for other languages.
    verdict : str
        Of wrong numbers: the mistake that gives them, and in how many problems.
    mistakes : tuple of str
        Its name; several that the problems can't tell apart; none if no known one gives them.
    explanation : str
        What the verdict means, and what would be right.
    example : str
        The first wrong number of the smallest problem that is wrong, in the order of computation.
    command : str
        Shows that problem from inside, a line for each operation; empty if no files were written.
    """

    backend: str
    provenance: str
    results: tuple[Result, ...]
    not_run: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    kit_version: str = KIT_VERSION
    kind: str = "backend"
    verdict: str = ""
    mistakes: tuple[str, ...] = ()
    explanation: str = ""
    example: str = ""
    command: str = ""

    @property
    def passed(self) -> bool:
        """Whether something was run, and all of it is right."""
        ran = any(result.executed for result in self.results)
        return ran and not self.problems and not any(result.bad for result in self.results)

    @property
    def counts(self) -> dict[str, int]:
        """How many results have each status."""
        return dict(Counter(result.status for result in self.results))

    def summary(self) -> str:
        """Return what was run, what was not and why, and what is wrong, as text."""
        verdict = "PASSED" if self.passed else "FAILED"
        counted = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        who = f"{self.kind} {self.backend!r} from {self.provenance}"
        kit = f"conformance kit {self.kit_version}"
        lines = [f"{verdict}: {who}, {kit}: {counted or 'nothing run'}"]
        lines += [f"  problem: {problem}" for problem in self.problems]
        lines += [f"  {line}" for line in (self.verdict, self.explanation) if line]
        lines += self._by_subject()
        lines += [f"  not run: {what}: {why}" for what, why in self.not_run.items()]
        lines += self._skipped()
        for result in self.results:
            if result.status in {"failed", "error", "expected-failure"}:
                note = " (provisional: doesn't count yet)" if result.provisional else ""
                lines.append(f"\n{result.status}{note}: {result.where}\n{result.message}")
            elif result.status == "passed" and result.message:
                lines.append(f"  left out in part: {result.where}: {result.message}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return all of it as JSON text."""
        head = {"format": _REPORT_FORMAT, "passed": self.passed, "counts": self.counts}
        return json.dumps(head | asdict(self), indent=2)

    def _by_subject(self) -> list[str]:
        """Return a line for each library, device and dtype that was run."""
        groups: dict[str, list[Result]] = {}
        for result in self.results:
            if result.executed:
                key = f"{result.namespace}, {result.device}, {result.dtype}"
                groups.setdefault(key, []).append(result)
        return [
            f"  run: {key}: {sum(not r.bad for r in group)} of {len(group)} checks as they should "
            f"be, {sum(r.seconds for r in group):.1f} s"
            for key, group in groups.items()
        ]

    def _skipped(self) -> list[str]:
        """Return the skipped checks, those with the same reason together."""
        reasons: dict[tuple[str, str], int] = {}
        for result in self.results:
            if result.status == "skipped":
                key = (result.check, result.message)
                reasons[key] = reasons.get(key, 0) + 1
        return [
            f"  skipped: {check}{f' ({count} times)' if count > 1 else ''}: {why}"
            for (check, why), count in reasons.items()
        ]


def run_conformance(
    name: str,
    *,
    namespaces: Collection[str] | None = None,
    devices: Collection[str] | None = None,
    dtypes: Collection[str] | None = None,
    checks: Collection[str] | None = None,
    slow: bool = False,
    draw: int | None = None,
    seed: int = 0,
    thorough: bool = False,
    failures: str | os.PathLike[str] = FAILURES,
    replay: str | os.PathLike[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    explain: bool = True,
    progress: Callable[[Result], None] | None = None,
) -> Report:
    """Put a backend through the whole kit.

    Parameters
    ----------
    name : str
        The backend's name.
    namespaces, devices, dtypes, checks : collection of str, optional
        Only these; default: everything that the backend declares and that is there.
    slow : bool
        Whether to include the checks that take a minute.
    draw : int, optional
        How many problems ``check_drawn_problems`` draws for each library, device and dtype (a
        quarter in half precision); default: as many as take some seconds.
    seed : int
        Other seeds draw other problems; the same one draws the same ones everywhere.
    thorough : bool
        For a night: thousands of drawn problems, large ones among them, and the slow checks.
    failures : path
        Folder for fixture files of drawn problems with wrong results; made when there is one.
    replay : path or str, optional
        Run only this problem: such a file, or the name of a drawn problem.
    expected_failures : mapping of str to str, optional
        ``{"check_x": reason}``; strict, see :class:`ctcx.conformance.BackendConformance`.
    explain : bool
        Whether to look for the mistake that gives wrong numbers; takes about a second.
    progress : callable, optional
        Called with each :class:`Result` as it comes.

    Returns
    -------
    Report
        Its ``passed`` is False if any check failed, and also if none could be run.

    Raises
    ------
    UnknownBackendError
        No plugin registered the backend.
    ValueError
        A library, device, dtype or check that doesn't exist, or that the backend doesn't declare.

    Examples
    --------
    >>> from ctcx.conformance import run_conformance
    >>> report = run_conformance("array-api", namespaces=["numpy"], dtypes=["float64"])
    >>> report.passed
    True
    """
    drawing = Drawing(
        count=draw,
        seed=seed,
        thorough=thorough,
        folder=str(failures),
        replay=None if replay is None else str(replay),
    )
    plan = make_plan(
        name,
        namespaces=namespaces,
        devices=devices,
        dtypes=dtypes,
        checks=checks if replay is None else [DRAWN],
        slow=slow or thorough,
        drawing=drawing,
    )
    expectations = Expectations(expected_failures or {})
    results = []
    for item in plan.items:
        result = execute(item, expectations.reason(item))
        results.append(result)
        if progress is not None:
            progress(result)
    problems = list(plan.problems)
    if not problems and not any(result.executed for result in results):
        problems.append(f"every check of backend {name!r} was skipped")
    return Report(
        backend=name,
        provenance=registry().backends[name].provenance,
        results=tuple(results),
        not_run=plan.not_run,
        problems=tuple(problems),
        versions=versions_of({result.namespace for result in results}),
        **(_findings(plan, results) if explain else {}),
    )


def _findings(plan: CheckPlan, results: Sequence[Result]) -> dict[str, Any]:
    """Return which mistake a backend with wrong numbers likely makes, as fields of a report."""
    wrong = [item.subject for item, one in zip(plan.items, results, strict=True) if one.bad]
    for dtype in ("float32", "float64"):  # in half precision a mistake is hard to tell from another
        for subject in wrong:
            if subject.dtype == dtype:
                likely, example = subject.examined()
                if not likely.wrong:
                    return {}
                return {
                    "verdict": likely.verdict,
                    "mistakes": tuple(mistake.name for mistake in likely.mistakes),
                    "explanation": likely.explanation,
                    "example": example,
                }
    return {}


def versions_of(namespaces: set[str]) -> dict[str, str]:
    """Return the versions of Python and of the distributions behind the libraries used."""
    known = registry().namespaces
    distributions = {"ctcx", "numpy"} | {known[name].namespace.distribution for name in namespaces}
    versions = {"python": platform.python_version()}
    for distribution in sorted(distributions):
        try:
            versions[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            versions[distribution] = "(not installed)"
    return versions
