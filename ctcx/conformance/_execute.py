"""Run one planned check and say how it ended."""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ctcx.conformance._failures import CheckFailure, NotApplicable

if TYPE_CHECKING:
    from ctcx.conformance._plan import PlannedCheck

__all__ = ["Result", "Status", "execute"]

Status: TypeAlias = Literal["passed", "failed", "skipped", "expected-failure", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How one check ended on one library, device and dtype.

    Attributes
    ----------
    check, namespace, device, dtype : str
        What was run, and on what.
    status : str
        ``passed``; ``failed``: the kernel is wrong; ``error``: the kernel, or the check, raised
        something; ``skipped``: not applicable here; ``expected-failure``: it failed as announced.
    message : str
        Why, if it did not pass; else what it could not look at.
    seconds : float
        How long it took.
    provisional : bool
        The check is new: its failure doesn't count yet.
    """

    check: str
    namespace: str
    device: str
    dtype: str
    status: Status
    message: str = ""
    seconds: float = 0.0
    provisional: bool = False

    @property
    def executed(self) -> bool:
        """Whether the check did anything."""
        return self.status != "skipped"

    @property
    def bad(self) -> bool:
        """Whether the run fails for it."""
        return self.status in {"failed", "error"} and not self.provisional

    @property
    def where(self) -> str:
        """The check, and what it was run on, in words."""
        return f"{self.check} on {self.namespace}, {self.device}, {self.dtype}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def execute(item: PlannedCheck, expected_failure: str | None = None) -> Result:
    """Run a planned check; whatever the kernel does, short of ending the process, is a result.

    A check with an ``expected_failure``, which is the reason, fails if it passes.
    """
    begin = time.perf_counter()
    status, message = _outcome(item)
    if expected_failure is not None and status in {"failed", "error"}:
        status, message = "expected-failure", f"{expected_failure}\n{message}"
    elif expected_failure is not None and status == "passed":
        status = "failed"
        message = f"it passes, but is listed in expected_failures: {expected_failure}"
    return Result(
        check=item.check.name,
        namespace=item.subject.namespace,
        device=item.subject.device,
        dtype=item.subject.dtype,
        status=status,
        message=message,
        seconds=time.perf_counter() - begin,
        provisional=item.check.provisional,
    )


def _outcome(item: PlannedCheck) -> tuple[Status, str]:
    if item.excuse is not None:
        return "skipped", item.excuse
    item.subject.notes.clear()
    try:
        item.check.function(item.subject)
    except NotApplicable as reason:
        return "skipped", str(reason)
    except CheckFailure as failure:
        return "failed", str(failure)
    except Exception as error:  # noqa: BLE001 - a kernel may raise anything; it is reported
        return "error", "".join(traceback.format_exception(error)).rstrip()
    return "passed", "; ".join(item.subject.notes)
