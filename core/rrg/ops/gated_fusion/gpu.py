"""The gated fusion on GPUs, in Triton: sigmoid and interpolation in the matrix product's epilogue, and one kernel for
what backward does beside its products. Importing it imports triton.

With TRITON_INTERPRET=1 the kernels run on the CPU, slowly: for tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # type: ignore[no-untyped-def]
    factor, weight, hidden, expert, half, fused, gate,
    rows, text, host, inner,
    KEEP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """A tile of gate = σ(factor · weightᵀ + half) and of fused = hidden + gate ⊙ (expert - hidden)."""
    # Tiles of GROUP rows go together, so that their factors and weights are still in the cache.
    across, down = tl.cdiv(host, BLOCK_N), tl.cdiv(rows, BLOCK_M)
    band = tl.program_id(0) // (GROUP * across)
    high = tl.minimum(down - band * GROUP, GROUP)
    within = tl.program_id(0) % (GROUP * across)
    m = (band * GROUP + within % high) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = within // high * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    at_factor = factor + m.to(tl.int64)[:, None] * inner + k[None, :]
    at_weight = weight + n.to(tl.int64)[None, :] * inner + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, inner, BLOCK_K):
        left = inner - start
        a = tl.load(at_factor + start, (m < rows)[:, None] & (k < left)[None, :], 0.0)
        b = tl.load(at_weight + start, (n < host)[None, :] & (k < left)[:, None], 0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    mask = (m < rows)[:, None] & (n < host)[None, :]
    at = m.to(tl.int64)[:, None] * host + n[None, :]
    of_study = (m // text).to(tl.int64)[:, None] * host + n[None, :]
    g = tl.sigmoid(total + tl.load(half + of_study, mask, 0.0).to(tl.float32))
    if KEEP:
        tl.store(gate + at, g, mask)
    h = tl.load(hidden + at, mask, 0.0).to(tl.float32)
    e = tl.load(expert + of_study, mask, 0.0).to(tl.float32)
    tl.store(fused + at, h + g * (e - h), mask)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # type: ignore[no-untyped-def]
    upstream, hidden, expert, gate, of_hidden, of_sum, of_expert, of_half,
    text, host,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """All gradients but the products, for one study and BLOCK_N channels; sums over the text stay in registers."""
    study = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    e = tl.load(expert + study * host + n, n < host, 0.0).to(tl.float32)[None, :]
    sum_expert, sum_half = tl.zeros((BLOCK_N,), tl.float32), tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, text, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        mask = (m < text)[:, None] & (n < host)[None, :]
        at = (study * text + m)[:, None] * host + n[None, :]
        up = tl.load(upstream + at, mask, 0.0).to(tl.float32)
        g = tl.load(gate + at, mask, 0.0).to(tl.float32)
        h = tl.load(hidden + at, mask, 0.0).to(tl.float32)
        s = up * (e - h) * g * (1.0 - g)
        tl.store(of_hidden + at, up * (1.0 - g), mask)
        tl.store(of_sum + at, s, mask)
        sum_expert += tl.sum(up * g, 0)
        sum_half += tl.sum(s, 0)
    tl.store(of_expert + study * host + n, sum_expert, n < host)
    tl.store(of_half + study * host + n, sum_half, n < host)


def tiles(rows: int, bytes_each: int) -> tuple[int, int, int, int]:
    """BLOCK_M, BLOCK_N, BLOCK_K and warps for so many rows of numbers of so many bytes."""
    if rows <= 16:  # decoding: what counts is that many programs read the weight at once
        return 16, 32, 128, 4
    return (128, 128, 64, 8) if bytes_each == 2 else (64, 64, 32, 8)


def forward(
    factor: Tensor, weight: Tensor, hidden: Tensor, expert: Tensor, half: Tensor, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """h' (batch text host), and the gate where it is to be kept.

    factor (batch text inner), weight (host inner): their product is the hidden half of the gate. The product runs in
    their dtype, the rest in float32.
    """
    batch, text, host = hidden.shape
    rows, inner = batch * text, factor.shape[-1]
    factor, weight, hidden, expert, half = (each.contiguous() for each in (factor, weight, hidden, expert, half))
    fused = torch.empty_like(hidden)
    gate = torch.empty(hidden.shape, dtype=weight.dtype, device=hidden.device) if keep else None
    block_m, block_n, block_k, warps = tiles(rows, factor.element_size())
    grid = (triton.cdiv(rows, block_m) * triton.cdiv(host, block_n),)
    _forward_kernel[grid](
        factor, weight, hidden, expert, half, fused, fused if gate is None else gate, rows, text, host, inner,
        KEEP=keep, PRECISION="ieee", BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, GROUP=8,
        num_warps=warps, num_stages=3,
    )  # fmt: skip
    return fused, gate


def backward(
    upstream: Tensor, hidden: Tensor, expert: Tensor, gate: Tensor, half: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """∂h without what the product adds, ∂expert, ∂ of the gate's argument (batch text host), and its sum over the text.

    half: the dtype of the last.
    """
    batch, text, host = hidden.shape
    upstream, hidden, expert = upstream.contiguous(), hidden.contiguous(), expert.contiguous()
    of_hidden, of_sum = torch.empty_like(hidden), torch.empty_like(gate)
    of_expert, of_half = torch.empty_like(expert), torch.empty(expert.shape, dtype=half, device=expert.device)
    block = 64
    _backward_kernel[(batch, triton.cdiv(host, block))](
        upstream, hidden, expert, gate, of_hidden, of_sum, of_expert, of_half, text, host, BLOCK_M=32, BLOCK_N=block
    )
    return of_hidden, of_expert, of_sum, of_half
