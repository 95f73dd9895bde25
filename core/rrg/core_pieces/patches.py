"""Where the patches stand in what an image model gives, found by running it: there is no table of families.

A map says it by its shape, since films are square. In a sequence, class, register, detection or pooled tokens may stand
before or behind the patches. How many, is what the model's own grid leaves; where, shows at the first module whose
output is as long as the sequence, before attention mixes it: patches there follow the film, the others don't.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 224  # side of the films that a sequence is examined with, where the model reads that size too
ALIKE = 1e-3  # of the greatest value: what rounding may change between two calls

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layout:
    """positions: patches of one film. width: of their vectors. front, behind: tokens around the patches of a sequence.
    channels_last: of a map.
    """

    positions: int
    width: int
    front: int = 0
    behind: int = 0
    channels_last: bool = False

    def patches(self, given: Tensor) -> Tensor:
        """(films positions vision) of what the model gives."""
        if given.ndim == 4:
            return given.flatten(1, 2) if self.channels_last else given.flatten(2).transpose(1, 2)
        return given[:, self.front : given.shape[1] - self.behind]


def find_layout(
    model: nn.Module, run: Run, channels: int, size: int, *, patch: int = 1, front: int | None = None
) -> Layout:
    """The layout of what `run` gives for normalised films (films channels size size).

    model: in evaluation mode. On the meta device the patches are counted alone. patch: its side in pixels where the
    model states it. front: tokens before the patches where the model states that; they are believed.

    Raises ValueError where that is no grid of patches in the film's order, or changes from call to call; and whatever
    the model raises for films that it cannot read.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        film = _films(channels, size)[:1]
        with _Watch(model) as seen:
            given = run(film)
        if not given.is_meta and not _alike(run(film), given):
            raise ValueError("it gives other tokens for the same film at every call: it masks or drops some at random")
        shape = tuple(given.shape[1:])
        if len(shape) == 3 and (shape[0] == shape[1] or shape[1] == shape[2]):
            last = shape[0] == shape[1] != shape[2]
            return Layout(shape[1] ** 2, shape[2] if last else shape[0], channels_last=last)
        if len(shape) != 2:
            raise ValueError(f"it gives {shape} for a film, expected a square map or a sequence of patches")
        length, width = shape
        side = _side(length - (front or 0), seen.maps, size, patch)
        if front is not None and length - front != side**2:
            raise ValueError(f"it gives {length} tokens, {front} of them before its patches; no grid has the rest")
        if side == size // patch and size % patch:
            raise ValueError(f"it reads films whose side is a multiple of {patch}")
        if front is not None or given.is_meta:
            return Layout(side**2, width, length - side**2)
        front, behind = _around(model, run, channels, size, patch)
        if length - front - behind != side**2:
            raise ValueError(f"{length} tokens are not {front} before and {behind} behind {side} x {side} patches")
        return Layout(side**2, width, front, behind)


def _alike(given: Tensor, before: Tensor) -> bool:
    return given.shape == before.shape and torch.allclose(
        given, before, atol=ALIKE * float(before.abs().max()), equal_nan=True
    )


def _side(length: int, maps: set[int], size: int, patch: int) -> int:
    """Side of the model's grid: of its largest feature map, else of its patches, that the sequence has room for.

    A model without either, whose later grids are no feature maps, gives a square number of tokens.
    """
    room = [side for side in maps if side**2 <= length] or [side for side in (size // patch,) if side**2 <= length]
    return max(room, default=math.isqrt(length))


def _around(model: nn.Module, run: Run, channels: int, size: int, patch: int) -> tuple[int, int]:
    """Tokens before and behind the patches; films of SMALL tell it sooner than larger ones."""
    if size > SMALL and SMALL % patch == 0:
        try:
            return _examined(model, run, channels, SMALL, patch)
        except Exception:  # it may read the one size alone
            pass
    return _examined(model, run, channels, size, patch)


def _examined(model: nn.Module, run: Run, channels: int, size: int, patch: int) -> tuple[int, int]:
    films = _films(channels, size)
    with _Watch(model) as seen:
        given = run(films)
    length = given.shape[1]
    side = _side(length, seen.maps, size, patch)
    front = _front(given, side, seen.following)
    _check_order(given[:, front : front + side**2].unflatten(1, (side, side)))
    return front, length - front - side**2


def _front(given: Tensor, side: int, following: list[Tensor]) -> int:
    """given: of `_films`. following: at each module with a sequence, which of its tokens follow the film."""
    length = given.shape[1]
    if length == side**2:
        return 0
    for follows in following:
        places = follows.nonzero().flatten()
        if len(follows) == length and len(places) == side**2 == places[-1] - places[0] + 1:
            return int(places[0])
    if length == side**2 + 1:  # one more that follows the film is the patches' mean, as in DINOv3's ConvNeXt
        ends = (given[1:, [0, -1]] - given[:1, [0, -1]]).norm(dim=-1)
        first, last = ends.std(dim=0) / ends.mean(dim=0)  # which all quarters change alike
        return int(first <= last)
    raise ValueError(f"it gives {length} tokens for {side} x {side} patches, and nothing shows which are the patches")


def _check_order(patches: Tensor) -> None:
    """A changed quarter of the film changes the patches there most. patches: (films rows columns vision), the film as
    it was and with each quarter changed.
    """
    half = patches.shape[1] // 2
    if not half:
        return
    change = (patches[1:] - patches[:1]).norm(dim=-1)
    quarters = torch.stack([change[part].mean(dim=(1, 2)) for part in _quarters(half)])
    even = quarters.std(dim=0) <= ALIKE * quarters.mean(dim=0)  # LeViT at random looks at all places alike
    if not (even | (quarters.argmax(dim=0) == torch.arange(4))).all():
        raise ValueError("its tokens are no patches in the film's order: they don't follow what changes there")


def _quarters(half: int) -> list[tuple[Any, ...]]:
    sides = (slice(None, half), slice(-half, None))
    return [(..., rows, columns) for rows in sides for columns in sides]


def _films(channels: int, size: int) -> Tensor:
    """A film of noise, and the same with each quarter changed (5 channels size size)."""
    noise = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, channels, size, size, generator=noise, device="cpu")
    film, other = draw(), draw()
    films = [film]
    for part in _quarters(size // 2):
        films.append(film.clone())
        films[-1][part] = other[part]
    return torch.stack(films).to(torch.get_default_device())


class _Watch:
    """Notes what passes through a model's modules. maps: sides of square feature maps that convolutions give.
    following: of outputs (films tokens width), which tokens differ between the films.
    """

    def __init__(self, model: nn.Module) -> None:
        self.maps: set[int] = set()
        self.following: list[Tensor] = []
        self.modules = list(model.modules())

    def __enter__(self) -> "_Watch":
        self.hooks = [module.register_forward_hook(self._note) for module in self.modules]
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _note(self, module: nn.Module, inputs: Any, output: Any) -> None:
        given = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(given, Tensor):
            return
        if isinstance(module, nn.Conv2d) and given.shape[-1] == given.shape[-2]:
            self.maps.add(given.shape[-1])
        if given.ndim == 3 and not given.is_meta:
            self.following.append((given != given[:1]).any(dim=2).any(dim=0))
