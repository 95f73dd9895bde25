"""The selective scan: the loop against the equations by hand, the other backends against the loop."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrg.errors import UsageError
from rrg.ops.selective_scan import choice, chunked, cpu, selective_scan
from scans import assert_same, drawn, results


def test_one_step_by_hand() -> None:
    given = {
        "u": torch.tensor([[[3.0]]]), "delta": torch.tensor([[[0.5]]]), "A": torch.tensor([[-1.0, -2.0]]),
        "B": torch.tensor([[[[1.0], [4.0]]]]), "C": torch.tensor([[[[2.0], [-1.0]]]]), "D": torch.tensor([10.0]),
    }  # fmt: skip
    y = selective_scan(**given, softplus=False, backend="naive")
    assert y.item() == pytest.approx(0.5 * 3.0 * (2.0 * 1.0 - 1.0 * 4.0) + 10.0 * 3.0)


def test_a_constant_input_fills_the_state_as_a_geometric_series() -> None:
    length, step, decay = 12, 0.3, -1.7
    ones = torch.ones(1, 1, length, dtype=torch.float64)
    A = torch.full((1, 1), decay, dtype=torch.float64)
    bias, z = torch.tensor([step - 0.1], dtype=torch.float64), torch.full_like(ones, 2.0)
    y = selective_scan(
        ones, 0.1 * ones, A, ones[None], ones[None], z=z, delta_bias=bias, softplus=False, backend="naive"
    )
    ratio = torch.tensor(step * decay, dtype=torch.float64).exp()
    series = torch.stack([step * (1 - ratio**t) / (1 - ratio) for t in range(1, length + 1)])
    torch.testing.assert_close(y[0, 0], series * 2.0 * torch.tensor(2.0, dtype=torch.float64).sigmoid())


def test_channels_read_the_B_and_C_of_their_group() -> None:
    inputs = drawn(groups=3, width=2)
    whole = selective_scan(**inputs, backend="naive")
    for group in range(3):
        part = slice(2 * group, 2 * group + 2)
        one = {name: inputs[name][:, part] for name in ("u", "delta", "z")}
        one |= {name: inputs[name][part] for name in ("A", "D", "delta_bias")}
        one |= {name: inputs[name][:, group : group + 1] for name in ("B", "C")}
        torch.testing.assert_close(selective_scan(**one, backend="naive"), whole[:, part])


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3), width=st.sampled_from([1, 2, 5]), length=st.sampled_from([1, 2, 3, 17, 63, 64, 65, 200]),
    states=st.sampled_from([1, 2, 5, 64]), groups=st.integers(1, 4), seed=st.integers(0, 99),
    without=st.sets(st.sampled_from(["D", "z", "delta_bias"])), softplus=st.booleans(), strided=st.booleans(),
    held=st.sampled_from([2**24, 200]),
)  # fmt: skip
def test_chunked_is_the_loop(
    batch: int, width: int, length: int, states: int, groups: int, seed: int,
    without: set[str], softplus: bool, strided: bool, held: int,
) -> None:  # fmt: skip
    inputs = drawn(batch, width, length, states if length < 200 else 1, groups, seed)
    inputs = {name: tensor for name, tensor in inputs.items() if name not in without}
    if not softplus:  # a step is not negative
        inputs |= {n: inputs[n].detach().abs().requires_grad_() for n in inputs.keys() & {"delta", "delta_bias"}}
    if strided:
        turned = {name: tensor.detach().transpose(0, -1).contiguous() for name, tensor in inputs.items()}
        inputs = {name: tensor.transpose(0, -1).requires_grad_() for name, tensor in turned.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "HELD", held)
        found = results(inputs, "chunked", softplus=softplus)
    assert_same(found, results(inputs, "naive", softplus=softplus), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("available", "expected"), [(True, "cpu"), (False, "chunked")])
def test_auto_takes_the_compiled_backend_where_numba_is_installed(
    available: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "AVAILABLE", available)
    inputs = drawn()
    assert choice(inputs["u"]) == expected
    assert torch.equal(selective_scan(**inputs), selective_scan(**inputs, backend=expected))  # type: ignore[arg-type]


def test_auto_takes_plain_pytorch_on_the_meta_device() -> None:
    assert choice(torch.empty(1, 1, 1, device="meta")) == "chunked"


# A step of 1e4 forgets everything, one of exp(-200) keeps everything; at A = 0 the state is a plain sum.
@pytest.mark.parametrize("backend", ["chunked", "cpu"])
@pytest.mark.parametrize("delta", [1e4, 80.0, 1e-6, -200.0, -1e4])
@pytest.mark.parametrize("decay", [0.0, -1e-8, -1.0, -1e3])
def test_extreme_steps_are_as_in_the_loop_and_finite(delta: float, decay: float, backend: str) -> None:
    inputs = drawn(length=65, dtype=torch.float32)
    inputs["delta"] = (inputs["delta"].detach() + delta).requires_grad_()
    inputs["A"] = (0.1 * inputs["A"].detach().clamp(-1) * abs(decay) + decay).requires_grad_()
    found, expected = results(inputs, backend), results(inputs, "naive")
    assert all(value.isfinite().all() for value in found.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * (1 + value.abs().max().item()))


@pytest.mark.parametrize("backend", ["naive", "chunked", "cpu"])
def test_the_state_of_bfloat16_inputs_is_float32(backend: str) -> None:
    inputs = {name: tensor.detach().bfloat16() for name, tensor in drawn(length=65).items()}
    y = selective_scan(**inputs, backend=backend)  # type: ignore[arg-type]
    exact = selective_scan(**{name: tensor.double() for name, tensor in inputs.items()}, backend="naive")
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-4)  # rounded once, at the end


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_gradients_have_the_dtype_of_their_input(backend: str, dtype: torch.dtype) -> None:
    inputs = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in drawn(length=9).items()}
    found, expected = results(inputs, backend), results(inputs, "naive")
    assert all(value.dtype == dtype for value in found.values())
    assert_same(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_autocast_changes_nothing(backend: str) -> None:
    inputs = drawn(length=17, dtype=torch.float32)
    expected = results(inputs, backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(results(inputs, backend), expected, rtol=0, atol=0)


@pytest.mark.parametrize("held", [2**24, 50])
@pytest.mark.parametrize("backend", ["naive", "chunked", "cpu"])
def test_on_the_meta_device(backend: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "HELD", held)
    inputs = {name: tensor.detach().to("meta").requires_grad_() for name, tensor in drawn(length=17).items()}
    y = selective_scan(**inputs, backend=backend)  # type: ignore[arg-type]
    y.sum().backward()
    assert y.is_meta
    assert y.shape == inputs["u"].shape
    assert all(tensor.grad is not None and tensor.grad.shape == tensor.shape for tensor in inputs.values())


def test_a_long_sequence_keeps_no_states_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = drawn(length=64, states=16)
    kept: list[int] = []
    for held in (2**24, 2**10):
        monkeypatch.setattr(chunked, "HELD", held)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            selective_scan(**inputs, backend="chunked")
        kept.append(max(sizes))
    assert kept[0] == inputs["u"].numel() * 16
    assert kept[1] <= inputs["B"].numel()


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_an_empty_batch_gives_an_empty_result(backend: str) -> None:
    found = results(drawn(batch=0), backend)
    assert found["y"].shape == (0, 6, 7)
    assert not found["A"].any()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("u", lambda t: t[0], r"u is \(6, 7\); expected 3 axes"),
        ("u", lambda t: t[:, :, :0], r"u is \(2, 6, 0\); expected 3 axes, none empty"),
        ("A", lambda t: t[:, 0], r"A is \(6,\); expected 2 axes"),
        ("A", lambda t: t[:5], r"A is \(5, 2\); the others ask for \(6, 2\)"),
        ("B", lambda t: t[:, 0], r"B is \(2, 2, 7\); expected 4 axes"),
        ("B", lambda t: t[..., :6], r"B is \(2, 2, 2, 6\); the others ask for \(2, 2, 2, 7\)"),
        ("C", lambda t: t[:, :1], r"C is \(2, 1, 2, 7\); the others ask for \(2, 2, 2, 7\)"),
        ("delta", lambda t: t[:1], r"delta is \(1, 6, 7\); the others ask for \(2, 6, 7\)"),
        ("z", lambda t: t[:, :5], r"z is \(2, 5, 7\); the others ask for \(2, 6, 7\)"),
        ("D", lambda t: t[:5], r"D is \(5,\); the others ask for \(6,\)"),
        ("delta_bias", lambda t: t.view(2, 3), r"delta_bias is \(2, 3\); the others ask for \(6,\)"),
        ("delta", lambda t: t.long(), r"delta is torch.int64; expected floating-point"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(name: str, change: Any, message: str) -> None:
    inputs = drawn()
    inputs[name] = change(inputs[name].detach())
    with pytest.raises(UsageError, match=f"selective_scan: {message}"):
        selective_scan(**inputs)


def test_groups_that_do_not_divide_the_channels() -> None:
    inputs = drawn(groups=1, width=5)
    inputs |= {name: inputs[name].expand(-1, 2, -1, -1) for name in ("B", "C")}
    with pytest.raises(UsageError, match="2 groups of B and C do not divide 5 channels of u"):
        selective_scan(**inputs)


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("mamba-ssm", "given u as torch.float64 on cpu; it computes float32"),
        ("triton", "needs triton: pip install triton"),
    ],
)
def test_a_backend_that_is_not_there(backend: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrg.ops.selective_scan.TRITON", False)
    with pytest.raises(UsageError, match=f"backend='{backend}' {message}"):
        selective_scan(**drawn(), backend=backend)


def test_triton_wants_a_gpu() -> None:
    pytest.importorskip("triton")
    with pytest.raises(UsageError, match="backend='triton' given u on cpu; expected it on a GPU"):
        selective_scan(**drawn(), backend="triton")


def test_an_unknown_backend() -> None:
    with pytest.raises(UsageError, match="backend='cuda'; expected auto or one of naive, chunked, cpu"):
        selective_scan(**drawn(), backend="cuda")  # type: ignore[arg-type]
