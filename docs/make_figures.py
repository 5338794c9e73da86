"""Draw docs/gradient-error-and-time.svg from a run of the benchmarks.

    ctcx bench --workload 'scale-T-*' --output frames
    python docs/make_figures.py frames.json

The picture of docs/diagnose-page.png is a screenshot of what this writes, 1100 pixels wide:

    ctcx diagnose repeats --against mine.json --html page.html
"""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path

from ctcx.bench._report.charts import legend, opening_charts
from ctcx.bench._report.results import load_run

WIDTH, HEIGHT, LEGEND = 400, 340, 22

STYLE = """
svg { --ink: #24292f; --soft: #57606a; --rule: #d5dae0; --c0: #0b5fc4; --c1: #d1560a;
  --c2: #0d8a4f; --c3: #b01f6c; --c4: #6e56cf; --c5: #9a7b00; --c6: #00829b; --c7: #5b6470;
  --c8: #7a3e00; --c9: #3f6212; font: 13px system-ui, sans-serif; }
"""


def main(path: str) -> None:
    """Write the figure."""
    run = load_run(Path(path))
    charts = opening_charts(run)
    if not charts:
        sys.exit(f"{path} has no times over the number of frames: measure --workload 'scale-T-*'")
    parts = []
    for i, (title, svg) in enumerate(charts.items()):
        placed = f'<svg x="{i * WIDTH}" y="24" width="{WIDTH}" height="{HEIGHT - 24}" '
        parts += [
            f'<text x="{i * WIDTH + 20}" y="16" font-weight="600" fill="var(--ink)">{title}</text>',
            re.sub(r"^<svg ", placed, svg),
        ]
    shown = [each for each in legend(run) if each[3] != "lower_bound"]
    for i, (name, colour, _, kind) in enumerate(shown):
        x, y = 20 + (i % 3) * 265, HEIGHT + LEGEND * (i // 3) + 14
        dash = ' stroke-dasharray="5 3"' if kind == "peer" else ""
        parts += [
            f'<path d="M{x},{y - 4}h28" stroke="{colour}" stroke-width="2"{dash}/>',
            f'<circle cx="{x + 14}" cy="{y - 4}" r="4" fill="{colour}"/>',
            f'<text x="{x + 36}" y="{y}" fill="var(--ink)">{escape(name)}</text>',
        ]
    height = HEIGHT + LEGEND * (-(-len(shown) // 3)) + 8
    # White behind it: pages may be dark, and the picture is one for all.
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {height}" '
        f'role="img"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )
    target = Path(__file__).with_name("gradient-error-and-time.svg")
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
