"""The selective scan in plain PyTorch, fast where a loop over time is slow: two levels of about √L steps each.

1. All chunks of S steps run side by side from a zero state, which gives what each adds to the state.
2. A loop over the chunks carries the state: the state after a chunk is its decay times the state before, plus that.
3. All chunks run again, each from its true state.
Nothing is divided, and with A ≤ 0 every factor lies in [0, 1]: what underflows is gone in the plain loop too.
"""

import math
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rrg.ops.selective_scan.naive import Scan, state_dtype

# States (batch · length · channels · N) held at once. Longer sequences go piece by piece, and their states are computed
# again in the backward pass.
HELD = 2**24


def selective_scan(scan: Scan) -> Tensor:
    """Fastest, and without a copy, where channels lie side by side in memory."""
    u, delta, A, B, C, D, z, delta_bias, softplus = scan
    dtype, groups = state_dtype(u), B.shape[1]
    x, step = (each.transpose(1, 2).contiguous().to(dtype) for each in (u, delta))  # (batch length channels)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)
    if softplus:
        step = F.softplus(step)
    A = A.to(dtype).unflatten(0, (groups, -1))
    B, C = (each.permute(0, 3, 1, 2).to(dtype) for each in (B, C))  # (batch length groups N)
    by_group = [each.unflatten(2, (groups, -1)) for each in (x, step)]
    length = max(HELD // max(len(u) * A.numel(), 1), 1)
    run = partial(checkpoint, _piece, use_reentrant=False, preserve_rng_state=False) if length < u.shape[2] else _piece
    state, outputs = x.new_zeros(len(u), *A.shape), []
    for piece in zip(*(each.split(length, dim=1) for each in (*by_group, B, C)), strict=True):
        y, state = run(A, state, *piece)
        outputs.append(y)
    y = (torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]).flatten(2)
    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * F.silu(z.transpose(1, 2).to(dtype))
    return y.to(u.dtype).transpose(1, 2)


def _piece(A: Tensor, start: Tensor, x: Tensor, step: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and the last state. x, step: (batch length groups channels); B, C: (batch length groups states)."""
    decay = (step.unsqueeze(-1) * A).exp()
    added = (step * x).unsqueeze(-1) * B.unsqueeze(-2)
    states: Tensor = _Recurrence.apply(decay, added, start)
    return (states * C.unsqueeze(-2)).sum(dim=-1), states[:, -1]


class _Recurrence(torch.autograd.Function):
    """h_t = decay_t h_{t-1} + added_t, all of (batch length ...), from h_0 = start (batch ...).

    Backwards it is the same recurrence in reverse: g_t = ∂h_t + decay_{t+1} g_{t+1}.
    """

    @staticmethod
    def forward(ctx: Any, decay: Tensor, added: Tensor, start: Tensor) -> Tensor:
        states = _recur(decay, added, start, 1)
        ctx.save_for_backward(decay, states, start)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, states, start = ctx.saved_tensors
        following = torch.cat([decay[:, 1:], torch.zeros_like(decay[:, :1])], dim=1)
        gradient = _recur(following, upstream, torch.zeros_like(start), -1)
        of_decay = torch.empty_like(gradient)
        torch.mul(gradient[:, 0], start, out=of_decay[:, 0])
        torch.mul(gradient[:, 1:], states[:, :-1], out=of_decay[:, 1:])
        return of_decay, gradient, decay[:, 0] * gradient[:, 0]


def _recur(decay: Tensor, added: Tensor, start: Tensor, order: int) -> Tensor:
    """The states h_t = decay_t h_{t-1} + added_t; with order -1 time runs backwards."""
    length = decay.shape[1]
    steps = math.isqrt(length)
    chunks = -(-length // steps)
    if fill := chunks * steps - length:
        decay, added = (F.pad(each, (0, 0) * (each.ndim - 2) + (0, fill)) for each in (decay, added))
    decay, added = (each.unflatten(1, (chunks, steps)) for each in (decay, added))
    decays, additions = (each.unbind(2)[::order] for each in (decay, added))
    local = additions[0]  # (batch chunks ...)
    for factor, term in zip(decays[1:], additions[1:], strict=True):
        local = torch.addcmul(term, factor, local)
    whole = decay.prod(dim=2)
    starts = torch.empty_like(local)
    starts[:, 0 if order > 0 else -1] = start
    for before, chunk in pairwise(range(chunks)[::order]):
        torch.addcmul(local[:, before], whole[:, before], starts[:, before], out=starts[:, chunk])
    states, state = torch.empty_like(added), starts
    for factor, term, out in zip(decays, additions, states.unbind(2)[::order], strict=True):
        state = torch.addcmul(term, factor, state, out=out)
    return states.flatten(1, 2)[:, :length]
