"""FLOPs, memory and lengths of a plan: what only estimates never stops what works."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rrg.model.model import RRGModel, Values
from rrg.plan.table import REPORT

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def estimate(what: str, compute: Callable[[], int], notes: list[str]) -> int | None:
    """An estimate, or None and a note where a host's own code defeats it: it may train all the same."""
    try:
        return compute()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        notes.append(f"{what} not available: {type(error).__name__}: {reason:.200}")
        return None


class Outputs:
    """Bytes that the leaf modules of the encoders and connectors put out, what backward keeps of them."""

    def __init__(self, model: RRGModel) -> None:
        self.bytes = 0
        leaves = [m for piece in model.modules_by_piece.values() for m in piece.modules() if not list(m.children())]
        self.hooks = [leaf.register_forward_hook(self._add) for leaf in leaves]

    def _add(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, Tensor):
                self.bytes += tensor.numel() * tensor.element_size()

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()


def language_flops(model: RRGModel, values: Values, tokens: int) -> int:
    arguments = {name: model.arguments(name, values) for name in model.injection.pieces}
    language, decoder = model.host.model, model.host.decoder[0]
    if language._can_set_experts_implementation():  # the others look into values, of which meta tensors have none
        language.set_experts_implementation("batched_mm")
    for module in decoder.modules():
        if hasattr(module, "lora_A") and hasattr(module, "parameter_name"):
            module._disable_adapters = True  # peft's adapters of stacked experts ask for a real device
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.recipe.host.dtype != "float32")
    counter = FlopCounterMode(display=False)
    try:
        with torch.device("meta"), torch.inference_mode(), counter, autocast:
            model.injection.prepare(arguments)
            embeds = torch.empty(1, tokens, model.host.width, dtype=language.get_input_embeddings().weight.dtype)
            # A mask of four axes is taken as it is; making one would look into values.
            mask, places = embeds.new_zeros(1, 1, tokens, tokens), torch.arange(tokens)[None]
            decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False)
    finally:
        model.injection.clear()
    return int(counter.get_total_flops() + 2 * REPORT * head(model).numel())


def head(model: RRGModel) -> Tensor:
    """The weight that makes logits; a host without a head of its own uses the embeddings'."""
    language = model.host.model
    weight: Tensor = (language.get_output_embeddings() or language.get_input_embeddings()).weight
    return weight


def total(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def bytes_of(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def weights_of(model: RRGModel) -> int:
    return bytes_of(list(model.parameters()))


def kv_width(model: RRGModel) -> int:
    config = model.host.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(heads * width)
