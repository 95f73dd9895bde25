"""The compiled CPU backend of the selective scan, judged against the loop in float64. All its memory starts as NaN."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from rrg.errors import UsageError
from rrg.ops import threads
from rrg.ops.compiled import CONTRACT, compiled
from rrg.ops.selective_scan import cpu, op, selective_scan
from scans import Inputs, assert_same, drawn, results

pytest.importorskip("numba")


@pytest.fixture(autouse=True)
def memory_of_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "empty", lambda *shape, dtype, **_: torch.full(shape, torch.nan, dtype=dtype))


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cpu, "GRAIN", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def assert_exact(inputs: Inputs, rtol: float = 1e-5, **options: Any) -> None:
    """`rtol` is of the largest element, or of 1, the size of the inputs: a sum over time or channels may cancel."""
    found = results(inputs, "cpu", **options)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    for name, value in results(exact, "naive", **options).items():
        error, largest = (found[name].double() - value).abs().max(), value.abs().max()
        assert error <= rtol * max(largest, 1), f"{name}: off by {error}; its largest element is {largest}"


@pytest.mark.parametrize("states", [1, 4, 16])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 1000])
def test_the_result_and_every_gradient_are_those_of_the_loop(length: int, states: int) -> None:
    size = {"batch": 1, "width": 5, "groups": 1} if length > 65 else {"batch": 2, "width": 19, "groups": 3}
    assert_exact(drawn(length=length, states=states, dtype=torch.float32, **size))
    assert_exact(drawn(length=length, states=states, **size), rtol=1e-12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 3), width=st.sampled_from([1, 2, 16, 33]), length=st.sampled_from([1, 2, 3, 17, 64, 130]),
    states=st.sampled_from([1, 2, 5, 64]), groups=st.integers(1, 4), seed=st.integers(0, 99),
    without=st.sets(st.sampled_from(["D", "z", "delta_bias"])), softplus=st.booleans(),
    memory=st.sampled_from(["channels last", "time last", "strided"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_every_option_and_layout_is_the_loop(
    batch: int, width: int, length: int, states: int, groups: int, seed: int,
    without: set[str], softplus: bool, memory: str, dtype: torch.dtype,
) -> None:  # fmt: skip
    inputs = drawn(batch, width, length, states if length < 130 else 1, groups, seed, dtype=dtype)
    inputs = {name: tensor.detach() for name, tensor in inputs.items() if name not in without}
    if not softplus:  # a step is not negative
        inputs |= {name: inputs[name].abs() for name in inputs.keys() & {"delta", "delta_bias"}}
    if memory == "channels last":
        inputs |= {n: inputs[n].mT.contiguous().mT for n in inputs.keys() & {"u", "delta", "z", "B", "C"}}
    if memory == "strided":
        inputs = {name: torch.stack([tensor, tensor], dim=-1)[..., 0] for name, tensor in inputs.items()}
    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "WIDTH", 16)
        assert_exact(inputs, rtol=1e-5 if dtype == torch.float32 else 1e-12, softplus=softplus)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_computed_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    inputs = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in drawn(length=130).items()}
    assert_exact(inputs, rtol=torch.finfo(dtype).eps)


def test_an_expanded_gradient_is_read_rightly() -> None:
    inputs = drawn(length=9)
    ones = torch.ones((), dtype=torch.float64).expand(inputs["u"].shape)
    assert_same(results(inputs, "cpu", ones), results(inputs, "naive", ones), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "z"])
def test_not_a_number_stays_one(name: str) -> None:
    inputs = {key: tensor.detach() for key, tensor in drawn(length=9, dtype=torch.float32).items()}
    inputs[name] = torch.full_like(inputs[name], torch.nan)
    assert selective_scan(**inputs, backend="cpu").isnan().all()


def _fused() -> bool:
    """Whether a·b + c is rounded once here: a processor without such an instruction rounds the product too."""
    product_sum = compiled(**CONTRACT)(lambda a, b, c: a * b + c)
    one, above = np.float32(1), np.float32(1 + 2**-12)
    return bool(product_sum(above, above, -(above + above - one)) != 0)  # above² is 2**-24 more than float32 holds


@pytest.mark.parametrize("limit", [87.0, 20.0, 1e-3])
def test_exponential_and_softplus_in_float32(limit: float) -> None:
    x = torch.linspace(-limit, limit, 10_007)
    pulse, ones = torch.tensor([1.0, 0.0]).expand(len(x), 1, 2), torch.ones(len(x), 1, 1, 2)
    steps = torch.stack([torch.ones_like(x), x], dim=-1).unsqueeze(1)
    after = selective_scan(pulse, steps, torch.ones(1, 1), ones, ones, softplus=False, backend="cpu")
    rtol = 4e-7 if _fused() else 5e-6
    torch.testing.assert_close(after[:, 0, 1], x.double().exp().float(), rtol=rtol, atol=0)
    first = selective_scan(
        pulse[..., :1], x.view(-1, 1, 1), torch.ones(1, 1), ones[..., :1], ones[..., :1], backend="cpu"
    )
    torch.testing.assert_close(first[:, 0, 0], F.softplus(x.double()).float(), rtol=rtol, atol=0)


def test_errors_of_a_slow_decay_do_not_add_up() -> None:
    inputs = drawn(width=16, length=3136, dtype=torch.float32)
    inputs = {name: tensor.detach() for name, tensor in (inputs | {"A": inputs["A"] * 1e-4}).items()}
    exact = selective_scan(**{name: tensor.double() for name, tensor in inputs.items()}, backend="naive")
    error = (selective_scan(**inputs, backend="cpu") - exact).abs().max() / exact.abs().max()
    assert error < 2e-6


@pytest.mark.parametrize("states", [1, 4])
@pytest.mark.parametrize("given", [{"D", "z", "delta_bias"}, set()])
def test_torch_accepts_the_op(states: int, given: set[str]) -> None:
    inputs = drawn(length=65, states=states, dtype=torch.float32)
    inputs |= {name: inputs[name].detach().unflatten(1, (2, 3)).requires_grad_() for name in ("u", "delta", "z")}
    optional = [inputs[name] if name in given else None for name in ("D", "z", "delta_bias")]
    order = torch.stack([torch.arange(65), torch.randperm(65)])
    arguments = *(inputs[name] for name in ("u", "delta", "A", "B", "C")), *optional, True, order
    assert set(torch.library.opcheck(torch.ops.rrg.selective_scan_cpu, arguments).values()) == {"SUCCESS"}
    with torch.no_grad():
        y, starts = torch.ops.rrg.selective_scan_cpu(*arguments)
    backward = y, *(each if each is None else each.detach() for each in arguments[:-2]), order, starts, True
    checks = torch.library.opcheck(torch.ops.rrg.selective_scan_cpu_backward, backward)
    assert set(checks.values()) == {"SUCCESS"}


def test_a_group_reads_the_positions_in_its_own_order() -> None:
    inputs = {name: tensor.detach() for name, tensor in drawn(groups=3, length=70).items()}
    u, delta, z = (inputs[name].unflatten(1, (3, -1)) for name in ("u", "delta", "z"))
    order = torch.stack([torch.arange(70), torch.randperm(70), torch.arange(70).flip(0)])
    A, B, C, D, bias = (inputs[name] for name in ("A", "B", "C", "D", "delta_bias"))
    found, _ = torch.ops.rrg.selective_scan_cpu(u, delta, A, B, C, D, z, bias, True, order)
    for g, steps in enumerate(order):
        read = [tensor[:, g][..., steps] for tensor in (u, delta, z)]
        grouped = [tensor[:, g : g + 1][..., steps] for tensor in (B, C)]
        own = [tensor.unflatten(0, (3, -1))[g] for tensor in (A, D, bias)]
        y = selective_scan(*read[:2], own[0], *grouped, own[1], z=read[2], delta_bias=own[2], backend="naive")
        torch.testing.assert_close(found[:, g][..., steps], y)


class Dropped(torch.autograd.Function):
    """a + b, with no gradient for a."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor]:
        return None, upstream


def test_a_result_whose_gradient_nobody_wants() -> None:
    inputs = drawn()
    y = selective_scan(**inputs, backend="cpu")
    Dropped.apply(y, torch.ones_like(y, requires_grad=True)).sum().backward()
    assert all(tensor.grad is None for tensor in inputs.values())


def test_second_derivatives_are_refused() -> None:
    inputs = drawn()
    y = selective_scan(**inputs, backend="cpu").sum()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.autograd.grad(y, inputs["u"], create_graph=True)[0].sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_a_trace_has_the_op() -> None:
    inputs = {name: tensor.detach() for name, tensor in drawn().items()}
    del inputs["z"], inputs["delta_bias"]
    traced = torch.jit.trace(lambda *given: selective_scan(*given, backend="cpu"), tuple(inputs.values()))
    assert "rrg::selective_scan_cpu" in str(traced.graph)
    again = {name: tensor * 0.5 for name, tensor in inputs.items()}
    assert torch.equal(traced(*again.values()), selective_scan(**again, backend="cpu"))


def test_negation_that_torch_puts_off_is_done() -> None:
    def negative(x: Tensor) -> Tensor:
        return torch.complex(torch.zeros_like(x), -x).conj().imag  # its memory holds -x

    inputs = {name: tensor.detach() for name, tensor in drawn(width=1, groups=1).items()}
    late = {name: negative(tensor).requires_grad_() for name, tensor in inputs.items()}
    assert late["u"].is_neg()
    now = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    upstream = torch.randn(now["u"].shape, dtype=torch.float64)
    assert_same(results(late, "cpu", upstream), results(now, "cpu", upstream), rtol=0, atol=0)
    found = torch.autograd.grad(selective_scan(**now, backend="cpu"), now["u"], negative(upstream))
    assert torch.equal(*found, results(now, "cpu", upstream)["u"])


def test_states_that_come_back_otherwise_laid_out() -> None:
    inputs = drawn(length=130)
    expected = results(inputs, "cpu")
    turned: Callable[[Tensor], Tensor] = lambda x: x.mT.contiguous().mT if x.ndim > 2 else x  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(turned, lambda x: x):
        assert_same(results(inputs, "cpu"), expected, rtol=0, atol=0)


def test_a_result_may_be_changed_in_place() -> None:
    inputs = drawn()
    y = selective_scan(**inputs, backend="cpu")
    y *= 2
    y.sum().backward()
    found = {name: tensor.grad for name, tensor in inputs.items()} | {"y": y.detach() / 2}
    assert_same(found, results(inputs, "cpu", torch.full_like(y, 2)), rtol=0, atol=0)


def test_not_a_number_stays_in_its_channels() -> None:
    inputs = drawn(width=8, groups=1, length=70)
    with torch.no_grad():
        inputs["B"][0, 0, 0, 5] = torch.nan
    assert results(inputs, "cpu", torch.ones_like(inputs["u"]))["B"].isfinite().all()


def test_a_thread_of_the_pool_holds_the_memory_it_works_in(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    class Pool:
        def submit(self, *arguments: Any) -> Any:
            given.extend(arguments)
            raise KeyboardInterrupt

    memory = [torch.ones(1)]
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    monkeypatch.setattr(threads, "_pool", Pool)
    with pytest.raises(KeyboardInterrupt):
        threads.share_out(1, 2, 2, memory)
    assert any(each is memory for each in given)


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_whole_and_gives_the_same(dynamic: bool) -> None:
    inputs = drawn(length=65, dtype=torch.float32)
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    y = compiled(**inputs)
    y.sum().backward()
    expected = results(inputs, "cpu", torch.ones_like(y))
    assert torch.equal(y, expected["y"])
    assert all(torch.equal(tensor.grad, expected[name]) for name, tensor in inputs.items())


@pytest.mark.usefixtures("two_threads")
def test_threads_change_no_bit() -> None:
    inputs = drawn(batch=3, width=200, length=130, states=3, dtype=torch.float32)
    two = results(inputs, "cpu")
    torch.set_num_threads(1)
    assert_same(results(inputs, "cpu"), two, rtol=0, atol=0)


@pytest.mark.usefixtures("two_threads")
def test_two_python_threads_at_once() -> None:
    inputs = [drawn(width=20, length=130, seed=seed, dtype=torch.float32) for seed in range(2)]
    expected = [results(each, "cpu") for each in inputs]
    start = threading.Barrier(2)

    def many(each: Inputs) -> list[Inputs]:
        torch.set_num_threads(2)
        start.wait(30)
        return [results(each, "cpu") for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        for found, right in zip(pool.map(many, inputs), expected, strict=True):
            for each in found:
                assert_same(each, right, rtol=0, atol=0)


class Scanned(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        torch.set_num_threads(2)
        threads._pool().submit(int).result(timeout=30)  # the parent's threads are not here to answer
        return results(drawn(width=20, seed=index), "cpu")["u"]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_worker_scans_after_its_parent_has() -> None:
    expected = [results(drawn(width=20, seed=seed), "cpu")["u"] for seed in range(4)]
    found = list(DataLoader(Scanned(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def run(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True).stdout


def test_numba_waits_for_the_first_call() -> None:
    assert run("import sys, rrg, rrg.ops.selective_scan; print('numba' in sys.modules)") == "False\n"


def test_kernels_are_compiled_where_no_cache_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.caching import CacheImpl

    from rrg.ops.selective_scan import kernels

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    assert kernels.compiled()(lambda x: x + 1)(1) == 2


def test_without_numba_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "AVAILABLE", False)
    with pytest.raises(UsageError, match=r"backend='cpu' needs numba: pip install numba"):
        selective_scan(**drawn(), backend="cpu")


def test_the_forward_pass_keeps_one_state_in_64() -> None:
    inputs = drawn(width=20, length=640, states=4)
    sizes: list[int] = []
    keep: Callable[[Tensor], Tensor] = lambda tensor: sizes.append(tensor.numel()) or tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        selective_scan(**inputs, backend="cpu")
    assert max(sizes) <= inputs["u"].numel()
    assert np.prod(inputs["u"].shape) * 4 // 64 in sizes


def test_what_is_compiled_is_kept_on_disk(tmp_path: Path) -> None:
    code = """if True:
        import torch
        from rrg.ops.selective_scan import kernels, selective_scan
        selective_scan(*(torch.ones(1, 1, 2) for _ in range(2)), torch.ones(1, 1), *torch.ones(2, 1, 1, 1, 2))
        print(kernels.forward(*[torch.ones(1).numpy().dtype] * 3).cache_hits)
    """
    assert [run(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)] == ["0\n", "1\n"]
