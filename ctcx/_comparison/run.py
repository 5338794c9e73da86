"""Every backend on every array library and device, and other libraries' own CTC, judged.

Three inputs: the notebook's worked example, beside the numbers that the notebook printed; what a
text recogniser emitted for a few real lines, beside a float64 reference; and 3,200 frames, beside
one too. What can't be used here is part of the result, with its reason.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ctcx
from ctcx._comparison.result import LONG, TOLERANCE_OF, BackendResult, Comparison, TextLine
from ctcx._dispatch.report import backends as known_backends
from ctcx._errors import BackendRejectedError, one_line
from ctcx._peers import PEERS, PREPARE, MissingError
from ctcx._plugins.backend import Feature
from ctcx._plugins.loader import devices_of
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target
from ctcx.data.batch import Batch
from ctcx.data.bundled import TextLines, greedy_readings, notebook_fixture, ocr_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from ctcx._diagnosis import Answer
    from ctcx._plugins.backend import Backend
    from ctcx._plugins.namespace import Namespace
    from ctcx._typing import Array
    from ctcx.fixtures import Fixture

__all__ = ["BackendResult", "Comparison", "TextLine", "compare", "read_lines"]

_FOR_TESTS = "array_api_strict"
"""A library for tests only: left out unless it is named."""

_ENOUGH_SECONDS = 1.0
"""No call is repeated for longer than this."""


def compare(
    *,
    backends: Collection[str] | None = None,
    libraries: Collection[str] | None = None,
    peers: Collection[str] | None = None,
    inputs: Collection[str] | None = None,
    repeat: int = 5,
    all_devices: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Run every backend on every array library and device, and other libraries' own CTC.

    Names choose a part: of what is registered, of :data:`ctcx._peers.PEERS`, and of the inputs in
    :data:`ctcx._comparison.result.TOLERANCE_OF`. array_api_strict, which is for tests, has to be
    named, and its further devices are left out without ``all_devices``. The time of ``repeat``
    calls is the median, after one that is not counted. ``progress`` is called with each next step.
    """
    tell = progress or (lambda _: None)
    make: dict[str, Callable[[], Batch]] = {
        "notebook": notebook_fixture,
        "ocr-lines": lambda: _with_reference(ocr_lines()),
        LONG: lambda: _with_reference(_long()),
    }
    given = {name: made() for name, made in make.items() if inputs is None or name in inputs}
    plugins = registry()
    rows: list[BackendResult] = []
    usable = _usable(backends, rows)
    for name, entry in plugins.namespaces.items():
        if libraries is None and name == _FOR_TESTS and not all_devices:
            continue
        if libraries is not None and name not in libraries:
            continue
        tell(name)
        if reason := plugins.namespace_unusable(name):
            rows.append(_unusable(library=name, reason=reason))
            continue
        for device in _devices(entry.namespace, all_devices=all_devices, rows=rows):
            for backend in usable:
                tell(f"{backend.name} on {name} {device}")
                place = _Place(backend=backend, library=entry.namespace, device=device)
                found = _merged([_run(place, each, repeat) for each in given.values()])
                rows += _explained(place, found)
    for name in PEERS if peers is None else peers:
        tell(name)
        rows += _merged([_run_peer(name, each, repeat) for each in given.values()])
    references = {name: tuple(_expected(each)[0].tolist()) for name, each in given.items()}
    lines = given.get("ocr-lines")
    return Comparison(
        rows=tuple(sorted(rows, key=_by_input)),
        lines=read_lines(lines, references["ocr-lines"]) if isinstance(lines, TextLines) else (),
        references=references,
        repeat=repeat,
        versions={"ctcx": ctcx.__version__} | plugins.runtime_info(),
    )


def read_lines(
    lines: TextLines, loss: Sequence[float] | NDArray[np.float64]
) -> tuple[TextLine, ...]:
    """Put the readings of a text recogniser beside the losses (N,) of the texts that were drawn."""
    return tuple(
        TextLine(
            text=text, condition=condition, reading=reading, frames=int(frames), loss=float(nats)
        )
        for text, condition, reading, frames, nats in zip(
            lines.texts,
            lines.conditions,
            greedy_readings(lines),
            lines.logit_lengths,
            loss,
            strict=True,
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Place:
    """Where something is computed, and by whom."""

    backend: Backend
    library: Namespace
    device: str

    @property
    def operation(self) -> str:
        """What to ask for: a backend may have no gradient."""
        return "loss_and_grad" if Feature.GRAD in self.backend.features else "loss"


def _with_reference(batch: Batch) -> Batch:
    """Return the batch with a float64 reference for what is expected."""
    from ctcx._reference.oracle import reference

    truth = reference(*batch.arrays, batch.blank)
    return replace(batch, expected_loss=truth.loss, expected_grad=truth.grad)


def _expected(batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the loss and the gradient that a batch must have."""
    return np.asarray(batch.expected_loss), np.asarray(batch.expected_grad)


def _long() -> Batch:
    """Return one sequence of 3,200 frames and 100 labels: random logits, the same everywhere."""
    rng = np.random.default_rng(0)
    return Batch(
        name=LONG,
        logits=rng.standard_normal((1, 3200, 32), dtype=np.float32) * 2,
        labels=rng.integers(1, 32, (1, 100)),
        logit_lengths=np.array([3200]),
        label_lengths=np.array([100]),
        blank=0,
        provenance="random",
    )


def _usable(only: Collection[str] | None, rows: list[BackendResult]) -> list[Backend]:
    """Return the backends that can be used; each of the others is a row of its own."""
    known = registry().backends
    usable = []
    for info in known_backends():
        if only is not None and info.name not in only:
            continue
        if info.status == "unusable":
            rows.append(_unusable(backend=info.name, reason=info.reason))
        else:
            usable.append(known[info.name].backend)
    return usable


def _unusable(
    *, reason: str, backend: str | None = None, library: str | None = None
) -> BackendResult:
    return BackendResult(
        input=None, backend=backend, library=library, device=None, verdict="unusable", reason=reason
    )


def _devices(library: Namespace, *, all_devices: bool, rows: list[BackendResult]) -> Iterator[str]:
    """Yield the devices to compute on; that they can't be told is a row of its own."""
    devices, reason = devices_of(library)
    if reason is not None:
        rows.append(
            BackendResult(
                input=None,
                backend=None,
                library=library.name,
                device=None,
                verdict="failed",
                reason=reason,
            )
        )
    # Its further devices are the same processor under other names.
    pretended = library.name == "array_api_strict" and not all_devices
    yield from devices[:1] if pretended else devices


def _run(place: _Place, given: Batch, repeat: int) -> BackendResult:
    """Compute one input in one place, and judge it."""
    row = functools.partial(
        BackendResult,
        input=given.name,
        backend=place.backend.name,
        library=place.library.name,
        device=place.device,
    )
    try:
        arrays = _arrays(place, given)
        if reason := _refusal(place, arrays, given.blank):
            return row(verdict="unusable", reason=reason)
        call = functools.partial(_compute, place, arrays, given.blank)
        result, seconds = _median_time(call, repeat)
        read = load_target(place.library.to_numpy)
        loss, *more = (np.asarray(read(array), dtype=np.float64) for array in result)
        judged = _judge(given, loss, more[0] if more else None)
    except BackendRejectedError as error:  # its kernel declined
        return row(verdict="unusable", reason=str(error).partition("\n")[0])
    except Exception as error:  # noqa: BLE001 - a kernel may raise anything
        return row(verdict="failed", reason=one_line(error))
    return row(loss=tuple(loss.ravel().tolist()), seconds=seconds, **judged)


def _explained(place: _Place, rows: list[BackendResult]) -> list[BackendResult]:
    """Say in the first row whose numbers differ which mistake the backend likely makes."""
    wrong = next((i for i, row in enumerate(rows) if row.verdict == "differs"), None)
    if wrong is None:
        return rows
    from ctcx._diagnosis import examine

    likely, example = examine(lambda fixture: _answer(place, fixture), "float32")
    first = f" First wrong number of {example}." if example else ""
    reason = (
        f"{rows[wrong].reason}. Of the fixtures, {likely.verdict}. {likely.explanation}{first} "
        f"`ctcx conformance {place.backend.name} --library {place.library.name}` tells more, and "
        f"writes a problem that it computes again"
    )
    return [*rows[:wrong], replace(rows[wrong], reason=reason), *rows[wrong + 1 :]]


def _answer(place: _Place, fixture: Fixture) -> Answer | None:
    """Compute a fixture; None where that fails."""
    from ctcx._diagnosis import batch_of

    batch = batch_of(fixture)
    batch = replace(batch, logits=batch.logits.astype(np.float32))
    try:
        result = _compute(place, _arrays(place, batch), batch.blank)
        read = load_target(place.library.to_numpy)
        numbers = [np.asarray(read(array), dtype=np.float64) for array in result]
    except Exception:  # noqa: BLE001 - a kernel may raise anything
        return None
    return dict(zip(("loss", "gradient"), numbers, strict=False))


def _run_peer(name: str, given: Batch, repeat: int) -> BackendResult:
    """Compute one input by another library's own CTC, and judge it: no error of it fails here."""
    row = functools.partial(
        BackendResult,
        input=given.name,
        backend=name,
        library=None,
        device=None,
        peer=True,
    )
    try:
        with warnings.catch_warnings(), _unheard():  # its own business
            warnings.simplefilter("ignore")
            call, read = PREPARE[name](given)
            result, seconds = _median_time(call, repeat)
            loss, grad = (np.asarray(array, dtype=np.float64) for array in read(result))
    except MissingError as error:
        return row(verdict="unusable", reason=str(error))
    except Exception as error:  # noqa: BLE001 - a library may raise anything
        return row(verdict="failed", reason=one_line(error))
    judged = _judge(given, loss, grad)
    if judged["verdict"] == "differs":
        judged["verdict"] = "inexact"
    return row(loss=tuple(loss.ravel().tolist()), seconds=seconds, **judged)


@contextmanager
def _unheard() -> Iterator[None]:
    """Drop what libraries write to standard error, past Python: TensorFlow logs each import."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _arrays(place: _Place, batch: Batch) -> tuple[Array, ...]:
    """Return logits, labels and lengths as arrays of the library, so that no call has to upload."""
    make = load_target(place.library.from_numpy)
    return tuple(make(array, None, place.device) for array in batch.arrays)


def _refusal(place: _Place, arrays: tuple[Array, ...], blank: int) -> str | None:
    """Return why the backend can't take these arrays; None if it can."""
    name = place.backend.name
    decision = ctcx.explain(*arrays, blank=blank, backend=name, operation=place.operation)
    if decision.selected is not None:
        return None
    return next(one.reason for one in decision.candidates if one.name == name)


def _compute(place: _Place, arrays: tuple[Array, ...], blank: int) -> tuple[Array, ...]:
    """Return loss and gradient, if the backend has one, when they are there."""
    name = place.backend.name
    result: tuple[Array, ...]
    if place.operation == "loss":
        result = (ctcx.ctc_loss(*arrays, blank=blank, backend=name),)
    else:
        result = tuple(ctcx.ctc_loss_and_grad(*arrays, blank=blank, backend=name)[:2])
    if place.library.synchronize:
        wait = load_target(place.library.synchronize)
        for array in result:
            wait(array)
    return result


def _median_time(call: Callable[[], Any], repeat: int) -> tuple[Any, float]:
    """Return what a call returns, and the median time of further ones."""
    # The first call imports, compiles and allocates.
    result = call()
    times: list[float] = []
    while len(times) < repeat and sum(times) < _ENOUGH_SECONDS:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return result, statistics.median(times)


def _judge(
    given: Batch, loss: NDArray[np.float64], grad: NDArray[np.float64] | None
) -> dict[str, Any]:
    """Return verdict, reason and errors."""
    right_loss, right_grad = _expected(given)
    for what, got, expected in (("loss", loss, right_loss), ("gradient", grad, right_grad)):
        if got is not None and got.shape != expected.shape:
            reason = f"the {what} has shape {got.shape}, expected {expected.shape}"
            return {"verdict": "differs", "reason": reason}
    tolerance = TOLERANCE_OF[given.name]
    loss_error = _error(loss, right_loss)
    allowed = tolerance.loss(right_loss, given.logit_lengths)
    reasons = []
    # Written so that a NaN is wrong.
    if wrong := int((~(loss_error <= allowed)).sum()):
        reasons.append(f"{wrong} of {loss.size} losses")
    judged: dict[str, Any] = {"loss_error": float(loss_error.max())}
    note = ""
    if grad is None:
        note = "has no gradient, so only the loss is compared"
    else:
        grad_error = _error(grad, right_grad)
        if wrong := int((~(grad_error <= tolerance.grad)).sum()):
            reasons.append(f"{wrong} of {grad.size} entries of the gradient")
        judged["grad_error"] = float(grad_error.max())
    if reasons:
        wrong_ones = f"off by more than the tolerance: {' and '.join(reasons)}"
        return judged | {"verdict": "differs", "reason": wrong_ones}
    return judged | {"verdict": "ok", "reason": note}


def _error(got: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the absolute differences; infinities that agree don't differ."""
    with np.errstate(invalid="ignore"):
        return np.where(got == expected, 0.0, np.abs(got - expected))


def _merged(rows: list[BackendResult]) -> list[BackendResult]:
    """Return one row instead of one for each input if none can be computed, for one reason."""
    first = rows[0]
    if all(not row.computed and row.reason == first.reason for row in rows):
        return [replace(first, input=None)]
    return rows


def _by_input(row: BackendResult) -> tuple[int, bool]:
    """Sort by input, and put what can't be used last; otherwise the order stays."""
    order = list(TOLERANCE_OF)
    place = order.index(row.input) if row.input is not None else len(order)
    return place if row.computed else len(order) + 1, row.library is None
