"""Tensors judged by a function's annotations, so that what does not fit is named before a kernel sees it."""

from collections.abc import Callable, Mapping
from typing import get_args, get_type_hints

from torch import Tensor

from rrg.errors import UsageError

Axes = dict[str, list[tuple[int, str]]]


def axes_of(function: Callable[..., Tensor]) -> Axes:
    """The axes of a function's tensors as its annotations name them: `4*channels` is (4, "channels"), `4` (4, "")."""
    hints = {
        name: (get_args(hint) or (hint,))[0] for name, hint in get_type_hints(function).items() if name != "return"
    }
    return {
        name: [_axis(axis) for axis in hint.dim_str.split()] for name, hint in hints.items() if hasattr(hint, "dim_str")
    }


def _axis(written: str) -> tuple[int, str]:
    times, _, name = written.rpartition("*")
    return (int(name), "") if name.isdigit() else (int(times or 1), name)


def check(function: str, tensors: Mapping[str, Tensor | None], axes: Axes) -> None:
    """The first tensor that has an axis says its size, and the first of all the device.

    Raises UsageError for axes, sizes, dtypes or devices that do not fit.
    """
    sizes, first = {"": 1}, next(iter(axes))
    device = tensors[first].device  # type: ignore[union-attr]  # the first is always given
    for name, own in axes.items():
        tensor = tensors[name]
        if tensor is None:
            continue
        shape, expected = tuple(tensor.shape), []
        for place, (times, axis) in enumerate(own):
            if axis not in sizes:
                if len(shape) != len(own) or 0 in shape[1:]:
                    raise UsageError(
                        f"{function}: {name} is {shape}; expected {len(own)} axes, none empty but the batch"
                    )
                sizes[axis] = shape[place]
            expected.append(times * sizes[axis])
        if shape != tuple(expected):
            raise UsageError(f"{function}: {name} is {shape}; the others ask for {tuple(expected)}")
        if not tensor.is_floating_point():
            raise UsageError(f"{function}: {name} is {tensor.dtype}; expected floating-point numbers")
        if tensor.device != device:
            raise UsageError(f"{function}: {name} is on {tensor.device}; {first} is on {device}")
