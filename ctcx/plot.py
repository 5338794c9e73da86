"""Figures of CTC computations and alignments, for notebooks and papers; needs ``ctcx[plot]``.

>>> from ctcx import fixtures, plot
>>> (example,) = fixtures.named("repeats")
>>> figure = plot.lattice(example)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ctcx._api.align import Alignment
from ctcx._arrays.facts import describe, is_array, looked_into
from ctcx._diagnosis.best_path import best_path
from ctcx._errors import CTCInputError, short_repr
from ctcx._inputs.host_data import as_integer, type_name
from ctcx._plugins.registry import registry
from ctcx._plugins.targets import load_target
from ctcx._reference.lattice import solve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from ctcx._reference.lattice import Lattice
    from ctcx._typing import Array
    from ctcx.fixtures import Fixture

__all__ = ["alignment", "gradient", "lattice", "occupancy"]

_NAMED = 30
"""With more states or classes than this, not every one has its name on the axis."""

_ARROWS = 600
"""With more cells than this, arrows would only make a grey patch."""


def alignment(
    logits: Array,
    found: Alignment[Any],
    sequence: int = 0,
    *,
    blank: int = 0,
    tokens: Sequence[str] | Mapping[int, str] | None = None,
    frame_seconds: float | None = None,
    ax: Any = None,
) -> Any:
    """Plot the path of an alignment over the probabilities of its states.

    Parameters
    ----------
    logits : array (N, T, C) or (T, C)
        What was aligned, or its log-softmax; of any array library.
    found : Alignment
        From :func:`ctcx.ctc_align`.
    sequence : int
        Which sequence of the batch.
    blank : int
        Class of the blank, as it was passed to :func:`ctcx.ctc_align`.
    tokens : sequence or mapping of int to str, optional
        Names of the classes; a mapping may name -2, a wildcard of kind "free", too.
    frame_seconds : float, optional
        Duration of a frame: the axis has seconds in place of frames.
    ax : matplotlib.axes.Axes, optional
        Where to; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        That of the axes. A row is a blank or a label, in order. A wildcard has the row of the class
        that it is in its first frame; one of kind "free" an empty row of that name.

    Raises
    ------
    CTCInputError
        They don't belong together, or there is no such sequence, or no path in it, or a class has
        no token, or a frame no duration, or matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> import ctcx
    >>> from ctcx import plot
    >>> logits = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.3, 0.6], [0.7, 0.1, 0.2]]
    >>> logits = np.log(logits)
    >>> figure = plot.alignment(logits, ctcx.ctc_align(logits, [1, 2]), tokens="_ab")
    """
    pyplot = _pyplot()
    if frame_seconds is not None and not 0 < frame_seconds < np.inf:
        msg = f"frame_seconds must be a positive number; got {frame_seconds}"
        raise CTCInputError(msg, argument="frame_seconds", value=frame_seconds)
    probabilities, states, classes = _path(logits, found, sequence, blank)
    frames, width = len(states), len(classes)
    shown = np.full((width, frames), np.nan)
    for row, k in enumerate(classes):
        if k >= 0:
            shown[row] = probabilities[:, k]
    if ax is None:
        size = (min(14.0, 4.0 + 0.1 * frames), min(12.0, 2.5 + 0.2 * width))
        ax = pyplot.figure(figsize=size, layout="constrained").add_subplot()
    # Without a duration, the middle of a frame is its number.
    step, first = (1.0, -0.5) if frame_seconds is None else (frame_seconds, 0.0)
    edges = (first, first + frames * step, width - 0.5, -0.5)
    image = ax.imshow(shown, aspect="auto", vmin=0, vmax=1, cmap="Blues", extent=edges)
    middle = first + (np.arange(frames) + 0.5) * step
    style = {"lw": 1.0} if frames > 100 else {"lw": 2.0, "marker": "."}
    ax.plot(middle, states, color="tab:orange", label="alignment", **style)
    ax.legend(loc="upper right", framealpha=0.9)
    _name_rows(ax, [_state_name(int(k), row, tokens) for row, k in enumerate(classes)])
    _finish(ax, image, "alignment", "state", "probability")
    if frame_seconds is not None:
        ax.set_xlabel("seconds")
        ax.xaxis.get_major_locator().set_params(integer=False)
    return ax.figure


def _path(
    logits: Array, found: Alignment[Any], sequence: int, blank: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return softmax (T, C), states (T,) and the class of each state (2L + 1,), -2 if none."""
    given: object = found
    if not isinstance(given, Alignment):
        msg = f"found must be what ctcx.ctc_align returns; got {type_name(given)}"
        raise CTCInputError(msg, argument="found")
    if not is_array(logits) or tuple(logits.shape[:-1]) != tuple(found.states.shape):
        expected = ", ".join(map(str, (*found.states.shape, "C")))
        got = tuple(logits.shape) if is_array(logits) else type_name(logits)
        msg = f"logits must have shape ({expected}), as the alignment has; got {got}"
        raise CTCInputError(msg, argument="logits")
    single = found.states.ndim == 1
    count = 1 if single else found.states.shape[0]
    number = as_integer(sequence)
    if number is None or not 0 <= number < count:
        msg = f"sequence is {short_repr(sequence)}: expected 0 to {count - 1}"
        raise CTCInputError(msg, argument="sequence", value=sequence)
    states, starts, spelled, x = (
        _on_host(array if single else looked_into(array)[number, ...])
        for array in (found.states, found.starts, found.classes, logits)
    )
    index = as_integer(blank)
    if index is None or not -x.shape[1] <= index < x.shape[1]:
        msg = f"blank must be a class, of {x.shape[1]}; got {short_repr(blank)}"
        raise CTCInputError(msg, argument="blank", value=blank)
    states, starts = states[states >= 0], starts[starts >= 0]
    if not len(states):
        msg = f"sequence {sequence} has no path to plot"
        raise CTCInputError(msg, argument="sequence", value=sequence)
    classes = np.full(2 * len(starts) + 1, index % x.shape[1])
    classes[1::2] = spelled[starts]
    x = x[: len(states)].astype(np.float64)
    unscaled = np.exp(x - x.max(axis=1, keepdims=True))
    return unscaled / unscaled.sum(axis=1, keepdims=True), states, classes


def _on_host(array: Array) -> NDArray[Any]:
    library = registry().namespaces.get(describe(array).namespace)
    if library is None:
        return np.asarray(array)
    copy: NDArray[Any] = load_target(library.namespace.to_numpy)(array)
    return copy


def _state_name(k: int, row: int, tokens: Any) -> str:
    if row % 2 == 0:
        return "blank"
    if k < 0 and not (isinstance(tokens, Mapping) and k in tokens):
        return "free"
    if tokens is None:
        return f"class {k}"
    try:
        token: str = tokens[k]
    except (LookupError, TypeError):
        msg = f"tokens has no name for class {k}; it must be a sequence of names, or a mapping"
        raise CTCInputError(msg, argument="tokens", value=k) from None
    return token if token.strip() else repr(token)


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
