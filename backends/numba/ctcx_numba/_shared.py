"""A whole call in compiled code, shared with the threads of XLA, which has called it.

The work is cut as :mod:`ctcx_numba._batch` and :mod:`ctcx_numba._halves` cut it, so that the result
is the same to the last bit. XLA's threads may come late, or never. So nobody waits for a thread
that hasn't begun: the caller works on everything itself, then closes the door, and waits only for
those that are inside. Arrays are touched inside only; the record of the work, which those who come
too late still read, is freed by the last who may.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from ctcx_numba._addresses import (
    add,
    allocate,
    call_at,
    free,
    keep,
    like,
    numbers_at,
    words,
    yield_processor,
)
from ctcx_numba._entries import (
    POSSIBLE,
    Batch,
    back,
    begin,
    forth,
    middle,
    room_of,
    sequences,
    spoil,
)
from ctcx_numba._jit import part
from ctcx_numba._simd import above, lanes
from ctcx_numba._work import WORTH_A_THREAD, by_halves, cost_of, work_of
from ctcx_numba._xla import ask

__all__ = ["allocated", "bytes_of", "compute", "room_at", "taking", "visit"]

_SEQUENCES, _FORTH, _BACK = range(3)

# What the record of some work holds, an int64 each. Arrays are there by their addresses.
(
    _USERS,  # threads that may still look at it
    _INSIDE,  # threads that are at work, plus _CLOSED when nobody may begin any more
    _BEGUN,  # tasks that somebody has begun
    _STEP,
    _TAKE,  # the function that does tasks
    _NUMBER,  # of tasks
    _TASKS,  # sequences; or of each half: its sequence, which half, which room
    _COUNT,  # of sequences in the batch
    _LOSSES,
    _EXCESSES,  # of the halves
    _ROOMS,  # where they are, one after the other; each has scratch for a half
    _TAKEN,  # rooms that somebody has taken
    _SIZES,  # of a room: see room_of
    _BATCH,
    _WORDS,
) = (*range(13), 16, 30)

_CLOSED = 1 << 40

_MOST_SORTED = 256
"""Sequences up to which the costliest go first. Of more, each is a small part of the whole."""


# Scratch


@part
def _vectors(size, item):
    """Bytes of so many numbers of ``item`` bytes, in whole vectors."""
    return (size * item + 63) // 64 * 64


@part
def bytes_of(sizes, real):
    """Bytes of a room of such sizes."""
    m, ids, sums, rows = sizes
    item = 64 // lanes(like(real))
    numbers = 2 * _vectors(m, item) + _vectors(rows, item)
    return numbers + _vectors(ids, 4) + _vectors(sums, 8)


@part
def room_at(address, sizes, real, whole):
    """Scratch arrays of a half, of the sizes of :func:`ctcx_numba._entries.room_of`."""
    m, ids, sums, rows = sizes
    item = 64 // lanes(like(real))
    sums_at = address + _vectors(rows, item)
    ids_at = sums_at + _vectors(sums, 8)
    m_at = ids_at + _vectors(ids, 4)
    return (
        numbers_at(m_at, (m,), real),
        numbers_at(m_at + _vectors(m, item), (m,), whole),
        numbers_at(ids_at, (ids,), np.int32),
        numbers_at(sums_at, (sums,), np.float64),
        numbers_at(address, (rows,), real),
    )


@part
def allocated(size):
    """Address of memory that has to be freed, or 0, and of where vectors in it begin."""
    address = allocate(size + 63)
    return address, (address + 63) // 64 * 64


# The record


@part
def _write(step, batch, losses, number, tasks):
    """Write a record to memory of its own; returns its address."""
    address = allocate(_WORDS * 8)
    r = words(address)
    r[_INSIDE], r[_BEGUN], r[_STEP] = 0, 0, step
    r[_NUMBER], r[_TASKS] = number, tasks.ctypes.data
    r[_COUNT], r[_LOSSES] = losses.size, losses.ctypes.data
    b = above(r, _BATCH)
    b[0], b[1], b[2] = batch.x, batch.x_sequence, batch.x_row
    b[3], b[4], b[5] = batch.g, batch.g_sequence, batch.g_row
    b[6] = 1 if batch.with_gradient else 0
    b[7], b[8] = batch.labels.ctypes.data, batch.labels.shape[1]
    b[9], b[10] = batch.frames.ctypes.data, batch.counts.ctypes.data
    b[11], b[12], b[13] = batch.most_frames, batch.classes, batch.blank
    return address


@part
def _write_rooms(address, rooms, sizes):
    r = words(address)
    r[_ROOMS], r[_TAKEN] = rooms, 0
    size = above(r, _SIZES)
    size[0], size[1], size[2], size[3] = sizes


@part
def _batch_of(r):
    b, count = above(r, _BATCH), r[_COUNT]
    return Batch(
        b[0],
        b[1],
        b[2],
        b[3],
        b[4],
        b[5],
        b[6] != 0,
        carray(words(b[7]), (count, b[8])),
        carray(words(b[9]), (count,)),
        carray(words(b[10]), (count,)),
        b[11],
        b[12],
        b[13],
    )


@part
def _room_of(r, which, real, whole):
    size = above(r, _SIZES)
    sizes = size[0], size[1], size[2], size[3]
    return room_at(r[_ROOMS] + which * bytes_of(sizes, real), sizes, real, whole)


# The work


def taking(real, whole):
    """Define a function: do tasks of the record at an address until somebody has begun each.

    ``real`` and ``whole`` are the dtypes of mantissas and exponents. All that takes long to compile
    is in it, once.
    """

    def take(address):
        r = words(address)
        batch = _batch_of(r)
        if r[_STEP] == _SEQUENCES:
            order = carray(words(r[_TASKS]), (r[_NUMBER],))
            begun = carray(above(r, _BEGUN), (1,))
            losses = numbers_at(r[_LOSSES], (r[_COUNT],), real)
            own = add(above(r, _TAKEN), 2)
            room, other_room = _room_of(r, own, real, whole), _room_of(r, own + 1, real, whole)
            sequences(batch, order, begun, losses, room, other_room)
            return 0
        excesses = numbers_at(r[_EXCESSES], (r[_NUMBER],), np.float64)
        i = add(above(r, _BEGUN), 1)
        while i < r[_NUMBER]:
            task = above(words(r[_TASKS]), 3 * i)
            room = _room_of(r, task[2], real, whole)
            if r[_STEP] == _FORTH:
                excesses[i] = forth(batch, task[0], task[1], True, room)
            else:
                back(batch, task[0], task[1], room)
            i = add(above(r, _BEGUN), 1)
        return 0

    return take


@part
def _leave(r, address):
    """Say that a thread will not look at the record again."""
    if add(above(r, _USERS), -1) == 1:
        free(address)


@part
def visit(address):
    """Take part in the work of a record, unless it is over: what other threads are asked to do."""
    r = words(address)
    if add(above(r, _INSIDE), 1) < _CLOSED:
        call_at(r[_TAKE], address)
    add(above(r, _INSIDE), -1)
    _leave(r, address)


@part
def _do(address, helpers, frame, functions):
    """Do the work of a record, and return when it is done, whoever has done it."""
    take, come = functions
    r = words(address)
    r[_TAKE], r[_USERS] = take, 1 + helpers
    for _ in range(helpers):
        if not ask(frame, come, address):
            _leave(r, address)
    call_at(take, address)
    inside = above(r, _INSIDE)
    add(inside, _CLOSED)
    while add(inside, 0) != _CLOSED:
        yield_processor()
    _leave(r, address)


@part
def _costliest_first(batch, count):
    order = np.arange(count)
    if count <= _MOST_SORTED:
        for i in range(1, count):
            cost = cost_of(batch.frames[i], batch.classes, batch.counts[i])
            at = i
            while at > 0:
                n = order[at - 1]
                if cost_of(batch.frames[n], batch.classes, batch.counts[n]) >= cost:
                    break
                order[at] = n
                at -= 1
            order[at] = i
    return order


@part
def _compute_sequences(batch, losses, helpers, frame, functions, real):
    count = losses.size
    order = _costliest_first(batch, count) if helpers else np.arange(count)
    sizes = room_of(batch, lanes(like(real)))
    memory, rooms = allocated(2 * (1 + helpers) * bytes_of(sizes, real))
    if memory == 0:
        spoil(batch, losses)
        return
    address = _write(_SEQUENCES, batch, losses, count, order)
    _write_rooms(address, rooms, sizes)
    _do(address, helpers, frame, functions)
    free(memory)
    keep(order)


@part
def _list_halves(batch, losses, tasks):
    """List the halves of sequences that paths can emit; returns how many sequences that are."""
    possible = 0
    for n in range(losses.size):
        if begin(batch, n, losses) == POSSIBLE:
            for which in range(2):
                half = 2 * possible + which
                tasks[half, 0], tasks[half, 1], tasks[half, 2] = n, which, half
            possible += 1
    return possible


@part
def _compute_halves(batch, losses, most, frame, functions, real, whole):
    tasks = np.empty((2 * losses.size, 3), np.int64)
    possible = _list_halves(batch, losses, tasks)
    if possible == 0:
        return
    sizes = room_of(batch, lanes(like(real)))
    each = bytes_of(sizes, real)
    memory, rooms = allocated(2 * possible * each)
    if memory == 0:
        spoil(batch, losses)
        return
    excesses = np.empty(2 * possible, np.float64)
    address = _write(_FORTH, batch, losses, 2 * possible, tasks)
    _write_rooms(address, rooms, sizes)
    words(address)[_EXCESSES] = excesses.ctypes.data
    _do(address, min(most, 2 * possible) - 1, frame, functions)
    left = 0
    for i in range(0, 2 * possible, 2):
        room = room_at(rooms + i * each, sizes, real, whole)
        other = room_at(rooms + (i + 1) * each, sizes, real, whole)
        if middle(batch, tasks[i, 0], losses, excesses[i] + excesses[i + 1], room, other):
            for half in range(2):  # assigning slices takes Numba seconds to compile
                for k in range(3):
                    tasks[left + half, k] = tasks[i + half, k]
            left += 2
    if left:
        address = _write(_BACK, batch, losses, left, tasks)
        _write_rooms(address, rooms, sizes)
        words(address)[_EXCESSES] = excesses.ctypes.data
        _do(address, min(most, left) - 1, frame, functions)
    free(memory)
    keep((tasks, excesses))


@part
def compute(batch, losses, most, frame, functions, real, whole):
    """Write losses, and gradients if wanted.

    Parameters
    ----------
    batch, losses
        As for :func:`ctcx_numba._entries.sequences`.
    most
        Threads to use at most.
    frame
        That XLA has passed, to ask its threads by.
    functions
        Addresses of C functions: one that :func:`taking` defines, one that calls :func:`visit`.
    real, whole
        dtypes of mantissas and of exponents.
    """
    count = losses.size
    work = work_of(count, batch.most_frames, batch.classes, batch.labels.shape[1])
    if by_halves(work, count, most):
        _compute_halves(batch, losses, most, frame, functions, real, whole)
    else:
        helpers = min(most, count) - 1 if work >= WORTH_A_THREAD else 0
        _compute_sequences(batch, losses, max(helpers, 0), frame, functions, real)
