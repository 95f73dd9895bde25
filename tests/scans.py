"""Inputs and results of selective scans, for the tests of its backends."""

from typing import Any

import torch
from torch import Tensor

from rrg.ops.selective_scan import cpu, selective_scan

Inputs = dict[str, Tensor]
BACKENDS_HERE = ["naive", "chunked", *(["cpu"] if cpu.AVAILABLE else [])]


def drawn(
    batch: int = 2, width: int = 3, length: int = 7, states: int = 2, groups: int = 2, seed: int = 0, **kind: Any
) -> Inputs:
    """Leaf tensors that want a gradient. `width`: channels of a group."""
    generator = torch.Generator().manual_seed(seed)
    channels, kind = width * groups, {"dtype": torch.float64, **kind}
    long, grouped = (batch, channels, length), (batch, groups, states, length)
    shapes = {"u": long, "delta": long, "A": (channels, states), "B": grouped, "C": grouped, "D": (channels,)}
    shapes |= {"z": long, "delta_bias": (channels,)}
    tensors = {name: torch.randn(shape, generator=generator, dtype=kind["dtype"]) for name, shape in shapes.items()}
    tensors["A"] = -tensors["A"].exp()
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def results(inputs: Inputs, backend: str, upstream: Tensor | None = None, **options: Any) -> Inputs:
    """`y` and the gradient of every input, by name."""
    y = selective_scan(**inputs, backend=backend, **options)  # type: ignore[arg-type]
    upstream = (
        torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view(y.shape) if upstream is None else upstream
    )
    return {"y": y.detach()} | dict(
        zip(inputs, torch.autograd.grad((y * upstream).sum(), list(inputs.values())), strict=True)
    )


def assert_same(found: Inputs, expected: Inputs, **tolerance: float) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
