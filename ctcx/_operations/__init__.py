"""What kernels can compute, as data: one file an operation.

``descriptor``
    What is said of each operation.

A new operation is a file beside these and a line in :data:`OPERATIONS`; its public function, its
reference and its checks are files of their own, elsewhere.
"""

from __future__ import annotations

from ctcx._operations.align import ALIGN
from ctcx._operations.beam_search import BEAM_SEARCH
from ctcx._operations.descriptor import Operation, ResultArray
from ctcx._operations.greedy import GREEDY
from ctcx._operations.guided_search import GUIDED_SEARCH
from ctcx._operations.loss import LOSS
from ctcx._operations.loss_and_grad import LOSS_AND_GRAD
from ctcx._operations.occupancies import OCCUPANCIES
from ctcx._operations.sample_paths import SAMPLE_PATHS

__all__ = ["OPERATIONS", "Operation", "ResultArray"]

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        LOSS,
        LOSS_AND_GRAD,
        ALIGN,
        GREEDY,
        BEAM_SEARCH,
        GUIDED_SEARCH,
        OCCUPANCIES,
        SAMPLE_PATHS,
    )
}
"""By name: the keys of :attr:`ctcx.plugin.Backend.kernels`."""
