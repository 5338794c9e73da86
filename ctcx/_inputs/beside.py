"""Large arrays beside the logits: of their library and device, and never converted or moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctcx._arrays.facts import describe, device_name, is_array, is_elsewhere, library_name
from ctcx._errors import CTCInputError

if TYPE_CHECKING:
    from collections.abc import Collection

    from ctcx._typing import Array

__all__ = ["check_beside"]


def check_beside(argument: str, array: Any, logits: Array, dtypes: Collection[str]) -> None:
    """Refuse what is no array of these dtypes of the library and device of the logits.

    Raises CTCInputError: it is not, or one of both is of a layout that has no shape.
    """
    if not is_array(array) or library_name(array) != library_name(logits):
        kind = library_name(array) if is_array(array) else type(array).__name__
        msg = (
            f"{argument} must be an array of {library_name(logits)}, as the logits are; got {kind}"
        )
        raise CTCInputError(msg, argument=argument)
    describe(logits, "logits")  # raises for layouts that have no shape to compare
    facts = describe(array, argument)
    if facts.dtype not in dtypes:
        msg = f"{argument} must have one of the dtypes {', '.join(dtypes)}; got {facts.dtype}"
        raise CTCInputError(msg, argument=argument)
    devices = (facts.device, device_name(logits))
    if is_elsewhere(*devices):
        msg = f"{argument} is on device {devices[0]}, but the logits are on {devices[1]}"
        raise CTCInputError(msg, argument=argument)
