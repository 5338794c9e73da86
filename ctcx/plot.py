"""Figures of a CTC computation, for notebooks and papers; needs matplotlib (``ctcx[plot]``).

>>> from ctcx import fixtures, plot
>>> (example,) = fixtures.named("repeats")
>>> figure = plot.lattice(example)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._diagnosis.best_path import best_path
from ctcx._errors import CTCInputError
from ctcx._reference.lattice import solve

if TYPE_CHECKING:
    from types import ModuleType

    from ctcx._reference.lattice import Lattice
    from ctcx.fixtures import Fixture

__all__ = ["gradient", "lattice", "occupancy"]

_NAMED = 30
"""With more states or classes than this, not every one has its name on the axis."""

_ARROWS = 600
"""With more cells than this, arrows would only make a grey patch."""


def lattice(fixture: Fixture, sequence: int = 0, *, ax: Any = None) -> Any:
    """Plot the states over the frames: occupancies, allowed transitions, and the best path.

    Parameters
    ----------
    fixture : Fixture
        From :mod:`ctcx.fixtures`.
    sequence : int
        Which sequence of the batch.
    ax : matplotlib.axes.Axes, optional
        Where to; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        That of the axes.

    Raises
    ------
    CTCInputError
        There is no such sequence, or it has no frames, or matplotlib is missing.
    """
    numbers, ax = _prepared(fixture, sequence, ax)
    num_frames, width = numbers.occupancy.shape
    image = ax.imshow(numbers.occupancy.T, aspect="auto", vmin=0, vmax=1, cmap="Blues")
    alive = np.isfinite(numbers.alpha) & np.isfinite(numbers.beta)
    if alive.size <= _ARROWS:
        for t in range(1, num_frames):
            for s in range(width):
                sources = [s, s - 1, *([s - 2] if numbers.skips[s] else [])]
                for source in sources:
                    if alive[t, s] and source >= 0 and alive[t - 1, source]:
                        ax.annotate(
                            "",
                            (t - 0.18, s),
                            (t - 0.82, source),
                            arrowprops={
                                "arrowstyle": "->",
                                "color": "0.45",
                                "lw": 0.9,
                                "shrinkA": 0,
                                "shrinkB": 0,
                            },
                        )
    path = best_path(numbers)
    if path:
        thin = num_frames > 100
        style = {"lw": 1.0} if thin else {"lw": 2.0, "marker": "."}
        ax.plot(range(num_frames), path, color="tab:orange", label="best path", **style)
        ax.legend(loc="upper right", framealpha=0.9)
    _name_rows(ax, [f"{s}  {_class(fixture, int(k))}" for s, k in enumerate(numbers.states)])
    _finish(ax, image, f"{fixture.name}: the lattice", "state", "occupancy")
    return ax.figure


def occupancy(fixture: Fixture, sequence: int = 0, *, ax: Any = None) -> Any:
    """Plot the probability of each class over the frames, given the labels.

    Parameters
    ----------
    fixture, sequence, ax
        As for :func:`lattice`.

    Returns
    -------
    matplotlib.figure.Figure
        That of the axes.

    Raises
    ------
    CTCInputError
        As for :func:`lattice`.
    """
    numbers, ax = _prepared(fixture, sequence, ax)
    by_class: dict[int, Any] = {}
    for s, k in enumerate(numbers.states.tolist()):
        by_class[k] = by_class.get(k, 0.0) + numbers.occupancy[:, s]
    frames = np.arange(len(numbers.occupancy))
    for k, values in by_class.items():
        blank = k == fixture.blank
        style = {"color": "0.6", "ls": "--"} if blank else {}
        ax.plot(frames, values, label=_class(fixture, k), lw=1.6, **style)
    ax.set_ylim(-0.02, 1.02)
    ax.margins(x=0.01)
    if len(by_class) <= _NAMED:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=1 + len(by_class) // 16)
    ax.set_title(f"{fixture.name}: occupancy")
    ax.set_xlabel("frame")
    ax.set_ylabel("probability, given the labels")
    return ax.figure


def gradient(fixture: Fixture, sequence: int = 0, *, ax: Any = None) -> Any:
    """Plot the gradient with respect to the logits: classes over frames.

    Parameters
    ----------
    fixture, sequence, ax
        As for :func:`lattice`.

    Returns
    -------
    matplotlib.figure.Figure
        That of the axes.

    Raises
    ------
    CTCInputError
        As for :func:`lattice`.
    """
    numbers, ax = _prepared(fixture, sequence, ax)
    most = max(float(np.abs(numbers.gradient).max()), 1e-12)
    image = ax.imshow(numbers.gradient.T, aspect="auto", cmap="RdBu", vmin=-most, vmax=most)
    _name_rows(ax, [_class(fixture, k) for k in range(numbers.gradient.shape[1])])
    _finish(ax, image, f"{fixture.name}: gradient", "class", "gradient with respect to the logit")
    return ax.figure


def _prepared(fixture: Fixture, sequence: int, ax: Any) -> tuple[Lattice, Any]:
    pyplot = _pyplot()
    if not 0 <= sequence < fixture.shape[0]:
        msg = f"sequence is {sequence}: expected 0 to {fixture.shape[0] - 1}"
        raise CTCInputError(msg, argument="sequence", value=sequence)
    numbers = solve(fixture.problem(sequence))
    if not len(numbers.alpha):
        msg = f"sequence {sequence} of {fixture.name!r} has no frames to plot"
        raise CTCInputError(msg, argument="sequence", value=sequence)
    if ax is None:
        frames = len(numbers.alpha)
        size = (min(14.0, 4.0 + 0.4 * frames), 4.2)
        ax = pyplot.figure(figsize=size, layout="constrained").add_subplot()
    return numbers, ax


def _pyplot() -> ModuleType:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        msg = 'ctcx.plot needs matplotlib: pip install "ctcx[plot]"'
        raise CTCInputError(msg, argument="matplotlib") from None
    module: ModuleType = plt
    return module


def _class(fixture: Fixture, k: int) -> str:
    return "blank" if k == fixture.blank else f"class {k}"


def _name_rows(ax: Any, names: list[str]) -> None:
    step = 1 + (len(names) - 1) // _NAMED
    if step > 1:  # of the states, every other one is the blank: name labels
        step += step % 2
    first = int(step > 1)
    ax.set_yticks(range(first, len(names), step), names[first::step])


def _finish(ax: Any, image: Any, title: str, rows: str, meaning: str) -> None:
    ax.figure.colorbar(image, ax=ax, label=meaning)
    ax.set_title(title)
    ax.set_xlabel("frame")
    ax.set_ylabel(rows)
    ax.xaxis.get_major_locator().set_params(integer=True)
