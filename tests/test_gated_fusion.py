"""The gated fusion's one autograd function against the equations as printed: outputs and every gradient."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rrg.errors import UsageError
from rrg.ops import gated_fusion as ops
from rrg.ops.gated_fusion import expert_half, gated_fusion, naive

BACKENDS = pytest.mark.parametrize("backend", ["torch", "cpu"])  # Triton's are in triton_cases
NAMES = ("hidden", "expert", "of_hidden", "of_expert", "bias")


def drawn(batch: int, text: int, host: int, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, text, host), (batch, host), (host, host), (host, host), (host,))
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for name, shape in zip(NAMES, shapes, strict=True)
    }


def printed(t: dict[str, Tensor]) -> Tensor:
    return naive.gated_fusion(t["hidden"], t["expert"], torch.cat([t["of_hidden"], t["of_expert"]], dim=1), t["bias"])


def fused(t: dict[str, Tensor], backend: Any = "auto") -> Tensor:
    half = expert_half(t["expert"], t["of_expert"], t["bias"])
    return gated_fusion(t["hidden"], t["expert"], half, t["of_hidden"], backend=backend)


def gradients(result: Tensor, t: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return dict(zip(t, torch.autograd.grad(result, list(t.values()), upstream.to(result)), strict=True))


def assert_near_float64(
    t: dict[str, Tensor], dtype: torch.dtype, tolerance: float, backend: Any = "auto", least: float = 0
) -> None:
    """Result and gradients in `dtype` against the equations in float64. Weights are made smaller before.

    tolerance: of each element, and of the largest of its tensor, or of `least`; twice that for gradients.
    """
    scaled = {name: value.detach() * (0.1 if value.ndim == 2 else 1) for name, value in t.items()}
    t = {name: value.to(dtype).requires_grad_() for name, value in scaled.items()}
    exact = {name: value.detach().double().requires_grad_() for name, value in t.items()}
    found, expected = fused(t, backend), printed(exact)
    assert found.dtype == dtype
    bound = tolerance * float(expected.detach().abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=bound)
    theirs = gradients(expected, exact, 0)
    for name, gradient in gradients(found, t, 0).items():
        assert gradient.dtype == dtype
        bound = 2 * tolerance * max(float(theirs[name].abs().max()), least)
        torch.testing.assert_close(gradient.double(), theirs[name], rtol=tolerance, atol=bound, msg=name)


@BACKENDS
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.sampled_from([1, 2, 63, 65]), st.sampled_from([1, 2, 17, 64, 300]), st.integers(0, 999))
def test_outputs_and_every_gradient_are_those_of_the_equations(
    backend: str, batch: int, text: int, host: int, seed: int
) -> None:
    t = drawn(batch, text, host, seed)
    expected, found = printed(t), fused(t, backend)
    torch.testing.assert_close(found, expected)
    ours = gradients(found, t, seed)
    for name, gradient in gradients(expected, t, seed).items():
        torch.testing.assert_close(ours[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_other_dtypes_stay_near_float64(dtype: torch.dtype, tolerance: float) -> None:
    assert_near_float64(drawn(2, 65, 32, 0), dtype, tolerance)


def test_the_compiled_epilogue_stays_near_float64_where_the_gate_is_extreme() -> None:
    t = drawn(3, 65, 300, 0)
    t["bias"] = torch.linspace(-120, 120, 300, dtype=torch.float64)
    assert_near_float64(t, torch.float32, 1e-5, "cpu")


@BACKENDS
def test_a_low_rank_weight_is_the_product_of_its_halves(backend: Any) -> None:
    t = drawn(2, 5, 8, 0)
    down, up = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((3, 8), (8, 3)))
    half = expert_half(t["expert"], down, t["bias"], up)
    torch.testing.assert_close(half, expert_half(t["expert"], up @ down, t["bias"]))
    torch.testing.assert_close(half, t["expert"] @ (up @ down).T + t["bias"])
    half = expert_half(t["expert"], t["of_expert"], t["bias"])
    whole = gated_fusion(t["hidden"], t["expert"], half, up @ down, backend=backend)
    split = gated_fusion(t["hidden"], t["expert"], half, down, up, backend=backend)
    torch.testing.assert_close(split, whole)
    leaves = [t["hidden"], t["expert"], t["of_expert"], down, up]
    upstream = torch.randn_like(whole)
    for one, other in zip(
        torch.autograd.grad(whole, leaves, upstream, retain_graph=True),
        torch.autograd.grad(split, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_it_keeps_one_hidden_state_for_backward_where_the_equations_keep_four() -> None:
    def kept(run: object, t: dict[str, Tensor]) -> float:
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = run(t)  # type: ignore[operator]
        own = {value.untyped_storage().data_ptr() for value in t.values()}
        size = t["hidden"].untyped_storage().nbytes()
        total = sum(n for pointer, n in seen.items() if pointer not in own and n >= size)
        del result
        return total / size

    t = drawn(2, 64, 16, 0, torch.float32)
    assert kept(fused, t) == 1.0
    assert kept(lambda t: fused(t, "cpu"), t) == 1.0
    assert kept(printed, t) >= 4.0


@pytest.mark.parametrize(("autocast", "backend"), [(False, "torch"), (True, "torch"), (False, "cpu")])
def test_without_gradients_it_gives_the_same_bits_and_leaves_its_inputs(autocast: bool, backend: str) -> None:
    t = drawn(2, 33, 16, 0, torch.float32)
    before = {name: value.detach().clone() for name, value in t.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected = fused(t, backend)
        with torch.no_grad():
            alone = fused(t, backend)
        with torch.inference_mode():
            inferred = fused(t, backend)
    assert torch.equal(alone, expected.detach())
    assert torch.equal(inferred, expected.detach())
    assert all(torch.equal(value, before[name]) for name, value in t.items())


@BACKENDS
def test_a_closed_gate_is_the_identity_bit_for_bit(backend: Any) -> None:
    t = drawn(2, 7, 16, 0, torch.float32)
    shut = torch.full((2, 16), -torch.inf)
    assert torch.equal(gated_fusion(t["hidden"], t["expert"], shut, t["of_hidden"], backend=backend), t["hidden"])


@BACKENDS
def test_inputs_may_lie_in_any_order(backend: str) -> None:
    t = drawn(3, 65, 20, 0)
    apart = {name: value.detach().transpose(0, -1).contiguous().transpose(0, -1) for name, value in t.items()}
    apart = {name: value.requires_grad_() for name, value in apart.items()}
    torch.testing.assert_close(fused(apart, backend), fused(t, backend))
    theirs = gradients(fused(t, backend), t, 0)
    for name, gradient in gradients(fused(apart, backend), apart, 0).items():
        torch.testing.assert_close(gradient, theirs[name], msg=name)


def test_threads_change_no_bit_of_the_compiled_epilogue() -> None:
    threads = torch.get_num_threads()
    inputs = [torch.randn(3, 129, 300), torch.randn(3, 300), torch.randn(3, 300), torch.zeros(300, 300)]
    results = []
    try:
        for count in 1, 2, 3:
            torch.set_num_threads(count)
            leaves = [each.clone().requires_grad_() for each in inputs]
            result = gated_fusion(*leaves, backend="cpu")  # type: ignore[arg-type]
            results.append([result, *torch.autograd.grad(result, leaves[1:3], torch.ones(result.shape))])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_large_float32_states_take_the_compiled_epilogue() -> None:
    large = torch.empty(1, ops.LARGE // 64, 64)
    assert ops.choice(large, torch.float32) == ("cpu" if ops.NUMBA else "torch")
    for hidden, dtype in ((large[:, 1:], torch.float32), (large, torch.bfloat16), (large.to("meta"), torch.float32)):
        assert ops.choice(hidden, dtype) == "torch"
    assert ops.choice(large.bfloat16(), torch.bfloat16) == "torch"


def test_the_compiled_epilogue_runs_where_tensors_hold_no_memory() -> None:
    with FakeTensorMode() as mode:
        t = {name: mode.from_tensor(value) for name, value in drawn(2, 9, 16, 0).items()}
        assert {name: each.shape for name, each in gradients(fused(t, "cpu"), t, 0).items()} == {
            name: value.shape for name, value in t.items()
        }


def test_under_autocast_the_product_is_bfloat16_and_the_result_is_not() -> None:
    t = drawn(2, 33, 16, 0, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fused(t)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, printed(t), rtol=0.05, atol=0.05)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients(found, t, 0).values())


# dynamo itself makes an instance of every autograd function that it traces
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@BACKENDS
def test_it_compiles_whole_and_gives_the_same(backend: str) -> None:
    t = drawn(2, 9, 16, 0, torch.float32)
    compiled = torch.compile(lambda t: fused(t, backend), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(t), fused(t))
    ours, theirs = gradients(compiled(t), t, 0), gradients(fused(t), t, 0)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, msg=name)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hidden", lambda t: t[0], r"hidden is \(5, 8\); expected 3 axes"),
        ("hidden", lambda t: t[:, :0], r"hidden is \(2, 0, 8\); expected 3 axes, none empty but the batch"),
        ("hidden", lambda t: t.long(), r"hidden is torch.int64; expected floating-point"),
        ("weight", lambda t: t[:3], r"weight is \(3, 8\); expected it square, or with `up`"),
        ("expert", lambda t: t[:1], r"expert is \(1, 8\); the others ask for \(2, 8\)"),
        ("expert_half", lambda t: t[:, :3], r"expert_half is \(2, 3\); the others ask for \(2, 8\)"),
        ("weight", lambda t: t[:, :3], r"weight is \(8, 3\); the others ask for \(8, 8\)"),
        ("weight", lambda t: t.long(), r"weight is torch.int64; expected floating-point"),
        ("weight", lambda t: t.to("meta"), r"weight is on meta; hidden is on cpu"),
        ("up", lambda t: torch.ones(8, 3), r"up is \(8, 3\); the others ask for \(8, 8\)"),
        ("backend", lambda t: "cuda", r"backend='cuda'; expected auto, torch, cpu or triton"),
    ],
)
def test_what_does_not_fit_is_named(name: str, change: Any, message: str) -> None:
    t = drawn(2, 5, 8, 0)
    arguments = {"hidden": t["hidden"], "expert": t["expert"], "expert_half": t["expert"], "weight": t["of_hidden"]}
    arguments[name] = change(arguments.get(name))
    with pytest.raises(UsageError, match=f"gated_fusion: {message}"):
        gated_fusion(**arguments)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bias", lambda t: t[:1], r"bias is \(1,\); the others ask for \(8,\)"),  # it would count for all channels
        ("expert", lambda t: t[0], r"expert is \(8,\); expected 2 axes"),
        ("weight", lambda t: t[:3], r"weight is \(3, 8\); expected it square, or with `up`"),
        ("weight", lambda t: t.to("meta"), r"weight is on meta; expert is on cpu"),
    ],
)
def test_what_does_not_fit_the_experts_half_is_named(name: str, change: Any, message: str) -> None:
    t = drawn(2, 5, 8, 0)
    arguments = {"expert": t["expert"], "weight": t["of_expert"], "bias": t["bias"]}
    with pytest.raises(UsageError, match=f"expert_half: {message}"):
        expert_half(**{**arguments, name: change(arguments[name])})


def test_no_study_is_no_error() -> None:
    for backend in ops.BACKENDS[:2]:
        t = drawn(0, 5, 8, 0)
        assert fused(t, backend).shape == (0, 5, 8)
        assert gradients(fused(t, backend), t, 0)["of_hidden"].abs().sum() == 0


def test_the_compiled_epilogue_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    t = drawn(2, 5, 8, 0, torch.bfloat16)
    with pytest.raises(UsageError, match=r"backend='cpu' given torch.bfloat16 on cpu, products in torch.bfloat16; exp"):
        fused(t, "cpu")
    with torch.autocast("cpu"), pytest.raises(UsageError, match=r"given torch.float32 on cpu, products in torch.bfl"):
        fused(drawn(2, 5, 8, 0, torch.float32), "cpu")
    monkeypatch.setattr(ops, "NUMBA", False)
    with pytest.raises(UsageError, match=r"backend='cpu' needs numba: pip install numba"):
        fused(t, "cpu")


def test_a_frozen_weight_gets_no_gradient_and_costs_none() -> None:
    t = drawn(2, 5, 8, 0)
    t["of_hidden"].requires_grad_(False)
    fused(t).sum().backward()
    assert t["of_hidden"].grad is None
    assert t["hidden"].grad is not None
