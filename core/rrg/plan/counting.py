"""The plan of a recipe, computed on the meta device: an 8B host is planned on a laptop, without its weights.

Parameters, shapes and the bytes of weights, gradients and optimizer are exact. Activations and FLOPs are estimates;
one that a host defeats is said not to be available, and why, and stops nothing.
FLOPs are counted on the meta device for one study with a report of REPORT tokens (a decoded token costs what it costs
in one pass over the whole sequence, given the key-value cache). Training memory per device is the weights, the copies
that autocast makes of trained ones where the host is not float32, gradients and AdamW's two moments of what trains, and
activations: 17 values a token and layer of the language model (Korthikanti et al. 2022, with fused attention; 2 with
activation checkpointing), three float32 copies of the report's logits, and every module's output in the encoders.
Generation is the weights and the key-value cache of a whole batch and its beams.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rrg.composing.plugins import Plugins, find
from rrg.composing.recipe import Recipe
from rrg.config import StageConfig
from rrg.errors import RRGError, UsageError
from rrg.feed.batch import Prompt
from rrg.model.hosts.lengths import Lengths, lengths_of
from rrg.model.model import RRGModel, Values, build
from rrg.observations import OBSERVATIONS
from rrg.plan.estimates import BYTES, Outputs, bytes_of, estimate, head, kv_width, language_flops, total, weights_of
from rrg.plan.table import REPORT, Plan, StagePlan
from rrg.signals import of_training

LABELS = "disease_labels"


def plan(recipe: Recipe, plugins: Plugins | None = None) -> Plan:
    """Plan a recipe without reading any weights.

    Raises UsageError where a piece cannot be built or run on the meta device, or gives other shapes than it says.
    """
    plugins = plugins or find()
    with torch.device("meta"):
        model = build(recipe, plugins=plugins, weights=False).eval()
        model.requires_grad_(False)  # the counter would hook what asks for gradients, and there are none here
        with torch.inference_mode(), FlopCounterMode(display=False) as counter, Outputs(model) as outputs:
            values = _signals(model, recipe)
        shown = {name: _shown(model, recipe, name) for name in recipe.stages}
    everything: Values = {("data", LABELS): torch.empty(1, len(OBSERVATIONS), device="meta")}
    everything |= {key: value for _, found, _ in shown.values() for key, value in (found or {}).items()} | values
    shapes = _shapes(model, everything)
    slots = _slots(model, shapes)
    last = slots + _prompt_tokens(model, recipe.stages[-1]) + REPORT
    notes: list[str] = []

    def count_flops() -> int:
        tower = recipe.image.views * model.host.tower_flops(recipe.image.size) if model.native else 0
        return int(counter.get_total_flops() + language_flops(model, values, last) + tower)

    def count_generation() -> int:
        cache = 2 * len(model.host.layers) * kv_width(model) * last * BYTES[recipe.host.dtype]
        return weights_of(model) + cache * recipe.generation.batch_size * recipe.generation.beams

    flops = estimate("FLOPs", count_flops, notes)
    generation = estimate("memory of generation", count_generation, notes)
    stages = []
    for name, (texts, found, kept) in shown.items():
        prefix = _slots(model, _shapes(model, found)) if found else slots
        tokens = prefix + _prompt_tokens(model, name) + REPORT
        stages.append(_stage(model, name, texts, tokens, kept if found else outputs.bytes))
    notes += _lengths(model, recipe, slots, shown)
    return Plan(
        expression=recipe.expression,
        hash=recipe.hash,
        host={
            "name": recipe.host.name,
            "kind": recipe.host.kind,
            "layers": len(model.host.layers),
            "width": model.host.width,
            "dtype": recipe.host.dtype,
        },
        pieces=_pieces(model, recipe, plugins),
        wires=_wires(model, recipe, shapes),
        prefix={"slots": slots, "views": recipe.image.views},
        stages=stages,
        total_parameters=sum(p.numel() for p in model.parameters()),
        generation_memory=generation,
        flops_per_report=flops,
        adapters=model.host.adapted._asdict() if model.host.adapted else None,
        notes=notes,
    )


def _lengths(
    model: RRGModel, recipe: Recipe, slots: int, shown: dict[str, tuple[list[str], Values | None, int]]
) -> list[str]:
    """Notes where the prefix, the prompt and the longest report are more than the host reads.

    Raises UsageError where its positions are a table of fewer.
    """
    limits, notes = lengths_of(model.host.model, model.host.decoder[0]), [*model.host.notes]
    for name, (_, found, _) in shown.items():
        stage = model.configs[name]
        if stage.report:
            prefix = _slots(model, _shapes(model, found)) if found else slots
            prompt = _prompt_tokens(model, name)
            notes += _said(limits, recipe, f"{name}'s longest text", prefix, prompt, recipe.text.report + 1)
    prompt, new = _prompt_tokens(model, recipe.stages[-1]), recipe.generation.max_new_tokens
    notes += _said(limits, recipe, "the longest text of generation", slots, prompt, new)
    return notes


def _said(limits: Lengths, recipe: Recipe, what: str, prefix: int, prompt: int, report: int) -> list[str]:
    parts = f"{what} (prefix {prefix} + prompt {prompt} + report {report})"
    return limits.check(recipe.host.name, prefix + prompt + report, parts)


def _signals(model: RRGModel, recipe: Recipe, texts: list[str] | None = None) -> Values:
    """texts: those of a training batch; None: what a report is written from."""
    image = recipe.image
    batch = {
        "pixel_values": torch.empty(1, image.views, 1, image.size, image.size),
        "view_mask": torch.ones(1, image.views, dtype=torch.bool),
    }
    if texts is not None:
        batch[LABELS] = torch.empty(1, len(OBSERVATIONS))
    for text in texts or ():
        batch[f"{text}_ids"] = torch.zeros(1, REPORT, dtype=torch.long)
        batch[f"{text}_mask"] = torch.ones(1, REPORT, dtype=torch.bool)
    try:
        return model.signals(batch)
    except RRGError:
        raise
    except Exception as error:  # a piece's own code may raise anything
        raise UsageError(
            f"the encoders cannot run on the meta device ({type(error).__name__}: {error}); "
            "a piece reads its inputs' shapes, never their values"
        ) from error


def _shapes(model: RRGModel, values: Values) -> dict[tuple[str, str], tuple[int, ...]]:
    """Shapes by provider and signal, compared with the annotations: each axis has one size throughout."""
    shapes = {key: tuple(value.shape) for key, value in values.items() if isinstance(value, Tensor)}
    wrong = []
    for name, contract in model.contracts.items():
        sizes = {"batch": 1, "host": model.host.width, "diseases": len(OBSERVATIONS)}
        for port in contract.gives:
            shape, axes = shapes.get((name, port.signal)), port.axes.split()
            if shape is None:
                continue
            sizes |= {a: int(a) if a.isdecimal() else n for a, n in zip(axes, shape, strict=False) if a not in sizes}
            if len(axes) != len(shape) or any(n != sizes[axis] for axis, n in zip(axes, shape, strict=True)):
                wrong.append(f"{name} gives {port.signal} of the shape {shape}, annotated ({port.axes})")
    if wrong:
        raise UsageError(f"shapes do not match (host is {model.host.width} here)", wrong)
    return shapes


def _slots(model: RRGModel, shapes: dict[tuple[str, str], tuple[int, ...]]) -> int:
    if model.recipe.visual_embeds == "host":
        return model.host.tokens_of_film(model.recipe.image.size) * model.recipe.image.views
    return shapes[model.recipe.visual_embeds, "visual_embeds"][1]


def _prompt_tokens(model: RRGModel, stage: str) -> int:
    """By the tokenizer where it is at hand, without the film; else about four letters a token."""
    exemplar = model.recipe.text.exemplar if model.configs[stage].exemplars else 0
    if model.host.tokenizer is None:
        return len(model.recipe.host.prompt) // 4 + exemplar
    before, after = Prompt(model.recipe, model.host).ids(0, "" if exemplar else None)
    return len(before) + len(after) + exemplar


def _host_parts(model: RRGModel) -> dict[str, list[nn.Parameter]]:
    """The host's parameters: the published language model, adapters on it, its vision tower."""
    language = model.host.language_parameters()
    parts = {
        "host": [p for name, p in language if "lora_" not in name],
        "host.lora": [p for name, p in language if "lora_" in name],
    }
    if model.host.tower is not None:
        parts["host.vision"] = list(model.host.tower.parameters())
    return parts


def _pieces(model: RRGModel, recipe: Recipe, plugins: Plugins) -> list[dict[str, Any]]:
    about = {
        "host": (recipe.host.kind, recipe.host.source or "built at random"),
        "host.lora": ("adapters", "peft"),
        "host.vision": ("tower", "the host's own" if model.native else "the host's own, not used"),
    }
    rows = []
    for name, parameters in _host_parts(model).items():
        if parameters:
            kind, origin = about[name]
            rows.append({"name": name, "kind": kind, "parameters": total(parameters), "origin": origin})
    for name, kind in model.kinds.items():
        if kind != "stage":
            plugin = plugins.plugin_of(name)
            parameters = [p for _, p in model.piece_parameters(name)]
            origin = f"{plugin.distribution} {plugin.version}"
            rows.append({"name": name, "kind": kind, "parameters": total(parameters), "origin": origin})
    return rows


def _wires(model: RRGModel, recipe: Recipe, shapes: dict[tuple[str, str], tuple[int, ...]]) -> list[dict[str, str]]:
    """Every reader's signals; sizes stand at the axes after the batch."""
    rows = []
    for name, contract in model.contracts.items():
        for port in contract.reads:
            provider = recipe.wire.get(f"{name}.{port.argument}")
            unseen = of_training(port.signal) and (provider, port.signal) not in shapes
            if provider is not None and not unseen:  # a text that no stage shows
                shape = _sizes(port.axes, shapes.get((provider, port.signal)))
                rows.append({"reader": name, "provider": provider, "signal": port.signal, "shape": shape})
    prefix = (1, _slots(model, shapes), model.host.width)
    embeds = {"provider": recipe.visual_embeds, "signal": "visual_embeds", "shape": _sizes("batch slots host", prefix)}
    return [*rows, {"reader": "host", **embeds}]


def _sizes(axes: str, shape: tuple[int, ...] | None) -> str:
    names = axes.split()[1:]
    return " ".join(f"{axis}={n}" for axis, n in zip(names, shape[1:], strict=True)) if shape else " ".join(names)


def _shown(model: RRGModel, recipe: Recipe, name: str) -> tuple[list[str], Values | None, int]:
    """The texts that a stage shows beside the films. With them, or where a piece makes something of the labels: its
    signals and the bytes that the encoders put out.
    """
    stage = model.configs[name]
    texts = model.roles.texts(stage)
    readers = [n for n, kind in model.kinds.items() if kind != "loss" and n in model.roles.needed(stage)]
    if not texts and not any(port.signal == LABELS for n in readers for port in model.contracts[n].reads):
        return [], None, 0
    with torch.inference_mode(), Outputs(model) as outputs:
        return texts, _signals(model, recipe, texts), outputs.bytes


def _stage(model: RRGModel, name: str, texts: list[str], tokens: int, encoder_bytes: int) -> StagePlan:
    model.begin(name)
    recipe, stage = model.recipe, model.configs[name]
    assert isinstance(stage, StageConfig)
    parts = _host_parts(model)
    for piece in [*model.modules_by_piece, *model.injection.pieces]:
        parts[piece] = [p for _, p in model.piece_parameters(piece)]
    trained = {part: [p for p in parameters if p.requires_grad] for part, parameters in parts.items()}
    trained_bytes = sum(bytes_of(parameters) for parameters in trained.values())
    element = BYTES[recipe.host.dtype]
    kept = 2 if recipe.host.gradient_checkpointing else 17
    decoder = kept * element * tokens * model.host.width * len(model.host.layers)
    logits = 3 * 4 * REPORT * head(model).shape[0]
    copies = 0 if recipe.host.dtype == "float32" else trained_bytes * element // 4
    memory = {
        "weights": weights_of(model) + copies,
        "gradients": trained_bytes,
        "AdamW": 2 * trained_bytes,
        "activations": (stage.batch_size or 1) * (encoder_bytes + (decoder + logits) * stage.report),
    }
    return StagePlan(
        name=name,
        trains={part: total(parameters) for part, parameters in trained.items()},
        losses=model.roles.losses(model.stage),
        texts=texts,
        settings=stage.model_dump(mode="json"),
        memory={**memory, "total": sum(memory.values())},
    )
