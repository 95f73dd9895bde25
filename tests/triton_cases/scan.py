"""Run by test_triton.py. Every result starts as NaN, so that what is not written shows."""

import os

import pytest
import torch

from rrg.ops.selective_scan import op, selective_scan, selective_scan_2d
from scans import Inputs, assert_same, drawn, results
from test_scan_2d import by_hand
from test_scan_2d import drawn as drawn_2d
from test_scan_2d import results as results_2d

DEVICE = os.environ["RRG_TRITON_DEVICE"]


@pytest.fixture(autouse=True)
def memory_of_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    def nan(*shape: int, dtype: torch.dtype, device: torch.device | None = None) -> torch.Tensor:
        return torch.full(shape, torch.nan, dtype=dtype, device=device)

    monkeypatch.setattr(op, "empty", nan)


def on_device(inputs: Inputs) -> Inputs:
    return {name: tensor.detach().to(DEVICE).requires_grad_() for name, tensor in inputs.items()}


LATER = pytest.mark.slow  # in the interpreter


@pytest.mark.parametrize(
    ("length", "states"),
    [(1, 3), (33, 3), (65, 1)] + [pytest.param(n, 1, marks=LATER) for n in (2, 63, 64, 1000, 3136)],
)
def test_the_result_and_every_gradient_are_those_of_the_loop(length: int, states: int) -> None:
    inputs = on_device(drawn(1, 3, length, states, groups=2))
    assert_same(results(inputs, "triton"), results(inputs, "naive"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("without", "softplus", "last"), [({"z"}, True, True), ({"D", "delta_bias"}, False, False), (set(), True, False)]
)
def test_options_and_layouts(without: set[str], softplus: bool, last: bool) -> None:
    inputs = on_device({name: tensor for name, tensor in drawn(length=9, width=20).items() if name not in without})
    if not softplus:  # a step is not negative
        inputs |= {n: inputs[n].detach().abs().requires_grad_() for n in inputs.keys() & {"delta", "delta_bias"}}
    if last:
        long = inputs.keys() & {"u", "delta", "z"}
        inputs |= {name: inputs[name].detach().mT.contiguous().mT.requires_grad_() for name in long}
    found, expected = (results(inputs, backend, softplus=softplus) for backend in ("triton", "naive"))
    assert_same(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("delta", [1e4, -200.0])
@pytest.mark.parametrize("decay", [0.0, -1e3])
def test_extreme_steps_in_float32(delta: float, decay: float) -> None:
    inputs = drawn(1, length=33, dtype=torch.float32)
    inputs["delta"] = (inputs["delta"].detach() + delta).requires_grad_()
    inputs["A"] = (0.1 * inputs["A"].detach().clamp(-1) * abs(decay) + decay).requires_grad_()
    inputs = on_device(inputs)
    found, expected = results(inputs, "triton"), results(inputs, "naive")
    assert all(value.isfinite().all() for value in found.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * (1 + value.abs().max().item()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_computed_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    inputs = on_device({name: tensor.detach().to(dtype) for name, tensor in drawn(1, length=33, states=1).items()})
    found = results(inputs, "triton")
    exact = results({name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}, "naive")
    for name, value in exact.items():
        assert found[name].dtype == dtype
        assert (found[name].double() - value).abs().max() <= 2 * torch.finfo(dtype).eps * value.abs().max().clamp(min=1)


@pytest.mark.parametrize("size", [(20, 1, 1), (1, 5, 8), pytest.param((40, 7, 11), marks=LATER)])
def test_four_directions_of_a_map(size: tuple[int, int, int]) -> None:
    inputs = on_device(drawn_2d(1, *size))
    found = results_2d(selective_scan_2d(**inputs, backend="triton"), inputs)
    assert_same(found, results_2d(by_hand(inputs), inputs), rtol=1e-9, atol=1e-9)


def test_an_empty_batch() -> None:
    found = results(on_device(drawn(batch=0)), "triton")
    assert found["y"].shape == (0, 6, 7)
    assert not found["A"].any()


def test_it_repeats_bit_by_bit_and_compiles_whole() -> None:
    inputs = on_device(drawn(length=33, dtype=torch.float32))
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    y = compiled(**inputs, backend="triton")
    y.sum().backward()
    expected = results(inputs, "triton", torch.ones_like(y))
    assert torch.equal(y, expected["y"])
    assert all(torch.equal(tensor.grad, expected[name]) for name, tensor in inputs.items())
