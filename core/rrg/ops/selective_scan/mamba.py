"""mamba-ssm's own CUDA kernel, where it is installed and built."""

from typing import Any

import torch
from torch import Tensor

from rrg.errors import UsageError
from rrg.ops.selective_scan.naive import Scan


def selective_scan(scan: Scan) -> Tensor:
    """Time must lie side by side in memory, else it is copied.

    Raises UsageError where mamba-ssm or its compiled part is missing, for tensors beside a GPU, and for float64.
    """
    u, delta, A, B, C, D, z, delta_bias, softplus = scan
    if u.device.type != "cuda" or u.dtype == torch.float64:
        raise UsageError(
            f"selective_scan: backend='mamba-ssm' given u as {u.dtype} on {u.device}; it computes float32, float16 and "
            "bfloat16 on a CUDA GPU"
        )
    try:  # it fails to import where its compiled part is missing
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:
        raise UsageError(
            f"selective_scan: backend='mamba-ssm' cannot be imported ({error}); install mamba-ssm where torch sees CUDA"
        ) from error
    u, delta, B, C, z = (_stored(each, u.dtype) for each in (u, delta, B, C, z))
    A, D, delta_bias = (_stored(each, torch.float32) for each in (A, D, delta_bias))
    y: Tensor = selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus=softplus)
    return y


def _stored(tensor: Any, dtype: torch.dtype) -> Any:
    return None if tensor is None else tensor.to(dtype).contiguous()
