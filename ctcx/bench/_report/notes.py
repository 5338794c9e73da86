"""How to read the tables of a report."""

from __future__ import annotations

from ctcx.bench._report.tables import TIMES

__all__ = ["notes"]

_TEXT = """
Each time is of loss and gradient in float32, from arrays of the library to arrays of the library,
with fresh outputs in each call, until the result is there. Selection and validation are part of it.

Implementations take turns, a few rounds at a time, so that what disturbs the machine disturbs all.
A process of its own keeps one's waiting threads from another's time; in one process they are part
of it.

IQR is the range between the quartiles of all rounds. {times} {baseline} is the median of {baseline}
divided by this one. First call is what it took with this workload, compilation included.

Peak memory is how far the resident memory of the process grows over a later call, outputs included.
Memory that a library keeps from call to call doesn't show.

A slope is p in time = factor * size ** p, fitted by least squares on logarithms, with its standard
error. 1 is linear; less says that overhead, or a core without work, still hides the growth.

Errors are the largest, against a float64 reference that shares no code with any implementation: of
a loss relative to its size (or to 1 nat, if that is more), of an entry of the gradient as it is.
A backend must keep the tolerances of the conformance kit; another implementation is measured as it
is, unless it computes something else.

Per cell is a cell of the lattice, of which there are frames times 2 L + 1 states. GB/s counts each
logit read once and each entry of the gradient written once; of copy is that as a share of what a
copy reads and writes a second, measured at the beginning of the same run.

{times} lower bound is the time as a multiple of the lower bound that the backend's plugin
registers: the work that no kernel can avoid; on the same library if there is one.
"""


def notes(baseline: str) -> tuple[str, ...]:
    """Return one text for each thing to know; others are compared with the ``baseline``."""
    text = _TEXT.format(times=TIMES, baseline=baseline).strip()
    return tuple(" ".join(part.split()) for part in text.split("\n\n"))
