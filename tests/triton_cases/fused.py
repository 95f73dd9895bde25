"""Run by test_triton.py: the gated fusion in Triton against the equations as printed."""

import os

import pytest
import torch
from torch import Tensor

from rrg.ops.gated_fusion import gated_fusion
from test_gated_fusion import assert_near_float64, drawn, fused, printed

DEVICE = os.environ["RRG_TRITON_DEVICE"]
NO_BITS = pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter takes the products of bfloat16's bits")


def on_device(t: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to(DEVICE, torch.float32).requires_grad_() for name, value in t.items()}


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 17, 33), (3, 70, 64), (1, 5, 130)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 3e-2, marks=NO_BITS), (torch.float16, 4e-3)],
)
def test_outputs_and_every_gradient(size: tuple[int, int, int], dtype: torch.dtype, tolerance: float) -> None:
    assert_near_float64(on_device(drawn(*size, seed=0)), dtype, tolerance, "triton", least=1)


def test_a_low_rank_weight_and_one_token() -> None:
    t = on_device(drawn(3, 1, 20, 0))
    down, up = (torch.randn(shape, device=DEVICE).mul_(0.3).requires_grad_() for shape in ((4, 20), (20, 4)))
    split = gated_fusion(t["hidden"], t["expert"], t["expert"], down, up, backend="triton")
    whole = gated_fusion(t["hidden"], t["expert"], t["expert"], up @ down, backend="torch")
    torch.testing.assert_close(split, whole)
    leaves = [t["hidden"], t["expert"], down, up]
    pairs = (torch.autograd.grad(each.square().sum(), leaves) for each in (split, whole))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_closed_gate_is_the_identity_bit_for_bit() -> None:
    t = on_device(drawn(2, 7, 16, 0))
    shut = torch.full((2, 16), -torch.inf, device=DEVICE)
    assert torch.equal(gated_fusion(t["hidden"], t["expert"], shut, t["of_hidden"], backend="triton"), t["hidden"])


def test_without_gradients_the_gate_is_not_kept() -> None:
    t = on_device(drawn(2, 7, 16, 0))
    with torch.no_grad():
        torch.testing.assert_close(fused(t, "triton"), printed(t))
