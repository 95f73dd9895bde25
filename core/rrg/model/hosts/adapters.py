"""LoRA on a host: every linear layer within its decoder layers, found by structure; no list of names.

Linear layers are nn.Linear, transformers' Conv1D (GPT-2) and the stacked 3-D weights of fused experts, which peft
adapts as parameters. The head, the embeddings and a vision tower lie outside the decoder layers and stay as they are.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rrg.config import LoRA
from rrg.errors import UsageError


class Adapted(NamedTuple):
    """What LoRA adapts, and the other weights of the decoder layers, by the names that tell them apart."""

    targets: list[str]
    left_out: list[str]


def adapt(model: Any, layers: nn.ModuleList, host: str, lora: LoRA) -> tuple[Any, Adapted]:
    """Add LoRA in place. Gives peft's view of the model, which saves and loads its folder, and what was adapted.

    Raises UsageError where the decoder layers hold no linear layer.
    """
    from peft import LoraConfig, get_peft_model

    linear, stacked = _found(model, layers)
    if not linear and not stacked:
        raise UsageError(f"host {host}: LoRA finds no linear layer in the decoder layers ({type(layers[0]).__name__})")
    experts = [] if lora.dropout else stacked  # peft cannot drop out the input of a parameter
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_pattern(model, layers, linear) if linear else [],
        target_parameters=experts or None,
    )
    try:
        with warnings.catch_warnings(), _names_as_they_are():
            # peft asks transformers for it
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to")  # it finds out for each layer by itself
            adapter = get_peft_model(model, settings)
    except ValueError as error:  # such as for Mamba, whose kernel would pass its projections by
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"host {host}: peft cannot adapt it: {reason}; set stages.llm=full or frozen, or give another --host"
        ) from error
    return adapter, _adapted(layers)


def _found(model: nn.Module, layers: nn.ModuleList) -> tuple[list[str], list[str]]:
    """Full names of the linear modules of the decoder layers, and of the stacked weights of their experts."""
    inside = {id(module) for module in layers.modules()}
    linear, stacked = [], []
    for name, module in model.named_modules():
        if id(module) not in inside:
            continue
        if isinstance(module, (nn.Linear, Conv1D)) and _acts_as_linear(module):
            linear.append(name)
        elif not type(module).__module__.startswith("torch."):  # a convolution's weight has three axes too
            own = module.named_parameters(recurse=False)
            stacked += [f"{name}.{key}" for key, weight in own if weight.ndim == 3 and min(weight.shape[1:]) > 1]
    return linear, stacked


def _acts_as_linear(module: Any) -> bool:
    """Some families' routers are linear layers that give something else, such as several tensors."""
    if type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    try:
        with torch.no_grad():
            out = module(torch.zeros(1, module.in_features, dtype=module.weight.dtype, device=module.weight.device))
    except Exception:
        return False
    return isinstance(out, Tensor) and out.shape == (1, module.out_features)


def _pattern(model: nn.Module, layers: nn.ModuleList, linear: list[str]) -> str | list[str]:
    """The shortest pattern that matches these modules alone: by their last names, within the whole model where that is
    enough, else within the language model or the decoder layers; their full names where none does.
    """
    names = [name for name, _ in model.named_modules()]
    path = next(name for name, module in model.named_modules() if module is layers)
    last = "|".join(sorted({name.rpartition(".")[2] for name in linear}))
    for where in (r".*\.", r".*language_model.*\.", rf"{re.escape(path)}\..*"):
        pattern = f"{where}({last})"
        if [name for name in names if re.fullmatch(pattern, name)] == linear:
            return pattern
    return linear


@contextmanager
def _names_as_they_are() -> Iterator[None]:
    """Keep peft from rewriting targets: it takes `gate_proj` for the unfused experts of transformers 4, and would leave
    out the dense layers and shared experts of that name.
    """
    from peft.utils import transformers_weight_conversion as conversion

    original = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *args, **kwargs: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = original


def _adapted(layers: nn.ModuleList) -> Adapted:
    """What the adapted layers hold, from the layers themselves; vectors, such as norms and biases, are not counted."""
    targets: set[str] = set()
    others: set[str] = set()
    for module_name, module in layers.named_modules():
        if hasattr(module, "lora_A"):
            base = _without_peft(module_name)
            parameter = getattr(module, "parameter_name", "weight")
            targets.add(base if parameter == "weight" else f"{base}.{parameter}")
    for name, weight in layers.named_parameters():
        owner, _, key = _without_peft(name).rpartition(".")
        if "lora_" not in name and weight.ndim > 1 and not {owner, f"{owner}.{key}"} & targets:
            others.add(owner if key == "weight" else f"{owner}.{key}")
    return Adapted(_short(targets), _short(others))


def _without_peft(name: str) -> str:
    return name.replace(".base_layer", "")


def _short(names: set[str]) -> list[str]:
    """Without the layers' numbers: `self_attn.q_proj`."""
    return sorted({re.sub(r"(^|\.)\d+\.", r"\1", name) for name in names})
