"""The selective scan's CPU kernels, compiled by numba. Importing this module imports numba.

`forward` and `backward` give C functions, as `rrg.ops.compiled` says, that work a `JOB` off.

u, delta, z, y and their gradients have strides that say how far a batch entry, a position and a group lie apart; a
group's channels lie side by side. Where the groups share u, its stride of a group is 0, and y is the sum over them.
All else is C-contiguous: A (N channels), B, C (batch length groups N), D, bias (channels), order (1 or groups, length):
positions in the order of a group. bfloat16, which B and C may be too, comes as its bits, uint16.

A task is one batch entry and at most `lines` cache lines of channels of one group, or of all where they share u.
Channels advance side by side in vector registers, their states stay in the cache, and time is the outer loop. Every
task writes memory of its own, so neither the number of threads nor their timing changes a bit of the result.

A loop has one exponential or logarithm: of a longer chain of operations the processor holds too few numbers at once,
and waits. It runs over whole cache lines, so that it has no remainder, whose constants would take up registers.
"""

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba.extending import overload, register_jitable

from rrg.ops.compiled import CONTRACT, ONE, SUMS, ZERO, Array, array_at, c_function, compiled, exp, fitted, taken

# What a C function is given: counters of the pieces taken and of the workers that took one, how many workers and tasks
# there are, and tasks in a piece; sizes and flags; addresses, 0 where there is none; strides of a batch entry, a
# position and a group, of ∂y, u, delta, z, y or of_u, of_delta, of_z. share: channels of a group. every: steps from one
# kept state to the next. scratch: rows for each worker, as many as `forward_rows` says, of a task's channels.
COUNTS = "next", "worker", "workers", "tasks", "piece"
SIZES = "batch", "length", "groups", "share", "states", "orders", "every", "lines", "softplus", "gated", "shared"
TENSORS = (
    *("grad_y", "u", "delta", "z", "A", "B", "C", "D", "bias", "order", "starts"),
    *("y", "of_u", "of_delta", "of_z", "of_A", "of_B", "of_C", "of_D", "of_bias", "carry", "scratch"),
)
NEXT, WORKER = 0, 1  # places of the counters
JOB = np.dtype([(name, np.int64) for name in COUNTS + SIZES + TENSORS] + [("strides", np.int64, (7, 3))])

L0, L1, L2, L3, L4, L5, L6, L7, L8, L9 = fitted(lambda x: np.log1p(x) / x, 9, 0, 1)
LINE, TILE = 16, 8  # numbers of a cache line; steps whose rows the forward pass takes together
HALF = np.uint32(16)  # bits of a bfloat16, the upper half of a float32


def _log1p(x: Any) -> Any:
    """For 0 ≤ x ≤ 1. float32: a polynomial. float64: math.log1p."""
    return math.log1p(x)


@overload(_log1p, jit_options=CONTRACT)
def _log1p_of(x: Any) -> Any:
    def library(x: Any) -> Any:
        return math.log1p(x)

    def polynomial(x: Any) -> Any:
        high = ((((L9 * x + L8) * x + L7) * x + L6) * x + L5) * x + L4
        return ((((high * x + L3) * x + L2) * x + L1) * x + L0) * x

    return polynomial if x == numba.float32 else library


@compiled(**CONTRACT)
def _sigmoid(x: Any, small: Any) -> Any:
    """1 / (1 + exp(-x)), where small is exp(-|x|)."""
    return (ONE if x > ZERO else small) / (ONE + small)


@compiled(**CONTRACT)
def _softplus(x: Array, small: Array, slope: Array, count: Any) -> None:
    """In place of x: log(1 + exp(x)). In small: exp(-|x|). In slope, unless it is empty: the slope."""
    for d in range(count):
        small[d] = exp(-abs(x[d]))
    if len(slope):
        for d in range(count):
            slope[d] = _sigmoid(x[d], small[d])
    for d in range(count):
        x[d] = (x[d] if x[d] > ZERO else ZERO) + _log1p(small[d])


def _read(array: Any, place: Any) -> Any:
    """A number of an array of numbers, or of bfloat16 bits."""
    return array[place]


@overload(_read, jit_options=CONTRACT)
def _read_of(array: Any, place: Any) -> Any:
    def plain(array: Any, place: Any) -> Any:
        return array[place]

    def bits(array: Any, place: Any) -> Any:
        return np.uint32(np.uint32(array[place]) << HALF).view(np.float32)

    return bits if array.dtype == numba.uint16 else plain


def _write(array: Any, place: Any, value: Any) -> None:
    """Into an array of numbers, or of bfloat16 bits: the nearest, the even one of two, and a NaN stays one."""
    array[place] = value


@overload(_write, jit_options=CONTRACT)
def _write_of(array: Any, place: Any, value: Any) -> Any:
    def plain(array: Any, place: Any, value: Any) -> None:
        array[place] = value

    def bits(array: Any, place: Any, value: Any) -> None:
        found = np.float32(value).view(np.uint32)
        rounded = found + np.uint32(0x7FFF) + ((found >> HALF) & np.uint32(1))
        array[place] = np.uint16((rounded if value == value else np.uint32(0x7FC00000)) >> HALF)

    return bits if array.dtype == numba.uint16 else plain


@compiled(**CONTRACT)
def _block(block: int, turn: int, shared: bool, parts: int, size: int, share: int) -> tuple[Any, ...]:
    """Of a block: its group, its part of the group, the part's width, its first channel in the group and of all."""
    g, part = (turn, block) if shared else (block // parts, block % parts)
    # Unsigned: a signed index may count from the end, which would be tested at each element.
    return (
        g,
        part,
        np.uint64(min(size, share - part * size)),
        np.uint64(part * size),
        np.uint64(g * share + part * size),
    )


@compiled()
def _clear(*arrays: Array) -> None:
    for array in arrays:
        array[:] = ZERO


@compiled(**CONTRACT)
def _at(stride: Array, b: int, position: int, g: int, first: Any) -> Any:
    return np.uint64(b * stride[0] + position * stride[1] + g * stride[2]) + first


@compiled(**CONTRACT)
def _forward(
    u: Array, delta: Array, z: Array, strides: Array, A: Array, B: Array, C: Array, D: Array, bias: Array, order: Array,
    every: int, lines: int, softplus: bool, gated: bool, shared: bool, first: int, last: int,
    own: Array, state: Array, step: Array, x: Array, gate: Array, small: Array, out: Array, y: Array, starts: Array,
) -> None:  # fmt: skip
    """Tasks `first` to `last`: y, and the state before every `every`-th step in starts (batch chunks N channels).

    Scratch, with a size of `lines` cache lines: own (N + 2, size): a task's A, D and bias; state (N size); step, x,
    gate, small, out (TILE size): Δ, u, z, exp(-|·|), y.
    """
    size = np.uint64(lines) * np.uint64(LINE)
    groups, states = B.shape[2:]
    share = A.shape[1] // groups
    parts = -(-share // (lines * LINE))
    blocks, turns = (parts, groups) if shared else (groups * parts, 1)
    length, chunks = B.shape[1], starts.shape[1]
    while first < last:
        b = first // blocks
        end = min(last, (b + 1) * blocks)
        for turn in range(turns):
            for chunk in range(chunks):  # outside the blocks, so that a page of memory is visited once
                for block in range(first - b * blocks, end - b * blocks):
                    g, _, width, inner, origin = _block(block, turn, shared, parts, lines * LINE, share)
                    if width < size:  # the lanes beyond stay 0
                        _clear(own, state)
                        _clear(step, x)
                    for d in range(width):
                        own[states, d] = D[origin + d]
                        own[states + 1, d] = bias[origin + d]
                    for n in range(states):
                        for d in range(width):
                            if chunk == 0:
                                starts[b, 0, n, origin + d] = ZERO
                            own[n, d] = A[n, origin + d]
                            state[n, d] = starts[b, chunk, n, origin + d]
                    for start in range(chunk * every, min(length, chunk * every + every), TILE):
                        steps = min(TILE, length - start)
                        for i in range(steps):
                            p, at = order[g % len(order), start + i], np.uint64(i) * size
                            at_u, at_delta = _at(strides[1], b, p, g, inner), _at(strides[2], b, p, g, inner)
                            for d in range(width):
                                step[at + d] = _read(delta, at_delta + d) + own[states + 1, d]
                                x[at + d] = _read(u, at_u + d)
                                out[at + d] = own[states, d] * x[at + d]
                            if gated:
                                at_z = _at(strides[3], b, p, g, inner)
                                for d in range(width):
                                    gate[at + d] = _read(z, at_z + d)
                        count = np.uint64(steps) * size
                        if softplus:
                            _softplus(step, small, small[:0], count)
                        for i in range(steps):
                            p, at = order[g % len(order), start + i], np.uint64(i) * size
                            for n in range(states):
                                Bn, Cn = _read(B, (b, p, g, n)), _read(C, (b, p, g, n))
                                for d in range(size):
                                    after = exp(step[at + d] * own[n, d]) * state[n, d] + step[at + d] * x[at + d] * Bn
                                    state[n, d] = after
                                    out[at + d] += Cn * after
                        if gated:
                            for d in range(count):
                                small[d] = exp(-abs(gate[d]))
                            for d in range(count):
                                out[d] *= gate[d] * _sigmoid(gate[d], small[d])
                        for i in range(steps):
                            p, at = order[g % len(order), start + i], np.uint64(i) * size
                            at_y = _at(strides[4], b, p, g, inner)
                            if turn:
                                for d in range(width):
                                    _write(y, at_y + d, _read(y, at_y + d) + out[at + d])
                            else:
                                for d in range(width):
                                    _write(y, at_y + d, out[at + d])
                    if chunk + 1 < chunks:
                        for n in range(states):
                            for d in range(width):
                                starts[b, chunk + 1, n, origin + d] = state[n, d]
        first = end


@compiled(**SUMS)
def _backward(
    grad_y: Array, u: Array, delta: Array, z: Array, strides: Array,
    A: Array, B: Array, C: Array, D: Array, bias: Array, order: Array,
    every: int, lines: int, softplus: bool, gated: bool, shared: bool, first: int, last: int, starts: Array,
    own: Array, totals: Array, state: Array, grad_step: Array, grad_x: Array, step: Array, x: Array, gate: Array,
    small: Array, slope: Array, grad_out: Array, out: Array, decay: Array, before: Array, carry: Array,
    of_u: Array, of_delta: Array, of_z: Array, of_A: Array, of_B: Array, of_C: Array, of_D: Array, of_bias: Array,
) -> None:  # fmt: skip
    """Chunk by chunk from the end: the states once more from `starts`, then the gradients backwards in time.

    Parts to be added up: of_A (batch N channels), of_D, of_bias (batch channels), of_B, of_C (parts batch length groups
    N). carry (batch N channels): what later steps ask of the state. Scratch: own and totals (N + 2, size): a task's A,
    D and bias, and a chunk's gradients of them; state (N size); grad_step, grad_x (size); step, x, gate, small, slope,
    grad_out, out (every size): Δ, u, z, exp(-|·|), the slope of Δ, ∂y and y; decay and before (every N size): exp(ΔA),
    and that times the state before.
    """
    size = np.uint64(lines) * np.uint64(LINE)
    groups, states = B.shape[2:]
    share = A.shape[1] // groups
    parts = -(-share // (lines * LINE))
    blocks, turns = (parts, groups) if shared else (groups * parts, 1)
    length, chunks = B.shape[1], starts.shape[1]
    while first < last:
        b = first // blocks
        end = min(last, (b + 1) * blocks)
        for turn in range(turns):
            for chunk in range(chunks - 1, -1, -1):
                for block in range(first - b * blocks, end - b * blocks):
                    g, part, width, inner, origin = _block(block, turn, shared, parts, lines * LINE, share)
                    if chunk == chunks - 1:
                        for d in range(width):
                            of_D[b, origin + d] = ZERO
                            of_bias[b, origin + d] = ZERO
                        for n in range(states):
                            for d in range(width):
                                of_A[b, n, origin + d] = ZERO
                                carry[b, n, origin + d] = ZERO
                    if width < size:  # the lanes beyond stay 0
                        _clear(own, state, totals)
                        _clear(step, x, gate, grad_out)
                    for d in range(width):
                        own[states, d] = D[origin + d]
                        own[states + 1, d] = bias[origin + d]
                    for n in range(states):
                        for d in range(width):
                            own[n, d] = A[n, origin + d]
                            state[n, d] = starts[b, chunk, n, origin + d]
                    steps = min(every, length - chunk * every)
                    count = np.uint64(steps) * size
                    for i in range(steps):
                        p, at = order[g % len(order), chunk * every + i], np.uint64(i) * size
                        at_out, at_u = _at(strides[0], b, p, g, inner), _at(strides[1], b, p, g, inner)
                        at_delta = _at(strides[2], b, p, g, inner)
                        for d in range(width):
                            step[at + d] = _read(delta, at_delta + d) + own[states + 1, d]
                            grad_out[at + d] = _read(grad_y, at_out + d)
                            x[at + d] = _read(u, at_u + d)
                    if softplus:
                        _softplus(step, small, slope, count)
                    if gated:
                        for i in range(steps):
                            p, at = order[g % len(order), chunk * every + i], np.uint64(i) * size
                            at_z = _at(strides[3], b, p, g, inner)
                            for d in range(width):
                                gate[at + d] = _read(z, at_z + d)
                                out[at + d] = own[states, d] * x[at + d]
                    for i in range(steps):
                        p, at = order[g % len(order), chunk * every + i], np.uint64(i) * size
                        for n in range(states):
                            Bn, Cn = _read(B, (b, p, g, n)), _read(C, (b, p, g, n))
                            row = (np.uint64(i) * np.uint64(states) + np.uint64(n)) * size
                            for d in range(size):
                                decayed = exp(step[at + d] * own[n, d])
                                decay[row + d] = decayed
                                before[row + d] = decayed * state[n, d]
                                state[n, d] = before[row + d] + step[at + d] * x[at + d] * Bn
                            if gated:
                                for d in range(size):
                                    out[at + d] += Cn * state[n, d]
                    if gated:
                        for d in range(count):
                            small[d] = exp(-abs(gate[d]))
                        for d in range(count):
                            sigmoid = _sigmoid(gate[d], small[d])
                            out[d] *= grad_out[d] * sigmoid * (ONE + gate[d] * (ONE - sigmoid))
                            grad_out[d] *= gate[d] * sigmoid
                        for i in range(steps):
                            p, at = order[g % len(order), chunk * every + i], np.uint64(i) * size
                            at_of_z = _at(strides[6], b, p, g, inner)
                            for d in range(width):
                                _write(of_z, at_of_z + d, out[at + d])
                    if width < size:
                        _clear(state)
                    for d in range(width):
                        totals[states, d] = ZERO
                        totals[states + 1, d] = ZERO
                    for n in range(states):
                        for d in range(width):
                            totals[n, d] = ZERO
                            state[n, d] = carry[b, n, origin + d]
                    for i in range(steps - 1, -1, -1):
                        p, at = order[g % len(order), chunk * every + i], np.uint64(i) * size
                        for d in range(size):
                            grad_x[d] = own[states, d] * grad_out[at + d]
                            grad_step[d] = ZERO
                        for n in range(states):
                            Bn, Cn = _read(B, (b, p, g, n)), _read(C, (b, p, g, n))
                            row = (np.uint64(i) * np.uint64(states) + np.uint64(n)) * size
                            sum_B, sum_C = ZERO, ZERO
                            for d in range(size):
                                fed = step[at + d] * x[at + d]
                                grad = state[n, d] + Cn * grad_out[at + d]
                                sum_B += grad * fed
                                sum_C += grad_out[at + d] * (before[row + d] + fed * Bn)
                                grad_x[d] += grad * step[at + d] * Bn
                                grad_step[d] += grad * (x[at + d] * Bn + before[row + d] * own[n, d])
                                totals[n, d] += grad * before[row + d] * step[at + d]
                                state[n, d] = grad * decay[row + d]
                            of_B[part, b, p, g, n] = sum_B
                            of_C[part, b, p, g, n] = sum_C
                        at_u, at_delta = _at(strides[4], b, p, g, inner), _at(strides[5], b, p, g, inner)
                        if softplus:
                            for d in range(size):
                                grad_step[d] *= slope[at + d]
                        for d in range(width):
                            totals[states, d] += grad_out[at + d] * x[at + d]
                            totals[states + 1, d] += grad_step[d]
                            _write(of_delta, at_delta + d, grad_step[d])
                        if turn:
                            for d in range(width):
                                _write(of_u, at_u + d, _read(of_u, at_u + d) + grad_x[d])
                        else:
                            for d in range(width):
                                _write(of_u, at_u + d, grad_x[d])
                    for d in range(width):
                        of_D[b, origin + d] += totals[states, d]
                        of_bias[b, origin + d] += totals[states + 1, d]
                    for n in range(states):
                        for d in range(width):
                            of_A[b, n, origin + d] += totals[n, d]
                            carry[b, n, origin + d] = state[n, d]
        first = end


@register_jitable
def forward_rows(states: int) -> int:
    """Rows of scratch memory for a worker."""
    return 2 * states + 2 + 5 * TILE


@register_jitable
def backward_rows(states: int, steps: int) -> int:
    """Likewise; steps: of a chunk."""
    return 3 * states + 6 + (7 + 2 * states) * steps


@cache
def forward(kept: np.dtype[Any], read: np.dtype[Any], made: np.dtype[Any]) -> Any:
    """The forward pass: dtypes of the state, of u, delta, z, B and C, and of y."""

    def work(jobs: Any) -> None:
        job = numba.carray(jobs, 1)[0]
        size, states, chunks = job.lines * LINE, job.states, -(-job.length // job.every)
        channels, small = job.groups * job.share, (job.batch, job.length, job.groups, job.states)
        rows = forward_rows(states)
        room = array_at(job.scratch, (job.workers * rows, size), kept)[rows * taken(jobs, WORKER) :]
        long = room[2 * states + 2 : rows].reshape((5, TILE * size))
        softplus, gated, shared = job.softplus != 0, job.gated != 0, job.shared != 0
        first = taken(jobs, NEXT) * job.piece
        while first < job.tasks:
            _forward(
                array_at(job.u, 1, read), array_at(job.delta, 1, read), array_at(job.z, 1, read), job.strides,
                array_at(job.A, (states, channels), kept), array_at(job.B, small, read), array_at(job.C, small, read),
                array_at(job.D, 1, kept), array_at(job.bias, 1, kept),
                array_at(job.order, (job.orders, job.length), np.int64),
                job.every, job.lines, softplus, gated, shared, first, min(job.tasks, first + job.piece),
                room[: states + 2], room[states + 2 : 2 * states + 2], long[0], long[1], long[2], long[3], long[4],
                array_at(job.y, 1, made), array_at(job.starts, (job.batch, chunks, states, channels), kept),
            )  # fmt: skip
            first = taken(jobs, NEXT) * job.piece

    return c_function(work, JOB)


@cache
def backward(kept: np.dtype[Any], read: np.dtype[Any], made: np.dtype[Any]) -> Any:
    """The backward pass: dtypes of the state, of ∂y, u, delta, z, B and C, and of the gradient of u."""

    def work(jobs: Any) -> None:
        job = numba.carray(jobs, 1)[0]
        size, states, chunks = job.lines * LINE, job.states, -(-job.length // job.every)
        channels, small = job.groups * job.share, (job.batch, job.length, job.groups, job.states)
        steps, partial = min(job.every, job.length), (-(-job.share // size), job.batch, job.length, job.groups, states)
        rows, single = backward_rows(states, steps), 3 * states + 6
        room = array_at(job.scratch, (job.workers * rows, size), kept)[rows * taken(jobs, WORKER) :]
        long = room[single : single + 7 * steps].reshape((7, steps * size))
        products = room[single + 7 * steps : rows].reshape((2, steps * states * size))
        softplus, gated, shared = job.softplus != 0, job.gated != 0, job.shared != 0
        first = taken(jobs, NEXT) * job.piece
        while first < job.tasks:
            last = min(job.tasks, first + job.piece)
            _backward(
                array_at(job.grad_y, 1, read), array_at(job.u, 1, read), array_at(job.delta, 1, read),
                array_at(job.z, 1, read), job.strides,
                array_at(job.A, (states, channels), kept), array_at(job.B, small, read), array_at(job.C, small, read),
                array_at(job.D, 1, kept), array_at(job.bias, 1, kept),
                array_at(job.order, (job.orders, job.length), np.int64),
                job.every, job.lines, softplus, gated, shared, first, last,
                array_at(job.starts, (job.batch, chunks, states, channels), kept),
                room[: states + 2], room[states + 2 : 2 * states + 4], room[2 * states + 4 : 3 * states + 4],
                room[3 * states + 4], room[3 * states + 5],
                long[0], long[1], long[2], long[3], long[4], long[5], long[6], products[0], products[1],
                array_at(job.carry, (job.batch, states, channels), kept),
                array_at(job.of_u, 1, made), array_at(job.of_delta, 1, read), array_at(job.of_z, 1, read),
                array_at(job.of_A, (job.batch, states, channels), kept),
                array_at(job.of_B, partial, kept), array_at(job.of_C, partial, kept),
                array_at(job.of_D, (job.batch, channels), kept), array_at(job.of_bias, (job.batch, channels), kept),
            )  # fmt: skip
            first = taken(jobs, NEXT) * job.piece

    return c_function(work, JOB)
