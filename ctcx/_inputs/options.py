"""What a call asks for beside its arrays, and whether these are among the choices."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from ctcx._errors import CTCInputError, short_repr

__all__ = [
    "Infeasible",
    "Options",
    "ReductionName",
    "check_choice",
    "check_flag",
    "check_flags",
    "check_options",
]

ReductionName = Literal["none", "sum", "mean", "mean_per_label"]
Infeasible = Literal["inf", "zero", "raise"]

_REDUCTIONS = ("none", "sum", "mean", "mean_per_label")
_POLICIES = ("inf", "zero", "raise")


class Options(NamedTuple):
    """Options of a call, as the public functions take them."""

    time_major: bool
    reduction: str
    infeasible: str
    backend: str | None
    validate: bool


def check_options(options: Options) -> None:
    """Refuse options that are not among the choices."""
    if (  # at once, as in every call
        type(options.reduction) is type(options.infeasible) is str
        and options.reduction in _REDUCTIONS
        and options.infeasible in _POLICIES
        and type(options.time_major) is type(options.validate) is bool
    ):
        return
    check_choice("reduction", options.reduction, _REDUCTIONS)
    check_choice("infeasible", options.infeasible, _POLICIES)
    check_flags(time_major=options.time_major, validate=options.validate)


def check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the strings."""
    if not isinstance(value, str) or value not in choices:
        msg = f"{argument} must be one of {', '.join(map(repr, choices))}; got {short_repr(value)}"
        raise CTCInputError(msg, argument=argument, value=value)


def check_flag(argument: str, value: object) -> None:
    """Refuse a value that is neither True nor False."""
    if value is not True and value is not False and not isinstance(value, np.bool_):
        msg = f"{argument} must be True or False, got {short_repr(value)}"
        raise CTCInputError(msg, argument=argument, value=value)


def check_flags(**flags: object) -> None:
    """Do so for several arguments."""
    for argument, value in flags.items():
        check_flag(argument, value)
