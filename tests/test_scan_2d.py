"""The four directions of a map at once: each backend against four loops over time, by hand."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rrg.errors import UsageError
from rrg.ops.selective_scan import selective_scan, selective_scan_2d
from scans import BACKENDS_HERE, Inputs, assert_same


def drawn(
    batch: int = 2, channels: int = 3, height: int = 3, width: int = 4, states: int = 2, seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Inputs:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    film, grouped = (batch, channels, height, width), (batch, 4, states, height, width)
    shapes = {"u": film, "delta": (batch, 4, *film[1:]), "A": (4 * channels, states), "B": grouped, "C": grouped}
    shapes |= {"D": (4 * channels,), "delta_bias": (4 * channels,)}
    tensors = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}
    tensors["A"] = -tensors["A"].exp()
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def by_hand(inputs: Inputs) -> Tensor:
    """Each direction's own tensors, scanned by the loop and put back."""
    channels = inputs["u"].shape[1]
    turns = (lambda x: x, lambda x: x.mT, lambda x: x.flip(-2, -1), lambda x: x.mT.flip(-2, -1))
    backs = (lambda x: x, lambda x: x.mT, lambda x: x.flip(-2, -1), lambda x: x.flip(-2, -1).mT)
    total = torch.zeros_like(inputs["u"])
    for k, (turn, back) in enumerate(zip(turns, backs, strict=True)):
        own = slice(k * channels, (k + 1) * channels)
        u, delta, B, C = (turn(each) for each in (inputs["u"], *(inputs[name][:, k] for name in ("delta", "B", "C"))))
        y = selective_scan(
            u.flatten(2), delta.flatten(2), inputs["A"][own], B.flatten(2).unsqueeze(1), C.flatten(2).unsqueeze(1),
            inputs["D"][own] if "D" in inputs else None,
            delta_bias=inputs["delta_bias"][own] if "delta_bias" in inputs else None, backend="naive",
        )  # fmt: skip
        total = total + back(y.view(u.shape))
    return total


def results(y: Tensor, inputs: Inputs) -> Inputs:
    upstream = torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
    gradients = torch.autograd.grad((y * upstream).sum(), list(inputs.values()))
    return {"y": y.detach()} | dict(zip(inputs, gradients, strict=True))


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2), channels=st.sampled_from([1, 3, 40]), height=st.integers(1, 9), width=st.integers(1, 9),
    states=st.sampled_from([1, 3]), seed=st.integers(0, 99), without=st.sets(st.sampled_from(["D", "delta_bias"])),
    last=st.booleans(),
)  # fmt: skip
def test_each_backend_is_four_loops(
    backend: Any, batch: int, channels: int, height: int, width: int, states: int, seed: int,
    without: set[str], last: bool,
) -> None:  # fmt: skip
    inputs = drawn(batch, channels, height, width, states, seed)
    inputs = {name: tensor for name, tensor in inputs.items() if name not in without}
    if last:  # channels side by side, as a model that keeps them last hands its maps over
        u = inputs["u"].detach().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        delta = inputs["delta"].detach().permute(1, 0, 3, 4, 2).contiguous().permute(1, 0, 4, 2, 3)
        inputs |= {"u": u.requires_grad_(), "delta": delta.requires_grad_()}
    found = results(selective_scan_2d(**inputs, backend=backend), inputs)
    assert_same(found, results(by_hand(inputs), inputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_short_floats_are_added_up_in_float32(backend: Any) -> None:
    inputs = {name: tensor.detach().bfloat16() for name, tensor in drawn(height=9, width=9, channels=20).items()}
    exact = by_hand({name: tensor.double() for name, tensor in inputs.items()})
    y = selective_scan_2d(**inputs, backend=backend)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=2**-7)


def test_a_tensor_that_does_not_fit_is_named() -> None:
    inputs = drawn()
    for name, change, message in (
        ("u", lambda t: t[0], r"u is \(3, 3, 4\); expected 4 axes"),
        ("delta", lambda t: t[:, :3], r"delta is \(2, 3, 3, 3, 4\); the others ask for \(2, 4, 3, 3, 4\)"),
        ("B", lambda t: t[..., :3], r"B is \(2, 4, 2, 3, 3\); the others ask for \(2, 4, 2, 3, 4\)"),
        ("D", lambda t: t[:3], r"D is \(3,\); the others ask for \(12,\)"),
        ("C", lambda t: t.long(), r"C is torch.int64; expected floating-point"),
    ):
        with pytest.raises(UsageError, match=f"selective_scan_2d: {message}"):
            selective_scan_2d(**{**inputs, name: change(inputs[name].detach())})
