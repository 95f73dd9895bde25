"""Injection of modules at the boundaries of decoder layers, without editing the language model.

Each decoder layer's `__class__` becomes a cached subclass that calls the original `forward`. The layer stays the same
object with the same keys; only a child `rrg` joins it. Forward hooks and wrapper modules would change what
hidden-state capture and activation checkpointing see.

The order is load, LoRA, inject, shard or dispatch, compile; every other order is refused, since each wrong one fails
silently: adapters added afterwards wrap the injected modules, injected parameters escape an earlier sharding, and an
instance-level `forward` (dispatch hooks) or a compiled layer never reaches the subclass.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from rrg.errors import RRGError

ORDER = "the order is load, LoRA, inject, shard or dispatch, compile"


class InjectionError(RRGError):
    """The language model is not in a state in which modules can be injected, or no longer in one where they act."""


class Memory(NamedTuple):
    """What the modules of one layer know of the studies at hand: arguments by piece, prepared already or not yet."""

    arguments: dict[str, dict[str, Tensor]]
    prepared: bool


class LayerPieces(nn.Module):
    """The injected modules of one decoder layer, and the memory of the studies at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.ModuleDict()
        self.post = nn.ModuleDict()
        self.memory: Memory | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "memory": None}  # a request's tensors belong to no copy

    def apply_to(self, side: nn.ModuleDict, hidden: Tensor, memory: Memory | None) -> Tensor:
        """hidden: (batch, text, host); with beams the batch is a multiple of the studies in `memory`."""
        if memory is None:  # the bare language model, such as for text alone
            return hidden
        for name, piece in side.items():
            arguments = memory.arguments[name]
            if not memory.prepared:
                arguments = prepared(piece, arguments)
            arguments = {key: repeat(value, hidden.shape[0]) for key, value in arguments.items()}
            hidden = piece(hidden, **arguments).to(hidden.dtype)
        return hidden


def prepared(piece: nn.Module, arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a piece computes once per study from its signals; the signals themselves where it computes nothing."""
    prepare: Any = getattr(piece, "prepare", None)
    return prepare(**arguments)._asdict() if prepare is not None else arguments


def repeat(value: Tensor, rows: int) -> Tensor:
    """Repeat each study's row for its beams, in the order in which transformers expands a batch."""
    if value.shape[0] == rows:
        return value
    if rows % value.shape[0]:
        raise InjectionError(
            f"the language model runs {rows} rows, the study memory has {value.shape[0]}: not a multiple"
        )
    return value.repeat_interleave(rows // value.shape[0], dim=0)


@cache
def injected_class(cls: Any) -> Any:
    """The subclass of a decoder layer's class that runs the injected modules around the original `forward`."""

    class Injected(cls):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            # Bound at call time: a checkpointed layer must recompute with the memory it first ran with.
            return super().__call__(*args, rrg_memory=self.rrg.memory, **kwargs)

        def forward(self, hidden_states: Tensor, *args: Any, rrg_memory: Any = None, **kwargs: Any) -> Any:
            hidden_states = self.rrg.apply_to(self.rrg.pre, hidden_states, rrg_memory)
            out = cls.forward(self, hidden_states, *args, **kwargs)
            if isinstance(out, tuple):
                return self.rrg.apply_to(self.rrg.post, out[0], rrg_memory), *out[1:]
            return self.rrg.apply_to(self.rrg.post, out, rrg_memory)

    # Sharding and device maps find layers by the class's name.
    Injected.__name__, Injected.__qualname__ = cls.__name__, cls.__qualname__
    Injected.__module__ = cls.__module__
    Injected.rrg_original = cls
    return Injected


class Injection:
    """All modules injected into one language model: by piece, then by layer index."""

    def __init__(self, model: nn.Module, layers: nn.ModuleList) -> None:
        self.model, self.layers = model, layers
        self.pieces: dict[str, dict[int, nn.Module]] = {}
        self._adapters = adapters(model)

    def add(self, name: str, modules: Mapping[int, nn.Module], where: str) -> None:
        """Inject one piece's modules, by layer index, `pre` or `post` the layer; pieces act in the order of adding.

        Raises InjectionError, with nothing changed, where a layer is compiled, sharded, dispatched or has the piece
        already, and where adapters have joined since this Injection was made.
        """
        key = name.replace(".", "/")
        self._refuse_late_adapters()
        refuse_compiled(self.model, "the language model")
        for index in modules:
            refuse_wrong_order(self.layers[index], index)
            if any(key in side for side in _sides(self.layers[index])):
                raise InjectionError(f"{name} is already injected; build a fresh model to inject it anew")
        for index, module in modules.items():
            layer: Any = self.layers[index]
            if not hasattr(layer, "rrg_original"):
                layer.rrg = LayerPieces()
                layer.__class__ = injected_class(layer.__class__)
            getattr(layer.rrg, where)[key] = module
        self.pieces[name] = dict(modules)

    def prepare(self, signals: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Give each piece its signals of the studies at hand (piece → argument → tensor), for the runs that follow.

        Without gradients, what is fixed for a study is computed here, once for all decoded tokens. With gradients it is
        computed within the layer's own forward, where sharded parameters are gathered and checkpointing sees it.

        Raises InjectionError where adapters were added after injection, or checkpointing would lose the gradient.
        """
        self._refuse_late_adapters()
        eager = not torch.is_grad_enabled()
        for index, layer in self._injected():
            refuse_reentrant(layer, index)
            device = next(layer.parameters()).device
            arguments = {}
            for name, modules in self.pieces.items():
                if index in modules:
                    own = {k: v.to(device) for k, v in signals[name].items() if v is not None}
                    arguments[name.replace(".", "/")] = prepared(modules[index], own) if eager else own
            _pieces(layer).memory = Memory(arguments, prepared=eager)

    def clear(self) -> None:
        """Forget the studies: the language model runs bare again."""
        for _, layer in self._injected():
            _pieces(layer).memory = None

    def _injected(self) -> list[tuple[int, nn.Module]]:
        return [(index, layer) for index, layer in enumerate(self.layers) if hasattr(layer, "rrg_original")]

    def _refuse_late_adapters(self) -> None:
        if adapters(self.model) != self._adapters:
            raise InjectionError(f"adapters were added after injection: they wrap or freeze injected modules; {ORDER}")


def _pieces(layer: nn.Module) -> LayerPieces:
    return cast(LayerPieces, layer.rrg)


def _sides(layer: nn.Module) -> list[nn.ModuleDict]:
    return [_pieces(layer).pre, _pieces(layer).post] if hasattr(layer, "rrg_original") else []


def adapters(model: nn.Module) -> tuple[str, ...]:
    """Names of peft's adapters in a model."""
    return tuple(getattr(model, "peft_config", ()))


def refuse_compiled(module: nn.Module, what: str) -> None:
    """Raises InjectionError for a module that is compiled already."""
    if isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None:
        raise InjectionError(f"{what} is compiled, so an injected module might not act; {ORDER}")


def refuse_wrong_order(layer: nn.Module, index: int) -> None:
    """Raises InjectionError for a layer that is already compiled, sharded or dispatched."""
    from torch.distributed.tensor import DTensor

    refuse_compiled(layer, f"decoder layer {index}")
    if any(isinstance(parameter, DTensor) for parameter in layer.parameters()):
        raise InjectionError(
            f"decoder layer {index} is sharded, so an injected module would stay outside the sharding; {ORDER}"
        )
    if any("forward" in vars(module) for module in layer.modules()):
        raise InjectionError(
            f"decoder layer {index} has a `forward` of its own instance, as dispatching to devices sets, "
            f"so an injected module would not act; {ORDER}"
        )


def refuse_reentrant(layer: nn.Module, index: int) -> None:
    """Raises InjectionError for reentrant checkpointing: its backward knows positional tensors alone, so what trains
    behind the memory would get no gradient.
    """
    if getattr(layer, "gradient_checkpointing", False):
        options = getattr(layer._gradient_checkpointing_func, "keywords", {})
        if options.get("use_reentrant") is not False:
            raise InjectionError(
                f"decoder layer {index} checkpoints activations reentrantly, which loses the gradients of what the "
                'injected modules read; enable it with {"use_reentrant": False}'
            )
