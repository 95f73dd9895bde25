"""Injection of modules at the boundaries of decoder layers, without editing the language model.

Each decoder layer's `__class__` becomes a cached subclass that calls the original `forward`. The layer stays the same
object with the same keys; only a child `rrg` joins it. Forward hooks and wrapper modules would change what
hidden-state capture and activation checkpointing see.

The order is load, LoRA, inject, shard or dispatch, compile; every other order is refused, since each wrong one fails
silently: adapters added afterwards wrap the injected modules, injected parameters escape an earlier sharding, and an
instance-level `forward` (dispatch hooks) or a compiled layer never reaches the subclass.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rrg.errors import RRGError


class InjectionError(RRGError):
    """The language model is not in a state in which modules can be injected, or no longer in one where they act."""


class LayerPieces(nn.Module):
    """The injected modules of one decoder layer, and what they prepared for the study at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.ModuleDict()
        self.post = nn.ModuleDict()
        self.memory: dict[str, dict[str, Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "memory": None}  # a request's tensors belong to no copy

    def apply_to(self, side: nn.ModuleDict, hidden: Tensor, memory: dict[str, dict[str, Tensor]] | None) -> Tensor:
        """hidden: (batch, text, host); with beams the batch is a multiple of the studies in `memory`."""
        if memory is None:  # the bare language model, such as for text alone
            return hidden
        for name, piece in side.items():
            arguments = {key: repeat(value, hidden.shape[0]) for key, value in memory[name].items()}
            hidden = piece(hidden, **arguments)
        return hidden


def repeat(value: Tensor, rows: int) -> Tensor:
    """Repeat each study's row for its beams, in the order in which transformers expands a batch."""
    if value.shape[0] == rows:
        return value
    if rows % value.shape[0]:
        raise InjectionError(f"the language model runs {rows} rows, the study memory has {value.shape[0]}: not a multiple")
    return value.repeat_interleave(rows // value.shape[0], dim=0)


@cache
def injected_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a decoder layer's class that runs the injected modules around the original `forward`."""

    class Injected(cls):  # type: ignore[valid-type,misc]
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
    Injected.rrg_original = cls  # type: ignore[attr-defined]
    return Injected


class Injection:
    """All modules injected into one language model: by piece, then by layer index."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        self.model, self.layers = model, layers
        self.pieces: dict[str, dict[int, nn.Module]] = {}
        self._adapted = adapted(model)

    def add(self, name: str, modules: Mapping[int, nn.Module], where: str) -> None:
        """Inject one piece's modules, by layer index, `pre` or `post` the layer; pieces act in the order of adding.

        Raises InjectionError where the layer is compiled, sharded, dispatched or has the piece already.
        """
        for index, module in modules.items():
            layer = self.layers[index]
            refuse_wrong_order(layer, index)
            if name in self.pieces:
                raise InjectionError(f"{name} is already injected; build a fresh model to inject it anew")
            if not hasattr(layer, "rrg_original"):
                layer.rrg = LayerPieces()
                layer.__class__ = injected_class(type(layer))
            (layer.rrg.pre if where == "pre" else layer.rrg.post)[name.replace(".", "/")] = module
        self.pieces[name] = dict(modules)

    def prepare(self, wires: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Compute what is fixed for a study, once per request, from each piece's signals (piece → argument → tensor)."""
        if adapted(self.model) != self._adapted:
            raise InjectionError(
                "adapters were added after injection: they wrap the injected modules and freeze them; "
                "the order is load, LoRA, inject, shard or dispatch, compile"
            )
        for index, layer in enumerate(self.layers):
            if hasattr(layer, "rrg_original"):
                layer.rrg.memory = {
                    name.replace(".", "/"): _memory(modules[index], wires[name])
                    for name, modules in self.pieces.items()
                    if index in modules
                }

    def clear(self) -> None:
        """Forget the study: the language model runs bare again."""
        for layer in self.layers:
            if hasattr(layer, "rrg_original"):
                layer.rrg.memory = None


def _memory(module: nn.Module, arguments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not hasattr(module, "prepare"):
        return dict(arguments)
    return module.prepare(**arguments)._asdict()


def adapted(model: nn.Module) -> bool:
    return hasattr(model, "peft_config")


def refuse_wrong_order(layer: nn.Module, index: int) -> None:
    """Raises InjectionError for a layer that is already compiled, sharded or dispatched."""
    from torch.distributed.tensor import DTensor

    reason = ""
    if isinstance(layer, torch._dynamo.OptimizedModule) or layer._compiled_call_impl is not None:
        reason = "is compiled"
    elif any(isinstance(parameter, DTensor) for parameter in layer.parameters()):
        reason = "is sharded"
    elif "forward" in vars(layer):
        reason = "has a `forward` of its own instance, as dispatching to devices sets"
    if reason:
        raise InjectionError(
            f"decoder layer {index} {reason}, so an injected module would not act or not train; "
            "the order is load, LoRA, inject, shard or dispatch, compile"
        )
