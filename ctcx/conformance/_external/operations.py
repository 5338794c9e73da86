"""What programs may be asked for besides the loss, as data: one entry an operation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ctcx.conformance._external import (
    alignment,
    beam_search,
    greedy,
    guided_search,
    posterior,
)
from ctcx.fixtures._guide import GUIDE_ARRAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ctcx.conformance._external.asked import Asked
    from ctcx.conformance._external.likely import Ways
    from ctcx.fixtures import Fixture

__all__ = ["OPERATIONS", "ExternalOperation"]


@dataclass(frozen=True, kw_only=True)
class ExternalOperation:
    """An operation of a program in any language."""

    name: str
    """As it stands in a problem."""
    fields: tuple[str, ...]
    """Members of an answer, of which one tells that it is offered."""
    read: Callable[[dict[str, Any], Fixture], list[Any]]
    """Returns what an answer says of each sequence."""
    fault: Callable[[Asked, Any, str], str | None]
    """Returns what is wrong with it; None if it is right."""
    same: Callable[[Asked, Any, Any, str], bool]
    """Returns whether what a mistake gives is what is said."""
    mistakes: tuple[Ways[Any], ...]
    """Mistakes, each with the ways to make it."""
    unique: str | None = None
    """Array of the fixture that says whether the right answer is the only one."""
    settings: Mapping[str, int] = field(default_factory=dict)
    """What else a problem has."""
    facts: tuple[str, ...] = ()
    arrays: tuple[str, ...] = ()
    """What else a problem has of its fixture: attributes, and arrays."""
    problems: Literal["all", "small", "guided"] = "all"
    """``"small"``: those with few labels that the frames can say; ``"guided"``: those with phrases,
    n-grams or a label bonus; ``"all"``: all others."""
    protocol: int = 2
    """The version of the protocol that the problems have had since they are as they are."""


_BEAM = {"width": beam_search.BEAM_WIDTH, "top": beam_search.BEAM_TOP}

OPERATIONS: dict[str, ExternalOperation] = {
    operation.name: operation
    for operation in (
        ExternalOperation(
            name="align",
            fields=("states", "classes"),
            read=alignment.read_paths,
            fault=alignment.path_fault,
            same=alignment.same_path,
            mistakes=alignment.MISTAKEN_PATHS,
            unique="alignment_unique",
        ),
        ExternalOperation(
            name="occupancies",
            fields=("classes",),
            read=posterior.read_occupancies,
            fault=posterior.occupancies_fault,
            same=posterior.same_occupancies,
            mistakes=posterior.MISTAKEN_OCCUPANCIES,
        ),
        ExternalOperation(
            name="entropy",
            fields=("entropy",),
            read=posterior.read_entropies,
            fault=posterior.entropy_fault,
            same=posterior.same_entropy,
            mistakes=posterior.MISTAKEN_ENTROPIES,
        ),
        ExternalOperation(
            name="greedy",
            fields=("labels",),
            read=greedy.read_labels,
            fault=greedy.labels_fault,
            same=greedy.same_labels,
            mistakes=greedy.MISTAKEN_LABELS,
            unique="greedy_unique",
        ),
        ExternalOperation(
            name="beam_search",
            fields=("labels", "log_probs"),
            read=beam_search.read_beams,
            fault=beam_search.beam_fault,
            same=beam_search.same_beam,
            mistakes=beam_search.MISTAKEN_BEAMS,
            settings=_BEAM,
            problems="small",
        ),
        ExternalOperation(
            name="guided_search",
            fields=("labels", "log_probs", "scores"),
            read=guided_search.read_guided_beams,
            fault=guided_search.guided_fault,
            same=beam_search.same_beam,
            mistakes=guided_search.MISTAKEN_GUIDED_BEAMS,
            settings=_BEAM,
            facts=("lm_weight", "label_bonus"),
            arrays=GUIDE_ARRAYS,
            problems="guided",
            protocol=3,
        ),
    )
}
"""By name. The loss isn't among them: it has a judge and a version of the protocol of its own."""
