"""Scaling plots as SVG without scripts, drawn by Vega-Lite through vl-convert.

Colours are CSS variables, so that the page around a plot decides about light and dark; each point
carries its numbers as a ``<title>``, which browsers show as a tooltip and screen readers read.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from ctcx.bench._report.format import error, seconds
from ctcx.bench._report.slopes import fit
from ctcx.bench._report.tables import LETTERS, sweeps

if TYPE_CHECKING:
    from ctcx.bench._report.results import BenchmarkRun, Measured

__all__ = ["HUES", "SHAPES", "legend", "opening_charts", "scaling_charts"]

HUES = 10
"""Colours ``--c0`` to ``--c9`` that a page must define, beside ``--soft`` for lower bounds."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_DASHES = {"backend": (1, 0), "peer": (5, 3), "lower_bound": (1, 3)}
_SHOWN = ("backend", "peer")
_Y_TITLES = {"ms": "milliseconds", "error": "largest error of an entry of the gradient"}
_SVG = "http://www.w3.org/2000/svg"
_POINT = "graphics-symbol"


def scaling_charts(run: BenchmarkRun) -> dict[str, str]:
    """Return a plot (SVG) for each of T, N, C and L that was measured; empty without a sweep.

    Raises ImportError: vl-convert is not installed.
    """
    found = sweeps(run)
    if not found:
        return {}
    import vl_convert

    return {
        letter: _with_titles(vl_convert.vegalite_to_svg(_chart(run, letter, lines)))
        for letter, lines in found.items()
    }


def opening_charts(run: BenchmarkRun) -> dict[str, str]:
    """Return two plots (SVG by title) over the number of frames: error of the gradient, and time.

    Empty if the sweep over frames was not measured.

    Raises ImportError: vl-convert is not installed.
    """
    lines = sweeps(run).get("T", {})
    # What bounds a kernel from below has no gradient, and is no result.
    lines = {who: line for who, line in lines.items() if run.implementations[who].kind in _SHOWN}
    exact = {
        who: with_error
        for who, line in lines.items()
        if (with_error := [one for one in line if one.facts.get("grad")])
    }
    if not exact:
        return {}
    import vl_convert

    return {
        "Error of the gradient by frames": _with_titles(
            vl_convert.vegalite_to_svg(_chart(run, "T", exact, y="error"))
        ),
        "Time by frames": _with_titles(vl_convert.vegalite_to_svg(_chart(run, "T", lines))),
    }


def legend(run: BenchmarkRun) -> list[tuple[str, str, str, str]]:
    """Return name, colour, shape and kind of each implementation that has a line."""
    drawn = {who for lines in sweeps(run).values() for who in lines}
    return [
        (name, *_look(run, name), run.implementations[name].kind)
        for name in run.implementations
        if name in drawn
    ]


def _look(run: BenchmarkRun, name: str) -> tuple[str, str]:
    """Return colour and shape, the same in all plots of a run."""
    lines = sweeps(run).values()
    drawn = [
        one.name
        for one in run.implementations.values()
        if one.kind in _SHOWN and any(one.name in line for line in lines)
    ]
    if name not in drawn:
        return "var(--soft)", SHAPES[-1]
    place = drawn.index(name)
    return f"var(--c{place % HUES})", SHAPES[place % len(SHAPES)]


def _chart(
    run: BenchmarkRun, letter: str, lines: dict[str, list[Measured]], y: str = "ms"
) -> dict[str, Any]:
    names = list(lines)
    looks = [_look(run, name) for name in names]
    points = [_point(run, letter, one, line) for line in lines.values() for one in line]
    size_values = sorted({point["size"] for point in points})
    least, most = min(p[y] for p in points), max(p[y] for p in points)
    decades = [
        10.0**e for e in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    ]
    x = {
        "field": "size",
        "type": "quantitative",
        "title": f"{letter}, {LETTERS[letter]}",
        "scale": {"type": "log", "domain": [size_values[0], size_values[-1]], "nice": False},
        "axis": {"values": size_values, "format": ",", "labelFlush": False},
    }
    y_axis = {
        "field": y,
        "type": "quantitative",
        "title": _Y_TITLES[y],
        "scale": {"type": "log", "domain": [decades[0], decades[-1]]},
        "axis": {"values": decades, "format": "~g" if y == "ms" else ".0e"},
    }
    kinds = [run.implementations[name].kind for name in names]
    encoding = {
        "x": x,
        "y": y_axis,
        "color": _by_name(names, [colour for colour, _ in looks]),
    }
    dash = _by_name(names, [_DASHES[kind] for kind in kinds])
    shape = _by_name(names, [shape for _, shape in looks])
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": 330,
        "height": 280,
        "background": None,
        "padding": {"left": 4, "right": 16, "top": 10, "bottom": 4},
        "data": {"values": points},
        "encoding": encoding,
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.6}, "encoding": {"strokeDash": dash}},
            {
                "mark": {"type": "point", "filled": True, "size": 52, "opacity": 1},
                "encoding": {"shape": shape, "description": {"field": "tip"}},
            },
        ],
        "config": {
            "font": "inherit",
            "view": {"stroke": "var(--rule)"},
            "axis": {
                "labelFontSize": 12,
                "titleFontSize": 13,
                "titleFontWeight": "normal",
                "labelColor": "var(--ink)",
                "titleColor": "var(--ink)",
                "gridColor": "var(--rule)",
                "domainColor": "var(--rule)",
                "tickColor": "var(--rule)",
            },
        },
    }


def _by_name(names: list[str], values: list[Any]) -> dict[str, Any]:
    return {"field": "who", "scale": {"domain": names, "range": values}, "legend": None}


def _point(run: BenchmarkRun, letter: str, one: Measured, line: list[Measured]) -> dict[str, Any]:
    size = run.workloads[one.workload].size
    fitted = fit([run.workloads[p.workload].size for p in line], [p.median for p in line])
    slope = f"; slope {fitted}" if fitted else ""
    return {
        "size": size,
        "ms": one.median * 1e3,
        "error": one.facts.get("grad"),
        "who": one.implementation,
        "tip": f"{one.implementation}: {seconds(one.median)} at {letter} = {size:,}, "
        f"IQR {seconds(one.iqr)}{slope}; gradient error {error(one.facts.get('grad'))}",
    }


def _with_titles(svg: str) -> str:
    """Turn the description of each point into a title, and let the page set the size."""
    ET.register_namespace("", _SVG)
    root = ET.fromstring(svg)  # noqa: S314 - made by vl-convert a moment ago
    for key in ("width", "height"):
        del root.attrib[key]
    root.set("role", "img")
    for element in root.iter(f"{{{_SVG}}}path"):
        described = element.attrib.pop("aria-label", None)
        if element.get("role") == _POINT and element.get("aria-roledescription") == "point":
            element.set("class", "point")
            element.set("tabindex", "0")
            ET.SubElement(element, f"{{{_SVG}}}title").text = described
    text = ET.tostring(root, encoding="unicode")
    # Coordinates to a hundredth of a pixel: half the size, and no visible difference.
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", text)
