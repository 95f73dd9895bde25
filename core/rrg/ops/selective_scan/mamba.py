"""mamba-ssm's own CUDA kernel, where it is installed and built."""

import torch
from torch import Tensor

from rrg.errors import UsageError


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """Shapes as in `rrg.ops.selective_scan`; time must lie side by side in memory, else it is copied.

    Raises UsageError where mamba-ssm or its compiled part is missing, for tensors beside a GPU, and for float64.
    """
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
    short = [None if each is None else each.float() for each in (A, D, delta_bias)]
    long = [None if each is None else each.to(u.dtype).contiguous() for each in (u, delta, B, C, z)]
    y: Tensor = selective_scan_fn(
        long[0], long[1], short[0], long[2], long[3], short[1], long[4], short[2], delta_softplus=softplus
    )
    return y
