"""Which backend a call would use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctcx._api.lazy import is_lazy, whole_problem
from ctcx._arrays.tensor_forms import never_recorded
from ctcx._dispatch.compute import problem_of
from ctcx._dispatch.dispatcher import Decision, explain_problem
from ctcx._inputs.options import (
    Infeasible,
    Options,
    ReductionName,
    check_choice,
    check_options,
)
from ctcx._inputs.prepare import prepare, prepare_logits
from ctcx._operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctcx._typing import Array

__all__ = ["explain"]


@never_recorded
def explain(
    logits: Array,
    labels: Array | Sequence[Sequence[int]] | None = None,
    logit_lengths: Array | Sequence[int] | None = None,
    label_lengths: Array | Sequence[int] | None = None,
    *,
    blank: int = 0,
    time_major: bool = False,
    reduction: ReductionName = "none",
    infeasible: Infeasible = "inf",
    backend: str | None = None,
    validate: bool = True,
    operation: str = "loss_and_grad",
) -> Decision:
    """Say which backend a call with these arguments would use, and why not the others.

    Computes nothing and imports no kernel.

    Parameters
    ----------
    logits, labels, logit_lengths, label_lengths
        As for :func:`ctcx.ctc_loss`. Decoders have no labels.
    blank, time_major, reduction, infeasible, backend, validate
        As for :func:`ctcx.ctc_loss`.
    operation : {"loss_and_grad", "loss", "align", "occupancies", "sample_paths", "greedy", \
"beam_search", "guided_search"}
        Which function the call would be to.

    Returns
    -------
    Decision
        ``str()`` of it is a table: every candidate, its package and version, status and reason.

    Raises
    ------
    CTCInputError
        As for :func:`ctcx.ctc_loss`, for static facts; an ``operation`` that there isn't.
    """
    check_options(Options(time_major, reduction, infeasible, backend, validate))
    check_choice("operation", operation, tuple(OPERATIONS))
    if is_lazy(logits):
        given = {"logits": logits, "labels": labels}
        given |= {"logit_lengths": logit_lengths, "label_lengths": label_lengths}
        names = given if OPERATIONS[operation].labels else ("logits", "logit_lengths")
        chosen = {name: given[name] for name in names}
        problem = whole_problem(operation, chosen, blank=blank, time_major=time_major)
        return explain_problem(problem, backend)
    if OPERATIONS[operation].labels:
        arrays = (logits, labels, logit_lengths, label_lengths)
        prepared = prepare(*arrays, blank, time_major=time_major)
    else:
        prepared = prepare_logits(logits, logit_lengths, blank, time_major=time_major)
    return explain_problem(problem_of(operation, prepared), backend)
