"""Problems that came out wrong, as fixture files and by name, and back again."""

from __future__ import annotations

import re
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._errors import CTCInputError
from ctcx._reference.oracle import round_to_dtype
from ctcx.conformance._draws.problem import LAYOUTS, DrawnProblem, Form, draw
from ctcx.conformance._draws.sizes import Sizes
from ctcx.data.batch import Batch
from ctcx.fixtures import read_fixtures, save
from ctcx.fixtures._fixture import Recipe, build

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ctcx.conformance._subject import Subject

__all__ = ["command_for", "read_problem", "write_problem"]

_NAME = re.compile(
    r"drawn-(?P<seed>\d+)-(?P<index>\d+)(?:-in-(?P<sizes>\d+x\d+x\d+x\d+)-blank-(?P<blank>\d+))?\Z"
)
_FORMS = {
    "layout": LAYOUTS,
    "labels": ("int32", "int64"),
    "lengths": ("int32", "int64"),
    "strided": (False, True),
    "negative_blank": (False, True),
}
_READABLE = 50_000
"""Up to so many logits and states a file is text."""


def command_for(subject: Subject, what: str) -> str:
    """Return the command that puts a subject to a problem again: a file, or a drawn one's name."""
    words = ["ctcx", "conformance", subject.backend, "--replay", what]
    words += ["--library", subject.namespace, "--device", subject.device, "--dtype", subject.dtype]
    return shlex.join(words)


def read_problem(what: str) -> DrawnProblem:
    """Return the problem of a fixture file, or the drawn one of that name.

    Raises CTCInputError: there is no such file, or it isn't one with a single fixture.
    """
    if match := _NAME.match(what):
        within = Sizes(*map(int, match["sizes"].split("x"))) if match["sizes"] else None  # type: ignore[arg-type]
        blank = None if match["blank"] is None else int(match["blank"])
        return draw(int(match["seed"]), int(match["index"]), within, blank)
    fixtures = read_fixtures(what)
    if len(fixtures) != 1:
        msg = f"{what} has {len(fixtures)} fixtures: expected one, as the kit writes them"
        raise CTCInputError(msg, argument="replay", value=what)
    (fixture,) = fixtures
    arrays: dict[str, NDArray[Any]] = dict(fixture.arrays)
    asked = dict(fixture.replay)
    batch = Batch(
        name=fixture.name,
        why=fixture.about,
        logits=arrays["logits"],
        labels=arrays["labels"],
        logit_lengths=arrays["logit_lengths"],
        label_lengths=arrays["label_lengths"],
        blank=fixture.blank,
    )
    return DrawnProblem(batch=_widened(batch, what, asked), form=_form(what, asked))


def _form(what: str, asked: Mapping[str, Any]) -> Form:
    form = Form()
    for name, known in _FORMS.items():
        if name in asked:
            if asked[name] not in known:
                msg = f"{what}: replay.{name} is {asked[name]!r}: expected one of {known}"
                raise CTCInputError(msg, argument="replay", value=asked[name])
            form = form._replace(**{name: asked[name]})
    return form


def _widened(batch: Batch, what: str, asked: Mapping[str, Any]) -> Batch:
    """Return the batch in arrays of the shape that the problem had."""
    num_sequences, num_frames, num_classes, width = batch.shape
    sizes = {"frames": num_frames, "labels_width": width}
    for name, least in sizes.items():
        value = asked.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            msg = f"{what}: replay.{name} is {value!r}: expected an integer of {least} or more"
            raise CTCInputError(msg, argument="replay", value=value)
        sizes[name] = value
    logits = np.full((num_sequences, sizes["frames"], num_classes), _junk(batch)[0])
    logits[:, :num_frames] = batch.logits
    labels = np.full((num_sequences, sizes["labels_width"]), _junk(batch)[1])
    labels[:, :width] = batch.labels
    return replace(batch, logits=logits, labels=labels)


def _junk(batch: Batch) -> tuple[float, int]:
    """Return what stands past the lengths: the first logit and label there."""
    logits = batch.logits[batch.padded_frames()]
    labels = batch.labels[batch.padded_labels()]
    return (float(logits.flat[0]) if logits.size else 0.0), int(labels[0]) if labels.size else 0


def write_problem(subject: Subject, problem: DrawnProblem, about: str) -> Path:
    """Write a problem as a fixture file, with the logits in the dtype of the subject.

    The file is in the folder that was asked for, or in one for temporary files if that can't be
    made.
    """
    batch = problem.batch
    num_sequences, num_frames, num_classes, width = batch.shape
    logits = round_to_dtype(batch.logits, subject.dtype)
    recipe = Recipe(
        name=batch.name,
        about=about,
        sequences=[
            (
                logits[n, : batch.logit_lengths[n]],
                batch.labels[n, : batch.label_lengths[n]].tolist(),
            )
            for n in range(num_sequences)
        ],
        blank=batch.blank,
        provenance=f"made smaller by ctcx conformance from a problem that {subject.backend} on "
        f"{subject} got wrong",
        dtype=subject.dtype,
        junk=_junk(batch),
    )
    # Without the cross-check of other fixtures: the core may be what is wrong.
    (fixture,) = build([recipe])
    fixture = replace(
        fixture,
        replay={**problem.form._asdict(), "frames": num_frames, "labels_width": width},
    )
    cells = num_sequences * num_frames * (num_classes + 2 * width + 1)
    form = "json" if 0 < cells <= _READABLE and width else "npz"
    name = re.sub(r"[^\w.-]", "_", f"{subject.backend}-{subject}-{batch.name}.{form}")
    path = _folder(subject.drawing.folder) / name
    save([fixture], path, form)
    return path


def _folder(wanted: str) -> Path:
    folder = Path(wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / folder.name
        folder.mkdir(parents=True, exist_ok=True)
    return folder
