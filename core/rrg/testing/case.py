"""A piece under test: sizes and tensors drawn from its annotations, and failures that say piece, check and sizes."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jaxtyping
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.composing.contract import RESULTS, Contract, Port, contract_of
from rrg.composing.plugins import Plugins
from rrg.model.inject import prepared
from rrg.pieces import Registered
from rrg.signals import SIGNALS
from rrg.testing.hosts import LAYERS

# What sizes are drawn from, odd and extreme ones among them; a class's `multiples` scale them.
WIDTHS = (1, 5, 16)
SIZES = {"batch": (1, 2, 3), "views": (2,), "channels": (1,), "vision": WIDTHS, "language": WIDTHS, "host": (2, 8, 13)}
ODD = (1, 2, 3, 5)
IMAGES = (32,)


class Broken(AssertionError):
    """A piece broke a promise; the message names piece, check and sizes."""


@dataclass(frozen=True)
class Example:
    """One draw. strided: tensors that are not contiguous. optional: whether arguments with a default are given."""

    sizes: dict[str, int]
    seed: int
    scale: float = 1.0
    strided: bool = False
    optional: bool = True

    def __str__(self) -> str:
        kinds = [f"values about {self.scale:g}"] * (self.scale != 1) + ["not contiguous"] * self.strided
        kinds += ["without its optional arguments"] * (not self.optional)
        return ", ".join([" ".join(f"{axis}={n}" for axis, n in self.sizes.items()), *kinds])


class Case:
    """One installed piece, and how many examples each check draws.

    What a class declares by attributes: `multiples`, sizes that its axes must be multiples of ({"host": 12}); `trial`,
    settings to build it with here, where its defaults are large or need a download ({"depth": 2});
    `image_sizes`, the film sizes that an encoder reads; `order_invariant`, a loss that ignores the batch's order;
    `unit_keys`, a retriever whose keys have norm 1; `close()`, an injector's method that makes it the identity.
    """

    def __init__(self, piece: Registered, plugins: Plugins, examples: int = 10, device: str = "cpu") -> None:
        self.piece, self.plugins, self.examples, self.device = piece, plugins, examples, device
        self.name, self.kind = piece.name, piece.kind
        self.results: dict[str, Any] = {}  # of the checks that have run, by name
        self.where = ""  # sizes, where something else than `forall` has chosen them
        self._built: dict[Axes, nn.Module] = {}

    @cached_property
    def contract(self) -> Contract:
        return contract_of(self.piece)

    def declares(self, attribute: str) -> Any:
        return getattr(self.piece.cls, attribute, None)

    @cached_property
    def reads(self) -> tuple[Port, ...]:
        """What a call takes: the signals, and `hidden` for an injector."""
        return (*self.contract.hidden[:1], *self.contract.reads)

    @cached_property
    def gives(self) -> tuple[Port, ...]:
        if self.kind not in RESULTS:
            return self.contract.gives
        axes = self.contract.hidden[1].axes if self.contract.hidden else RESULTS[self.kind]
        return (Port("result", "result", axes, "Float"),)

    def masks(self) -> list[tuple[Port, list[Port]]]:
        """Each mask that the piece reads, with the tensors whose leading axes are the mask's."""
        found = []
        for mask in (port for port in self.reads if port.dtype == "Bool" and port.argument.endswith("_mask")):
            masked = [p for p in self.reads if p.dtype != "Bool" and p.axes.startswith(f"{mask.axes} ")]
            found += [(mask, masked)] if masked else []
        return found

    # Drawing

    def sizes(self, plain: dict[str, int]) -> dict[str, int]:
        """Sizes as the piece wants them: multiplied as it declares, or fixed by a number of its annotations."""
        multiples = self.declares("multiples") or {}
        sizes = {axis: n * multiples.get(axis, 1) for axis, n in plain.items()} | {"height": plain["height"]}
        return sizes | {"width": sizes["height"]} | self._fixed()

    def _sizes(self, wanted: dict[str, Sequence[int]]) -> "st.SearchStrategy[dict[str, int]]":
        named = {axis for port in (*self.reads, *self.gives) for axis in port.axes.split() if not axis.isdecimal()}
        images = self.declares("image_sizes") or IMAGES
        drawn = {
            axis: st.sampled_from(wanted.get(axis, images[:1] if axis == "height" else SIZES.get(axis, ODD)))
            for axis in sorted({*named, "host", "vision", "language", "height"} - {"diseases", "layers", "width"})
        }
        return st.fixed_dictionaries(drawn).map(
            lambda sizes: self.sizes(sizes | {"width": sizes["height"], "diseases": 14, "layers": LAYERS})
        )

    def _fixed(self) -> dict[str, int]:
        """Axes that the piece's annotations fix by a number."""
        pairs = [
            (axis, own)
            for port in (*self.gives, *self.reads)  # what is read decides
            if port.signal in SIGNALS
            for axis, own in zip(SIGNALS[port.signal].axes.split(), port.axes.split(), strict=True)
        ]
        return {axis: int(own) for axis, own in pairs if own.isdecimal()}

    def forall(self, body: Callable[[Example], None], *, ordinary: bool = False, **wanted: Sequence[int]) -> None:
        """Run `body` on drawn examples. ordinary: neither large values nor strides. wanted: sizes of some axes.

        Raises Broken for the smallest example that fails.
        """
        examples = st.builds(
            Example,
            sizes=self._sizes(wanted),
            seed=st.integers(0, 2**16),
            scale=st.just(1.0) if ordinary else st.sampled_from([1.0, 1e-3, 1e3]),
            strided=st.just(False) if ordinary else st.booleans(),
            optional=st.booleans() if any(port.optional for port in self.reads) else st.just(True),
        )

        @settings(
            max_examples=self.examples, deadline=None, database=None, derandomize=True, report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
        )  # fmt: skip
        @given(examples)
        def run(example: Example) -> None:
            try:
                body(example)
            except HypothesisException:
                raise
            except Exception as error:
                what = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {first_line(error)}"
                raise Broken(f"{what} ({example})") from error

        run()

    # Modules and tensors

    def module(self, example: Example) -> nn.Module:
        """The piece with default settings, in evaluation mode; built once for each size, so don't change it."""
        axes = self.axes(example)
        if axes not in self._built:
            self._built[axes] = self.fresh(example)
        return self._built[axes]

    def fresh(self, example: Example, seed: int = 0) -> nn.Module:
        """The same piece built anew; another seed gives it other weights."""
        return shaken(self.build(self.axes(example), seed=seed), seed).to(self.device).eval()

    def axes(self, example: Example) -> Axes:
        sizes = example.sizes
        return Axes(sizes["host"], LAYERS, sizes["height"], sizes["vision"], language=sizes["language"])

    def build(self, axes: Axes, layer: int = 0, first: nn.Module | None = None, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        where = {"layer": layer, "first": first} if self.kind == "injector" else {}
        module: nn.Module = self.piece.cls(self.contract.config(**self.declares("trial") or {}), axes, **where)
        return module

    def tensors(self, example: Example, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Arguments by name. Masks keep at least one place of each row."""
        generator = torch.Generator().manual_seed(example.seed)
        ports = [port for port in self.reads if example.optional or not port.optional]
        return {port.argument: self._tensor(port, example, generator, dtype).to(self.device) for port in ports}

    def _tensor(self, port: Port, example: Example, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        shape = [int(axis) if axis.isdecimal() else example.sizes[axis] for axis in port.axes.split()]
        if port.signal == "disease_labels":
            values = torch.tensor([1.0, 0.0, -1.0, torch.nan])
            return values[torch.randint(4, shape, generator=generator)]
        if port.dtype == "Bool":
            mask = torch.rand(shape, generator=generator) < 0.7
            mask[..., 0] = True
            return mask
        if port.dtype != "Float":
            return torch.randint(2, shape, generator=generator)
        stored = [*shape[:-1], shape[-1] * 2] if example.strided and shape else shape
        if port.signal == "pixel_values":
            tensor = torch.rand(stored, generator=generator)
        else:
            tensor = torch.randn(stored, generator=generator) * example.scale
        tensor = tensor.to(dtype)
        return tensor[..., ::2] if stored != shape else tensor

    def call(self, module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """What the piece gives, by name; an injector's memory is prepared first."""
        if self.kind == "injector":
            others = {name: tensor for name, tensor in tensors.items() if name != "hidden"}
            return {"result": module(tensors["hidden"], **prepared(module, others))}
        result = module(**tensors)
        given = result._asdict() if hasattr(result, "_asdict") else {"result": result}
        if given.keys() != {port.argument for port in self.gives}:
            names = ", ".join(port.argument for port in self.gives)
            raise Broken(f"forward gave a {type(result).__name__} of {', '.join(given)}, annotated {names}")
        absent = [port.argument for port in self.gives if given[port.argument] is None and not port.optional]
        if absent:
            raise Broken(f"{absent[0]} is None, and its annotation doesn't say that it may be")
        return {name: value for name, value in given.items() if value is not None}

    def hint(self, port: Port) -> Any:
        """The annotation, as jaxtyping has it."""
        return getattr(jaxtyping, port.dtype)[Tensor, port.axes]


def shaken(module: nn.Module, seed: int) -> nn.Module:
    """Move every weight a little: what starts at zero would hide what it multiplies."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module


def differs(a: dict[str, Any], b: dict[str, Any], exact: bool = False) -> str | None:
    """Which of two results differ, and by how much; where both hold a mask, only what it keeps counts."""
    for name, one in a.items():
        other = b[name]
        if one.dtype == torch.bool or exact:
            same = one.dtype == other.dtype and torch.equal(one.nan_to_num(0), other.nan_to_num(0))
        else:
            one, other = (_kept(value, result) for value, result in ((one, a), (other, b)))
            same = one.shape == other.shape and torch.allclose(one, other, atol=1e-4, rtol=1e-3)
        if not same:
            gap = (one.float() - other.float()).abs().max() if one.shape == other.shape and one.numel() else torch.nan
            return f"{name} by {float(gap):.3g}"
    return None


def _kept(value: Tensor, result: dict[str, Any]) -> Tensor:
    masks = [m for m in result.values() if m.dtype == torch.bool and value.shape[: m.ndim] == m.shape]
    return value[masks[0]] if masks and value.dtype != torch.bool else value


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return copy.deepcopy(tensors)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
