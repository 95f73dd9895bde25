"""When a kernel may be called without torch's dispatcher, which takes as long as a short kernel."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter


def plain(tensors: Iterable[Tensor | None]) -> bool:
    """Whether only autograd looks on, no compiler, tracer, transform or mode, and memory holds what the tensors say."""
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in (Tensor, Parameter) or tensor.is_meta or tensor.is_neg() or tensor._is_zerotensor()
        ):
            return False
    return True
