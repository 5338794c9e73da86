"""What XLA passes to a function of its foreign function interface, and how to ask its threads.

It is laid out as XLA's header ``xla/ffi/api/c_api.h`` says, version 0 of the interface, whose minor
versions only add to the end. Everything is read in words of 64 bits; the numbers here say which.
"""

from __future__ import annotations

import numpy as np

from ctcx_numba._addresses import call_at, half_words, integers_at, keep, words
from ctcx_numba._jit import part

__all__ = [
    "answer",
    "argument",
    "ask",
    "attribute",
    "data_of",
    "integers",
    "number_of_results",
    "result",
    "shape_of",
]

_MAJOR, _MINOR = 0, 1
"""Version of the interface that is needed at least."""

# XLA_FFI_CallFrame, with XLA_FFI_Args, XLA_FFI_Rets and XLA_FFI_Attrs inside
_EXTENSION, _API, _CONTEXT = 1, 2, 3
_ARGUMENTS, _RESULT_COUNT, _RESULTS, _ATTRIBUTES = 9, 12, 14, 20
# XLA_FFI_Buffer; XLA_FFI_Scalar
_DTYPE, _DATA, _RANK, _LENGTHS = 2, 3, 4, 5
_VALUE = 1
_INT32 = 4
# XLA_FFI_Metadata_Extension; XLA_FFI_Metadata
_KIND, _METADATA = 1, 3
_IS_METADATA = 1
_VERSION, _TRAITS = 3, 4
# XLA_FFI_Api
_DESTROY_ERROR, _SCHEDULE = 8, 17

_LOW_HALF = 0xFFFFFFFF


@part
def answer(frame):
    """Answer if XLA asks about the function, as it does before the first call; whether it has."""
    extension = words(frame)[_EXTENSION]
    if extension == 0:
        return False
    e = words(extension)
    if e[_KIND] & _LOW_HALF == _IS_METADATA:
        metadata = words(e[_METADATA])
        metadata[_VERSION] = _MINOR << 32 | _MAJOR
        metadata[_TRAITS] = 0
        return True
    return False


@part
def argument(frame, which):
    """Address of a buffer that is read."""
    return words(words(frame)[_ARGUMENTS])[which]


@part
def number_of_results(frame):
    """How many buffers are to be written."""
    return words(frame)[_RESULT_COUNT]


@part
def result(frame, which):
    """Address of a buffer that is to be written."""
    return words(words(frame)[_RESULTS])[which]


@part
def attribute(frame, which):
    """Return an int32 that is part of the program; by the order of their names."""
    return np.int64(half_words(words(words(words(frame)[_ATTRIBUTES])[which])[_VALUE])[0])


@part
def data_of(buffer):
    """Address of what is in a buffer."""
    return words(buffer)[_DATA]


@part
def shape_of(buffer, own):
    """Product of the lengths of all axes but the last ``own``, and the last one and two."""
    b = words(buffer)
    lengths, rank = words(b[_LENGTHS]), b[_RANK]
    count = 1
    for axis in range(rank - own):
        count *= lengths[axis]
    return count, lengths[rank - 2], lengths[rank - 1]


@part
def integers(buffer, shape):
    """Copy of labels or lengths, of two axes, as int64; XLA has them as int32 or int64."""
    b = words(buffer)
    size = 4 if b[_DTYPE] & _LOW_HALF == _INT32 else 8
    return integers_at(b[_DATA], size, shape, (shape[1], 1))


@part
def ask(frame, function, data):
    """Ask XLA's threads to call a C function with ``data``; False if there are none."""
    f = words(frame)
    api = words(f[_API])
    request = np.empty(5, np.int64)  # XLA_FFI_ThreadPool_Schedule_Args
    request[0], request[1], request[2] = request.nbytes, 0, f[_CONTEXT]
    request[3], request[4] = function, data
    error = call_at(api[_SCHEDULE], request.ctypes.data)
    if error != 0:  # XLA_FFI_Error_Destroy_Args
        request[0], request[1], request[2] = 24, 0, error
        call_at(api[_DESTROY_ERROR], request.ctypes.data)
    keep(request)
    return error == 0
