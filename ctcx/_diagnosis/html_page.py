"""The computation as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._diagnosis.divergence import wrong_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctcx._diagnosis.view import SequenceInspection

__all__ = ["page"]

_AXES = {
    "alpha": "states",
    "beta": "states",
    "occupancy": "states",
    "log_softmax": "classes",
    "softmax": "classes",
    "gradient": "classes",
}

_MARKED = 2000
"""So many wrong numbers of a quantity are marked; more say no more."""


def page(view: SequenceInspection) -> str:
    """Return the page of one sequence: a lattice to look at, and where another one parts from it.

    Numbers are float32 there, in base64: 200 frames by 121 states are 0.5 MB.
    """
    lattice = view.lattice
    divergence = view.divergence
    data: dict[str, Any] = {
        "name": view.fixture.name,
        "about": view.fixture.about,
        "sequence": view.sequence,
        "sequences": view.fixture.shape[0],
        "frames": len(lattice.alpha),
        "classes": lattice.softmax.shape[1],
        "blank": view.fixture.blank,
        "labels": lattice.states[1::2].tolist(),
        "states": lattice.states.tolist(),
        "skips": lattice.skips.tolist(),
        "min_frames": int(view.fixture.arrays["min_frames"][view.sequence]),
        "loss": _shown(lattice.loss),
        "best_path": view.best_path,
        "best_path_score": _shown(view.best_score),
        "best_path_unique": view.best_is_unique,
        "axes": _AXES,
        "arrays": {
            name: _packed(getattr(lattice, name))
            for name in _AXES
            if name != "softmax"  # the page computes it
        },
        "other": None if view.answer is None else _other(view),
        "part": None
        if divergence is None
        else {
            "quantity": divergence.quantity,
            "frame": divergence.frame if divergence.note == "" else None,
            "column": divergence.column,
            "text": str(divergence),
        },
        "diagnosis": view.diagnosis.explanation or None if view.diagnosis else None,
    }
    text = (files("ctcx._diagnosis") / "page.html").read_text(encoding="utf-8")
    # "</script>" in a name must not end the script.
    numbers = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return text.replace("@TITLE@", html.escape(view.fixture.name)).replace("@DATA@", numbers)


def _other(view: SequenceInspection) -> dict[str, Any]:
    answer = view.answer or {}
    n, (frames, width) = view.sequence, view.lattice.alpha.shape
    arrays, wrong = {}, {}
    for name, kind in _AXES.items():
        if name not in answer:
            continue
        columns = width if kind == "states" else view.lattice.softmax.shape[1]
        arrays[name] = _packed(answer[name][n, :frames, :columns])
        cells = wrong_cells(view.fixture, answer, name, view.dtype)[n, :frames, :columns]
        wrong[name] = np.flatnonzero(cells)[:_MARKED].tolist()
    loss = _shown(float(answer["loss"][n])) if "loss" in answer else None
    return {"arrays": arrays, "wrong": wrong, "loss": loss}


def _packed(array: NDArray[np.float64]) -> str:
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(array, dtype="<f4")
    return base64.b64encode(single.tobytes()).decode()


def _shown(loss: float) -> str:
    return f"{loss:.9g}"
