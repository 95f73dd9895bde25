"""The selective scan on GPUs: Triton kernels, the custom op `rrg::selective_scan_triton`. Importing it imports triton.

A program owns one batch entry and BLOCK_D channels of a group, or of all groups where they share u, and walks along
time in tiles of BLOCK_L steps; a tile is one associative scan, so B and C are loaded once for all its channels. The
forward pass keeps the state before every tile, the backward pass computes the states between once more. Nothing is
added up by atomics: what several programs share is written apart and summed afterwards, so results repeat bit by bit.

With TRITON_INTERPRET=1 the kernels run on the CPU, slowly: for tests.
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rrg.errors import UsageError
from rrg.ops.selective_scan import op
from rrg.ops.selective_scan.naive import Scan, state_dtype

BLOCK_L = 32  # steps of a tile, hence from one kept state to the next; with 64 the registers of a GPU do not suffice
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def selective_scan(scan: Scan) -> Tensor:
    """In any layout; fastest where channels lie side by side in memory."""
    return op.by_groups(ordered_scan, scan)


def ordered_scan(scan: Scan, order: Tensor) -> Tensor:
    """Shapes as in `rrg.ops.selective_scan.op`."""
    if scan.u.device.type not in ("cuda", "meta") and not INTERPRETED:
        raise UsageError(f"selective_scan: backend='triton' given u on {scan.u.device}; expected it on a GPU")
    return _scan(scan, order)


@triton.jit
def _combine(decay1, added1, decay2, added2):  # type: ignore[no-untyped-def]
    """First h ↦ decay1·h + added1, then h ↦ decay2·h + added2."""
    return decay1 * decay2, decay2 * added1 + added2


@triton.jit
def _softplus(x):  # type: ignore[no-untyped-def]
    """log(1 + exp(x)) and its slope, the sigmoid."""
    small = tl.exp(-tl.abs(x))
    one = 1.0 + small  # log(one) alone would lose what rounding took from `one`
    log1p = tl.where(one == 1.0, small, tl.log(one) * (small / tl.where(one == 1.0, 1.0, one - 1.0)))
    return tl.maximum(x, 0.0) + log1p, tl.where(x > 0, 1.0, small) / one


@triton.jit
def _places(b, g, inner, p, s_b, s_g, s_d, s_l):  # type: ignore[no-untyped-def]
    """Where a tile lies (positions channels) in what is as long as the sequence, by its strides."""
    return b * s_b + g * s_g + inner[None, :] * s_d + p[:, None] * s_l


@triton.jit  # type: ignore[untyped-decorator]
def _tile(  # type: ignore[no-untyped-def]
    u, delta, order, offset, chunk, b, g, inner, share, length, orders,
    u_b, u_g, u_d, u_l, delta_b, delta_g, delta_d, delta_l,
    SOFTPLUS: tl.constexpr, DTYPE: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """A tile's steps t, positions p, the mask of what is there, u, Δ, and the slope of Δ by delta."""
    t = chunk * BLOCK_L + tl.arange(0, BLOCK_L)
    p = tl.load(order + (g % orders) * length + t, t < length, 0)
    mask = (t < length)[:, None] & (inner < share)[None, :]
    x = tl.load(u + _places(b, g, inner, p, u_b, u_g, u_d, u_l), mask, 0.0).to(DTYPE)
    raw = tl.load(delta + _places(b, g, inner, p, delta_b, delta_g, delta_d, delta_l), mask, 0.0).to(DTYPE)
    step, slope = raw + offset[None, :], tl.full(x.shape, 1.0, DTYPE)
    if SOFTPLUS:
        step, slope = _softplus(step)
    return t, p, mask, x, tl.where(mask, step, 0.0), slope  # behind the end the state stays as it is


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # type: ignore[no-untyped-def]
    u, delta, z, A, B, C, D, bias, order, y, starts,
    share, length, orders,
    u_b, u_g, u_d, u_l, delta_b, delta_g, delta_d, delta_l, z_b, z_g, z_d, z_l, y_b, y_g, y_d, y_l,
    GROUPS: tl.constexpr, STATES: tl.constexpr, SHARED: tl.constexpr, SOFTPLUS: tl.constexpr, GATED: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) if SHARED else tl.program_id(0) // GROUPS).to(tl.int64)
    inner = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    there, row = inner < share, tl.arange(0, BLOCK_L)
    chunks = tl.cdiv(length, BLOCK_L)
    for turn in range(GROUPS if SHARED else 1):
        g = turn if SHARED else tl.program_id(0) % GROUPS
        channel = g * share + inner
        skip = tl.load(D + channel, there, 0.0)
        offset = tl.load(bias + channel, there, 0.0)
        for n in range(STATES):
            tl.store(starts + (b * chunks * STATES + n) * GROUPS * share + channel, tl.zeros_like(skip), there)
        for chunk in range(chunks):
            t, p, mask, x, step, _ = _tile(
                u, delta, order, offset, chunk, b, g, inner, share, length, orders,
                u_b, u_g, u_d, u_l, delta_b, delta_g, delta_d, delta_l, SOFTPLUS, DTYPE, BLOCK_L,
            )  # fmt: skip
            out = skip[None, :] * x
            tl.debug_barrier()  # the state was stored by other threads
            for n in range(STATES):
                at_state = ((b * chunks + chunk) * STATES + n) * GROUPS * share + channel
                at_group = ((b * length + p) * GROUPS + g) * STATES + n
                decay = tl.exp(step * tl.load(A + n * GROUPS * share + channel, there, 0.0)[None, :])
                added = step * x * tl.load(B + at_group, t < length, 0.0)[:, None]
                decays, local = tl.associative_scan((decay, added), 0, _combine)
                h = decays * tl.load(starts + at_state, there, 0.0)[None, :] + local
                out += tl.load(C + at_group, t < length, 0.0)[:, None] * h
                last = tl.sum(tl.where(row[:, None] == BLOCK_L - 1, h, 0.0), 0)
                tl.store(starts + at_state + STATES * GROUPS * share, last, there & (chunk + 1 < chunks))
            if GATED:
                gate = tl.load(z + _places(b, g, inner, p, z_b, z_g, z_d, z_l), mask, 0.0).to(DTYPE)
                out = out * gate * _softplus(gate)[1]
            at_y = y + _places(b, g, inner, p, y_b, y_g, y_d, y_l)
            if turn > 0:
                out += tl.load(at_y, mask, 0.0)
            tl.store(at_y, out, mask)
        tl.debug_barrier()  # the next turn reads y as other threads stored it


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # type: ignore[no-untyped-def]
    upstream, u, delta, z, A, B, C, D, bias, order, starts, carry,
    of_u, of_delta, of_z, of_A, of_B, of_C, of_D, of_bias,
    share, length, orders,
    up_b, up_g, up_d, up_l, u_b, u_g, u_d, u_l, delta_b, delta_g, delta_d, delta_l, z_b, z_g, z_d, z_l,
    of_u_b, of_u_g, of_u_d, of_u_l, of_delta_b, of_delta_g, of_delta_d, of_delta_l, of_z_b, of_z_g, of_z_d, of_z_l,
    GROUPS: tl.constexpr, STATES: tl.constexpr, SHARED: tl.constexpr, SOFTPLUS: tl.constexpr, GATED: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) if SHARED else tl.program_id(0) // GROUPS).to(tl.int64)
    batch = tl.num_programs(0) if SHARED else tl.num_programs(0) // GROUPS
    part = tl.program_id(1)
    inner = part * BLOCK_D + tl.arange(0, BLOCK_D)
    there, row = inner < share, tl.arange(0, BLOCK_L)
    rows = tl.broadcast_to(row[:, None], (BLOCK_L, BLOCK_D))
    chunks = tl.cdiv(length, BLOCK_L)
    for turn in range(GROUPS if SHARED else 1):
        g = turn if SHARED else tl.program_id(0) % GROUPS
        channel = g * share + inner
        skip = tl.load(D + channel, there, 0.0)
        offset = tl.load(bias + channel, there, 0.0)
        sum_D, sum_bias = tl.zeros_like(skip), tl.zeros_like(skip)
        for n in range(STATES):
            tl.store(carry + (b * STATES + n) * GROUPS * share + channel, tl.zeros_like(skip), there)
        for back in range(chunks):
            chunk = chunks - 1 - back
            t, p, mask, x, step, slope = _tile(
                u, delta, order, offset, chunk, b, g, inner, share, length, orders,
                u_b, u_g, u_d, u_l, delta_b, delta_g, delta_d, delta_l, SOFTPLUS, DTYPE, BLOCK_L,
            )  # fmt: skip
            raw = tl.load(upstream + _places(b, g, inner, p, up_b, up_g, up_d, up_l), mask, 0.0).to(DTYPE)
            grad = raw
            if GATED:
                gate = tl.load(z + _places(b, g, inner, p, z_b, z_g, z_d, z_l), mask, 0.0).to(DTYPE)
                sigmoid = _softplus(gate)[1]
                grad = raw * gate * sigmoid
            out, of_x, of_step = skip[None, :] * x, skip[None, :] * grad, tl.zeros_like(x)
            tl.debug_barrier()  # the carry was stored by other threads
            for n in range(STATES):
                at_state = ((b * chunks + chunk) * STATES + n) * GROUPS * share + channel
                at_group = ((b * length + p) * GROUPS + g) * STATES + n
                rate = tl.load(A + n * GROUPS * share + channel, there, 0.0)[None, :]
                Bn = tl.load(B + at_group, t < length, 0.0)[:, None]
                Cn = tl.load(C + at_group, t < length, 0.0)[:, None]
                start = tl.load(starts + at_state, there, 0.0)[None, :]
                decay = tl.exp(step * rate)
                decays, local = tl.associative_scan((decay, step * x * Bn), 0, _combine)
                h = decays * start + local
                before = decay * tl.where(rows == 0, start, tl.gather(h, tl.maximum(rows - 1, 0), 0))
                out += Cn * h
                # The same recurrence from the end: ∂h_t = C_t ∂y_t + decay_{t+1} ∂h_{t+1}.
                following = tl.where(rows == BLOCK_L - 1, 1.0, tl.gather(decay, tl.minimum(rows + 1, BLOCK_L - 1), 0))
                later = tl.load(carry + (b * STATES + n) * GROUPS * share + channel, there, 0.0)[None, :]
                asked = Cn * grad + tl.where(rows == BLOCK_L - 1, later, 0.0)
                _, of_h = tl.associative_scan((following, asked), 0, _combine, reverse=True)
                of_x += of_h * step * Bn
                of_step += of_h * (x * Bn + before * rate)
                tl.store(of_A + at_state, tl.sum(of_h * before * step, 0), there)
                at_part = part * batch * length * GROUPS * STATES + at_group
                tl.store(of_B + at_part, tl.sum(of_h * step * x, 1), t < length)
                tl.store(of_C + at_part, tl.sum(grad * h, 1), t < length)
                first = tl.sum(tl.where(rows == 0, decay * of_h, 0.0), 0)
                tl.store(carry + (b * STATES + n) * GROUPS * share + channel, first, there)
            if GATED:
                at_z = _places(b, g, inner, p, of_z_b, of_z_g, of_z_d, of_z_l)
                tl.store(of_z + at_z, raw * out * sigmoid * (1.0 + gate * (1.0 - sigmoid)), mask)
            of_step = of_step * slope
            sum_bias += tl.sum(tl.where(mask, of_step, 0.0), 0)
            sum_D += tl.sum(grad * x, 0)
            at_delta = _places(b, g, inner, p, of_delta_b, of_delta_g, of_delta_d, of_delta_l)
            tl.store(of_delta + at_delta, of_step, mask)
            at_u = of_u + _places(b, g, inner, p, of_u_b, of_u_g, of_u_d, of_u_l)
            if turn > 0:
                of_x += tl.load(at_u, mask, 0.0)
            tl.store(at_u, of_x, mask)
        tl.store(of_D + b * GROUPS * share + channel, sum_D, there)
        tl.store(of_bias + b * GROUPS * share + channel, sum_bias, there)
        tl.debug_barrier()  # the next turn reads ∂u as other threads stored it


def _forward(scan: Scan, order: Tensor) -> tuple[Tensor, Tensor]:
    u, delta, A, z = scan.u, scan.delta, scan.A, scan.z
    dtype, settings, grid = _launch(scan)
    y = op.long(u, dtype if settings["SHARED"] else u.dtype)
    starts = _empty(u, dtype, len(u), -(-u.shape[3] // BLOCK_L), A.shape[1], len(A))
    if u.numel():
        _forward_kernel[grid](
            u, delta, u if z is None else z, *op.small(scan, dtype, dtype), order, y, starts,
            *delta.shape[2:], len(order), *_strides(u, delta, z, y), **settings,
        )  # fmt: skip
    return y.to(u.dtype), starts


def _backward(upstream: Tensor, scan: Scan, order: Tensor, starts: Tensor) -> list[Tensor]:
    u, delta, A, z = scan.u, scan.delta, scan.A, scan.z
    dtype, settings, grid = _launch(scan)
    batch, groups, share, length = delta.shape
    states, channels = A.shape[1], len(A)
    of_u, of_delta = op.long(u, dtype if settings["SHARED"] else u.dtype), op.like(delta, delta.dtype)
    of_z = None if z is None else op.long(z, z.dtype)
    of_A = _empty(u, dtype, *starts.shape)
    of_B, of_C = (_empty(u, dtype, grid[1], batch, length, groups, states) for _ in range(2))
    of_D, of_bias = (_empty(u, dtype, batch, channels) for _ in range(2))
    if u.numel():
        _backward_kernel[grid](
            upstream, u, delta, u if z is None else z, *op.small(scan, dtype, dtype), order, starts,
            _empty(u, dtype, batch, states, channels),
            of_u, of_delta, of_u if of_z is None else of_z, of_A, of_B, of_C, of_D, of_bias,
            share, length, len(order), *_strides(upstream, u, delta, z, of_u, of_delta, of_z), **settings,
        )  # fmt: skip
    of_B, of_C = (each.sum(dim=0).permute(0, 2, 3, 1) for each in (of_B, of_C))
    gradients = of_u, of_delta, of_A.sum(dim=(0, 1)).T, of_B, of_C, of_D.sum(dim=0), of_z, of_bias.sum(dim=0)
    return op.given_alone(gradients, scan)


def _launch(scan: Scan) -> tuple[torch.dtype, dict[str, Any], tuple[int, int]]:
    """The state's dtype, the kernels' constants, and the grid: batch entries, or their groups, by parts of a group."""
    groups, share = scan.delta.shape[1:3]
    block = min(max(triton.next_power_of_2(share), 16), 32)
    dtype, shared = state_dtype(scan.u), op.shared(scan)
    settings = {"GROUPS": groups, "STATES": scan.A.shape[1], "SHARED": shared, "SOFTPLUS": scan.softplus}
    settings |= {"GATED": scan.z is not None, "DTYPE": tl.float64 if dtype == torch.float64 else tl.float32}
    settings |= {"BLOCK_L": BLOCK_L, "BLOCK_D": block}
    return dtype, settings, (len(scan.u) * (1 if shared else groups), triton.cdiv(share, block))


def _empty(u: Tensor, dtype: torch.dtype, *shape: int) -> Tensor:
    return op.empty(*shape, dtype=dtype, device=u.device)


def _strides(*long: Tensor | None) -> list[int]:
    """Of each: batch, group, channel, position; 0 for the group of what the groups share."""
    found = [(0, 0, 0, 0) if x is None else x.stride() for x in long]
    shared = [x is not None and x.shape[1] == 1 for x in long]
    return [s for one, (b, g, d, t) in zip(shared, found, strict=True) for s in (b, 0 if one else g, d, t)]


_scan = op.define("triton", _forward, _backward, BLOCK_L, None)
