"""The selective scan's CPU kernels, compiled by numba. Importing this module imports numba.

u, delta, z, y and their gradients come flat, with a row of `strides` that says how far a batch entry, a position and a
group lie apart; a group's channels lie side by side. Where the groups share u, its stride of a group is 0, and y is the
sum over them. bfloat16 comes as its bits, uint16. Everything else is C-contiguous, float32 or float64: A (N channels),
B, C (batch length groups N), D, bias (channels). `order` (1 or groups, length): positions in the order of a group.

A task is one batch entry and at most `size` channels of one group, or of all where they share u: channels advance side
by side in vector registers, their states stay in the cache, and time is the outer loop. Every task writes memory of its
own, so neither the number of threads nor their timing changes a bit of the result.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba.extending import overload
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

Array = NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

# a·b + c may be rounded once. Sums may change their order only where no exponential is taken: its rounding is exact.
CONTRACT: Any = {"fastmath": {"contract"}}
SUMS: Any = {"fastmath": {"contract", "reassoc", "nsz"}}


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Compiled at the first call, and kept on disk where a cache folder can be written."""

    def decorate(function: Function) -> Function:
        for cache in (True, False):
            try:
                found: Function = numba.njit(nogil=True, error_model="numpy", cache=cache, **options)(function)
                return found
            except RuntimeError:
                if not cache:
                    raise
        raise AssertionError

    return decorate


def _fitted(function: Callable[[Array], Array], degree: int, low: float, high: float) -> list[np.float32]:
    """Chebyshev interpolation on [low, high]; coefficients of 1, x, x² and so on."""
    polynomial = Chebyshev.interpolate(function, degree, (low, high)).convert(kind=Polynomial)
    return [np.float32(coefficient) for coefficient in polynomial.coef]


ZERO, ONE, HALF_LN2 = np.float32(0), np.float32(1), math.log(2) / 2
E0, E1, E2, E3, E4, E5, E6 = _fitted(np.exp, 6, -HALF_LN2, HALF_LN2)
L0, L1, L2, L3, L4, L5, L6, L7, L8, L9 = _fitted(lambda x: np.log1p(x) / x, 9, 0, 1)
# Adding ROUND leaves the nearest whole number, plus the exponent's offset 127, in the low bits.
LOG2E, ROUND = np.float32(1 / math.log(2)), np.float32(1.5 * 2**23 + 127)
# ln 2 in two parts, the first short enough that its product with the exponent is exact.
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)
LOWEST, HIGHEST, BITS = np.float32(-88), np.float32(89), np.int32(23)
HALF = np.uint32(16)  # bits of a bfloat16, the upper half of a float32


def _exp(x: Any) -> Any:
    """float32: exp to 2 units in the last place; 0 below -87.7, infinite above 88.3. float64: math.exp."""
    return math.exp(x)


@overload(_exp, jit_options=CONTRACT)
def _exp_of(x: Any) -> Any:
    def library(x: Any) -> Any:
        return math.exp(x)

    def polynomial(x: Any) -> Any:
        x = LOWEST if x < LOWEST else x  # so that not a number stays one
        x = HIGHEST if x > HIGHEST else x
        shifted = x * LOG2E + ROUND
        whole = shifted - ROUND
        r = (x - whole * LN2_HIGH) - whole * LN2_LOW
        power = np.int32(np.float32(shifted).view(np.int32) << BITS).view(np.float32)
        return (((((((E6 * r + E5) * r) + E4) * r + E3) * r + E2) * r + E1) * r + E0) * power

    return polynomial if x == numba.float32 else library


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
def _softplus(x: Any) -> tuple[Any, Any]:
    """log(1 + exp(x)) and its slope, the sigmoid."""
    small = _exp(-abs(x))
    return (x if x > ZERO else ZERO) + _log1p(small), (ONE if x > ZERO else small) / (ONE + small)


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


@compiled(**CONTRACT)
def _at(stride: Array, b: int, position: int, g: int, first: Any) -> Any:
    return np.uint64(b * stride[0] + position * stride[1] + g * stride[2]) + first


@compiled(**CONTRACT)
def forward(
    u: Array,
    delta: Array,
    z: Array,
    strides: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    bias: Array,
    order: Array,
    softplus: bool,
    gated: bool,
    shared: bool,
    size: int,
    every: int,
    first: int,
    last: int,
    state: Array,
    rows: Array,
    y: Array,
    starts: Array,
) -> None:
    """Tasks `first` to `last`: y, and the state before every `every`-th step in starts (batch chunks N channels).

    strides: of u, delta, z, y. Scratch: state (N size); rows (3 size): Δ, u, y.
    """
    length, groups, states = B.shape[1:]
    share = A.shape[1] // groups
    parts = -(-share // size)
    blocks, turns = (parts, groups) if shared else (groups * parts, 1)
    chunks = starts.shape[1]
    while first < last:
        b = first // blocks
        end = min(last, (b + 1) * blocks)
        for turn in range(turns):
            for chunk in range(chunks):  # outside the blocks, so that a page of memory is visited once
                for block in range(first - b * blocks, end - b * blocks):
                    g, _, width, inner, origin = _block(block, turn, shared, parts, size, share)
                    for n in range(states):
                        for d in range(width):
                            if chunk == 0:
                                starts[b, 0, n, origin + d] = ZERO
                            state[n, d] = starts[b, chunk, n, origin + d]
                    for t in range(chunk * every, min(length, chunk * every + every)):
                        p = order[g % len(order), t]
                        at_u, at_delta = _at(strides[0], b, p, g, inner), _at(strides[1], b, p, g, inner)
                        for d in range(width):
                            step = _read(delta, at_delta + d) + bias[origin + d]
                            rows[0, d] = _softplus(step)[0] if softplus else step
                            rows[1, d] = _read(u, at_u + d)
                            rows[2, d] = D[origin + d] * rows[1, d]
                        for n in range(states):
                            Bn, Cn = B[b, p, g, n], C[b, p, g, n]
                            for d in range(width):
                                after = _exp(rows[0, d] * A[n, origin + d]) * state[n, d] + rows[0, d] * rows[1, d] * Bn
                                state[n, d] = after
                                rows[2, d] += Cn * after
                        if gated:
                            at_z = _at(strides[2], b, p, g, inner)
                            for d in range(width):
                                gate = _read(z, at_z + d)
                                rows[2, d] *= gate * _softplus(gate)[1]
                        at_y = _at(strides[3], b, p, g, inner)
                        if turn:
                            for d in range(width):
                                _write(y, at_y + d, _read(y, at_y + d) + rows[2, d])
                        else:
                            for d in range(width):
                                _write(y, at_y + d, rows[2, d])
                    if chunk + 1 < chunks:
                        for n in range(states):
                            for d in range(width):
                                starts[b, chunk + 1, n, origin + d] = state[n, d]
        first = end


@compiled(**SUMS)
def backward(
    upstream: Array,
    u: Array,
    delta: Array,
    z: Array,
    strides: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    bias: Array,
    order: Array,
    softplus: bool,
    gated: bool,
    shared: bool,
    size: int,
    every: int,
    first: int,
    last: int,
    starts: Array,
    kept: Array,
    rows: Array,
    sums: Array,
    state: Array,
    carry: Array,
    of_u: Array,
    of_delta: Array,
    of_z: Array,
    of_A: Array,
    of_B: Array,
    of_C: Array,
    of_D: Array,
    of_bias: Array,
) -> None:
    """Chunk by chunk from the end: the states once more from `starts`, then the gradients backwards in time.

    strides: of upstream, u, delta, z, of_u, of_delta, of_z. Parts to be added up: of_A (batch N channels), of_D,
    of_bias (batch channels), of_B, of_C (parts batch length groups N). Scratch: kept (2 every N size): exp(ΔA), and
    that times the state before; rows (5 every size): Δ, its slope, ∂y, y, u; sums (2 size): ∂u, ∂Δ; state (N size);
    carry (batch N channels): what later steps ask of the state.
    """
    length, groups, states = B.shape[1:]
    share = A.shape[1] // groups
    parts = -(-share // size)
    blocks, turns = (parts, groups) if shared else (groups * parts, 1)
    chunks = starts.shape[1]
    while first < last:
        b = first // blocks
        end = min(last, (b + 1) * blocks)
        for turn in range(turns):
            for chunk in range(chunks - 1, -1, -1):
                for block in range(first - b * blocks, end - b * blocks):
                    g, part, width, inner, origin = _block(block, turn, shared, parts, size, share)
                    if chunk == chunks - 1:
                        for d in range(width):
                            of_D[b, origin + d] = ZERO
                            of_bias[b, origin + d] = ZERO
                        for n in range(states):
                            for d in range(width):
                                of_A[b, n, origin + d] = ZERO
                                carry[b, n, origin + d] = ZERO
                    for n in range(states):
                        for d in range(width):
                            state[n, d] = starts[b, chunk, n, origin + d]
                    steps = min(every, length - chunk * every)
                    for i in range(steps):
                        p = order[g % len(order), chunk * every + i]
                        at_out, at_u = _at(strides[0], b, p, g, inner), _at(strides[1], b, p, g, inner)
                        at_delta = _at(strides[2], b, p, g, inner)
                        for d in range(width):
                            step = _read(delta, at_delta + d) + bias[origin + d]
                            slope = ONE
                            if softplus:
                                step, slope = _softplus(step)
                            rows[0, i, d] = step
                            rows[1, i, d] = slope
                            rows[2, i, d] = _read(upstream, at_out + d)
                            rows[4, i, d] = _read(u, at_u + d)
                            rows[3, i, d] = D[origin + d] * rows[4, i, d]
                        for n in range(states):
                            Bn, Cn = B[b, p, g, n], C[b, p, g, n]
                            for d in range(width):
                                decay = _exp(rows[0, i, d] * A[n, origin + d])
                                before = decay * state[n, d]
                                after = before + rows[0, i, d] * rows[4, i, d] * Bn
                                kept[0, i, n, d] = decay
                                kept[1, i, n, d] = before
                                state[n, d] = after
                                rows[3, i, d] += Cn * after
                        if gated:
                            at_z, at_of_z = _at(strides[3], b, p, g, inner), _at(strides[6], b, p, g, inner)
                            for d in range(width):
                                gate = _read(z, at_z + d)
                                slope = _softplus(gate)[1]
                                of_gate = slope * (ONE + gate * (ONE - slope))
                                _write(of_z, at_of_z + d, rows[2, i, d] * rows[3, i, d] * of_gate)
                                rows[2, i, d] *= gate * slope
                    for i in range(steps - 1, -1, -1):
                        p = order[g % len(order), chunk * every + i]
                        for d in range(width):
                            sums[0, d] = D[origin + d] * rows[2, i, d]
                            sums[1, d] = ZERO
                        for n in range(states):
                            Bn, Cn = B[b, p, g, n], C[b, p, g, n]
                            sum_B, sum_C = ZERO, ZERO
                            for d in range(width):
                                x, step, before, out = rows[4, i, d], rows[0, i, d], kept[1, i, n, d], rows[2, i, d]
                                grad = carry[b, n, origin + d] + Cn * out
                                sum_B += grad * step * x
                                sum_C += out * (before + step * x * Bn)
                                sums[0, d] += grad * step * Bn
                                sums[1, d] += grad * (x * Bn + before * A[n, origin + d])
                                of_A[b, n, origin + d] += grad * before * step
                                carry[b, n, origin + d] = grad * kept[0, i, n, d]
                            of_B[part, b, p, g, n] = sum_B
                            of_C[part, b, p, g, n] = sum_C
                        at_u, at_delta = _at(strides[4], b, p, g, inner), _at(strides[5], b, p, g, inner)
                        for d in range(width):
                            of_step = sums[1, d] * rows[1, i, d]
                            of_bias[b, origin + d] += of_step
                            of_D[b, origin + d] += rows[2, i, d] * rows[4, i, d]
                            _write(of_delta, at_delta + d, of_step)
                        if turn:
                            for d in range(width):
                                _write(of_u, at_u + d, _read(of_u, at_u + d) + sums[0, d])
                        else:
                            for d in range(width):
                                _write(of_u, at_u + d, sums[0, d])
        first = end
