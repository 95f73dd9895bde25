"""The Triton kernels: on a GPU where there is one, else by Triton's interpreter in small sizes, and compiled for GPUs.

The interpreter must be chosen before triton is imported, so the cases run in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")
CASES = Path(__file__).parent / "triton_cases"


def run(case: str, tier: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", tier, str(CASES / f"{case}.py")]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.parametrize("case", ["scan", "fused"])
def test_in_the_interpreter(case: str) -> None:
    run(case, "not slow", TRITON_INTERPRET="1", RRG_TRITON_DEVICE="cpu")


@pytest.mark.slow
def test_long_sequences_in_the_interpreter() -> None:
    run("scan", "slow", TRITON_INTERPRET="1", RRG_TRITON_DEVICE="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("case", ["scan", "fused"])
def test_on_the_gpu(case: str) -> None:
    run(case, "slow or not slow", RRG_TRITON_DEVICE="cuda")


def compiled(kernel: Any, architecture: int, constants: dict[str, Any], long: str, warps: int = 4) -> Any:
    """A kernel compiled for a GPU that need not be here. long: the type of what is as long as the sequence."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, sizes = {}, ("share", "length", "orders", "rows", "text", "host", "inner")
    shorts = ("A", "B", "C", "D", "bias", "starts", "carry", "of_A", "of_B", "of_C", "of_D", "of_bias")
    for name in kernel.arg_names:
        size = name in sizes or name[-2:] in ("_b", "_g", "_d", "_l")
        kind = "i32" if size else "*i64" if name == "order" else "*fp32" if name in shorts else long
        signature[name] = "constexpr" if name in constants else kind
    source = ASTSource(kernel, signature, {name: value for name, value in constants.items() if name in signature})
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})


@pytest.mark.parametrize("long", ["*fp32", "*bf16"])
@pytest.mark.parametrize("architecture", [80, 90])  # A100; H100 and H200
def test_the_scans_kernels_compile_for_gpus(architecture: int, long: str) -> None:
    from triton import language as tl

    from rrg.ops.selective_scan import gpu

    constants = {"GROUPS": 4, "STATES": 1, "SHARED": long == "*fp32", "SOFTPLUS": True, "GATED": long == "*bf16"}
    constants |= {"DTYPE": tl.float32, "BLOCK_L": gpu.BLOCK_L, "BLOCK_D": 32}
    for kernel in (gpu._forward_kernel, gpu._backward_kernel):
        assert compiled(kernel, architecture, constants, long).asm["cubin"]


@pytest.mark.parametrize("architecture", [80, 90])
def test_the_fusions_kernels_compile_for_gpus(architecture: int) -> None:
    from rrg.ops.gated_fusion import gpu

    for rows in (8192, 1):
        *blocks, warps = gpu.tiles(rows, 2)
        constants = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), blocks, strict=True))
        constants |= {"KEEP": True, "PRECISION": "ieee", "GROUP": 8}
        found = compiled(gpu._forward_kernel, architecture, constants, "*bf16", warps)
        assert found.asm["cubin"]
        assert found.metadata.shared <= 160 << 10  # what one program may have on an A100
    assert compiled(gpu._backward_kernel, architecture, {"BLOCK_M": 32, "BLOCK_N": 64}, "*bf16").asm["cubin"]
