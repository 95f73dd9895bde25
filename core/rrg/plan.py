"""The plan of a recipe, computed on the meta device: an 8B host is planned on a laptop, without its weights.

Memory and FLOPs are estimates. FLOPs are counted on the meta device for one study with a report of REPORT tokens
(a decoded token costs what it costs in one pass over the whole sequence, given the key-value cache). Training memory
per device is weights + gradients and AdamW's two moments of what trains, in float32 + activations: 17 values a token
and layer of the language model (Korthikanti et al. 2022, with fused attention; 2 with activation checkpointing), three
copies of the logits, and every module's output in the encoders.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rrg.config import StageConfig
from rrg.hosts.qwen3_vl import Qwen3VLHost
from rrg.model import RRGModel, build
from rrg.observations import OBSERVATIONS
from rrg.plugins import Plugins
from rrg.recipe import Recipe

REPORT = 100
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass
class StagePlan:
    """One stage. parameters: trainable, by part. memory: bytes on each device."""

    name: str
    trains: dict[str, int]
    losses: list[str]
    settings: dict[str, Any]
    memory: dict[str, int]


@dataclass
class Plan:
    """What a recipe will build and cost; `table()` for reading, `to_json()` for programs."""

    expression: str
    hash: str
    host: dict[str, Any]
    pieces: list[dict[str, Any]]
    wires: list[dict[str, str]]
    prefix: dict[str, int]
    stages: list[StagePlan] = field(default_factory=list)
    total_parameters: int = 0
    generation_memory: int = 0
    flops_per_report: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        lines = [f"recipe {self.hash}: {self.expression} on {self.host['name']}", "", "pieces"]
        lines += _columns([[p["name"], p["kind"], count(p["parameters"]), p["version"]] for p in self.pieces])
        lines += ["", "who feeds whom"]
        lines += _columns([[w["reader"], "<-", w["provider"], w["signal"], w["shape"]] for w in self.wires])
        for number, stage in enumerate(self.stages, 1):
            s = stage.settings
            exemplars = ", retrieved reports in the prompt" if s["exemplars"] else ""
            length = f"{s['max_steps']} steps" if s["max_steps"] > 0 else f"{s['epochs']:g} epochs"
            lines += ["", f"stage {number}: {stage.name}: {length}, batch {s['batch_size']} x {s['accumulation']}, "
                          f"AdamW {s['lr']:g}, {s['schedule']}{exemplars}"]
            trained = ", ".join(f"{part} {count(n)}" for part, n in stage.trains.items() if n)
            lines += [f"  trains {count(sum(stage.trains.values()))}: {trained or 'nothing'}"]
            lines += [f"  losses: report{''.join(', ' + loss for loss in stage.losses)}"]
            parts = ", ".join(f"{part} {size(n)}" for part, n in stage.memory.items() if part != "total")
            lines += [f"  memory about {size(stage.memory['total'])} a device: {parts}"]
        lines += ["", f"parameters {count(self.total_parameters)}; visual prefix of {self.prefix['slots']} positions "
                      f"({self.prefix['views']} films)"]
        lines += [f"generation about {size(self.generation_memory)}, {self.flops_per_report / 1e9:,.1f} GFLOPs a report "
                  f"of {REPORT} tokens"]
        return "\n".join(lines)


def plan(recipe: Recipe, plugins: Plugins | None = None) -> Plan:
    """Plan a recipe without reading any weights."""
    with torch.device("meta"):
        model = build(recipe, plugins=plugins, weights=False)
        model.eval()
        batch = _batch(recipe, 1)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter, _Outputs(model) as outputs:
            values = model.signals(batch)
    shapes = {key: tuple(value.shape) for key, value in values.items() if isinstance(value, Tensor)}
    slots = _slots(model, shapes)
    text = _prompt_tokens(recipe) + REPORT
    flops = counter.get_total_flops() + _language_flops(model, values, slots + text)
    if model.native and isinstance(model.host, Qwen3VLHost):
        flops += _tower_flops(model.host, recipe)
    made = Plan(
        expression=recipe.expression,
        hash=recipe.hash,
        host={"name": recipe.host.name, "kind": recipe.host.kind, "layers": len(model.host.layers),
              "width": model.host.width, "dtype": recipe.host.dtype},
        pieces=_pieces(model, recipe),
        wires=_wires(model, recipe, shapes),
        prefix={"slots": slots, "views": recipe.image.views},
        total_parameters=sum(p.numel() for p in model.parameters()),
        flops_per_report=flops,
    )
    for name in recipe.stages:
        made.stages.append(_stage(model, name, slots + text, outputs.bytes))
    cache = 2 * len(model.host.layers) * _kv_width(model) * (slots + text) * BYTES[recipe.host.dtype]
    made.generation_memory = _weights(model, recipe) + cache * recipe.generation.batch_size * recipe.generation.beams
    return made


def count(number: int) -> str:
    """1.2 B, 33.6 M, 5.1 k."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return str(number)


def size(number: int) -> str:
    """GiB, or MiB below one."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _batch(recipe: Recipe, studies: int) -> dict[str, Tensor]:
    image = recipe.image
    return {
        "pixel_values": torch.empty(studies, image.views, 1, image.size, image.size),
        "view_mask": torch.ones(studies, image.views, dtype=torch.bool),
        "disease_labels": torch.empty(studies, len(OBSERVATIONS)),
    }


class _Outputs:
    """Bytes that the leaf modules of the encoders and connectors put out, what backward keeps of them."""

    def __init__(self, model: RRGModel) -> None:
        self.bytes = 0
        leaves = [m for piece in model.modules_by_piece.values() for m in piece.modules() if not list(m.children())]
        self.hooks = [leaf.register_forward_hook(self._add) for leaf in leaves]

    def _add(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, Tensor):
                self.bytes += tensor.numel() * tensor.element_size()

    def __enter__(self) -> "_Outputs":
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()


def _slots(model: RRGModel, shapes: dict[tuple[str, str], tuple[int, ...]]) -> int:
    if model.recipe.visual_embeds == "host" and isinstance(model.host, Qwen3VLHost):
        return model.host.tokens_of_film(model.recipe.image.size) * model.recipe.image.views
    return shapes[model.recipe.visual_embeds, "visual_embeds"][1]


def _prompt_tokens(recipe: Recipe) -> int:
    """About four letters a token; a host's own tokenizer is not at hand when planning."""
    exemplar = recipe.text.exemplar if any(recipe.pieces[name]["exemplars"] for name in recipe.stages) else 0
    return len(recipe.host.prompt) // 4 + exemplar


def _language_flops(model: RRGModel, values: dict[tuple[str, str], Any], tokens: int) -> int:
    arguments = {name: model.arguments(name, values) for name in model.injection.pieces}
    decoder, head = model.host.model.get_decoder(), model.host.model.get_output_embeddings()
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.recipe.host.dtype != "float32"):
            model.injection.prepare(arguments)
            embeds = torch.empty(1, tokens, model.host.width, dtype=decoder.get_input_embeddings().weight.dtype)
            # A mask of four axes is taken as it is; making one would look into values, and meta tensors have none.
            decoder(inputs_embeds=embeds, attention_mask=embeds.new_zeros(1, 1, tokens, tokens), use_cache=False)
    model.injection.clear()
    return counter.get_total_flops() + 2 * REPORT * head.weight.numel()


def _tower_flops(host: Qwen3VLHost, recipe: Recipe) -> int:
    """The host's own tower: two FLOPs a weight and patch, and the two products of attention within a film."""
    patches, vision = host.grid(recipe.image.size) ** 2, host.model.config.vision_config
    weights = sum(m.weight.numel() for m in host.tower.modules() if isinstance(m, (nn.Linear, nn.Conv3d)))
    attention = 4 * patches**2 * vision.hidden_size * vision.depth
    return int(recipe.image.views * (2 * weights * patches + attention))


def _pieces(model: RRGModel, recipe: Recipe) -> list[dict[str, Any]]:
    language = sum(p.numel() for _, p in model.host.language_parameters())
    rows = [{"name": "host", "kind": recipe.host.kind, "parameters": language, "version": recipe.host.source or "at random"}]
    if isinstance(model.host, Qwen3VLHost):
        tower = sum(p.numel() for p in model.host.tower.parameters())
        note = "the host's own" if model.native else "not used"
        rows.append({"name": "host.vision", "kind": "tower", "parameters": tower, "version": note})
    for name, kind in model.kinds.items():
        if kind != "stage":
            parameters = sum(p.numel() for _, p in model.piece_parameters(name))
            rows.append({"name": name, "kind": kind, "parameters": parameters, "version": ""})
    return rows


def _wires(model: RRGModel, recipe: Recipe, shapes: dict[tuple[str, str], tuple[int, ...]]) -> list[dict[str, str]]:
    rows = []
    for name, contract in model.contracts.items():
        for port in contract.reads:
            provider = recipe.wire.get(f"{name}.{port.argument}")
            if provider is not None:
                shape = shapes.get((provider, port.signal))
                sizes = shape[1:] if shape else ()
                axes = port.axes.split()
                bound = ["batch", *(f"{axis}={n}" for axis, n in zip(axes[1:], sizes, strict=True))] if shape else axes
                rows.append({"reader": name, "provider": provider, "signal": port.signal, "shape": f"({', '.join(bound)})"})
    prefix = shapes.get((recipe.visual_embeds, "visual_embeds"))
    bound = f"(batch, slots={prefix[1]}, host={prefix[2]})" if prefix else "(batch, slots, host)"
    return [*rows, {"reader": "host", "provider": recipe.visual_embeds, "signal": "visual_embeds", "shape": bound}]


def _stage(model: RRGModel, name: str, tokens: int, encoder_bytes: int) -> StagePlan:
    model.begin(name)
    stage: StageConfig = model.configs[name]
    recipe = model.recipe
    trains = {"host": 0}
    for parameter_name, parameter in model.host.named_parameters():
        if parameter.requires_grad and ".rrg." not in parameter_name:
            trains["host"] += parameter.numel()
    for piece in [*model.modules_by_piece, *model.injection.pieces]:
        trains[piece] = sum(p.numel() for _, p in model.piece_parameters(piece) if p.requires_grad)
    trainable = sum(trains.values())
    batch = stage.batch_size or 1
    element = BYTES[recipe.host.dtype]
    kept = 2 if recipe.host.gradient_checkpointing else 17
    head = model.host.model.get_output_embeddings().weight.shape[0]
    memory = {
        "weights": _weights(model, recipe),
        "gradients and AdamW": 12 * trainable,
        "activations": batch * (kept * element * tokens * model.host.width * len(model.host.layers)
                                + 3 * 4 * REPORT * head + encoder_bytes),
    }
    return StagePlan(name, trains, model.losses(), stage.model_dump(mode="json"), {**memory, "total": sum(memory.values())})


def _weights(model: RRGModel, recipe: Recipe) -> int:
    return sum(p.numel() * (4 if p.requires_grad else p.element_size()) for p in model.parameters())


def _kv_width(model: RRGModel) -> int:
    config = model.host.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    return int(heads * getattr(config, "head_dim", None) or heads * config.hidden_size // config.num_attention_heads)
