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

import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
from rrg.model.model import RRGModel, build
from rrg.observations import OBSERVATIONS
from rrg.signals import of_training

REPORT = 100
LABELS = "disease_labels"
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ESTIMATES = f"""\
Memory and FLOPs are estimates. Training: weights, gradients and AdamW's moments of what trains, exactly;
activations by 17 values a token and layer (2 with checkpointing), 3 copies of the logits and the outputs of
the encoders. Generation: weights and key-value cache. FLOPs: one study, a report of {REPORT} tokens."""

Values = dict[tuple[str, str], Any]


@dataclass
class StagePlan:
    """One stage. trains: trainable parameters by part. texts: what it shows its losses beside the film. memory: bytes
    on each device, by use.
    """

    name: str
    trains: dict[str, int]
    losses: list[str]
    texts: list[str]
    settings: dict[str, Any]
    memory: dict[str, int]


@dataclass
class Plan:
    """What a recipe will build and cost; `table()` for reading, `to_json()` for programs.

    pieces: name, kind, parameters and origin of each part; the host's language model, adapters and vision tower first.
    wires: reader, provider, signal and shape. prefix: slots and views of the visual prefix.
    generation_memory: bytes. flops_per_report: of one study with a report of REPORT tokens. Either is None where it is
    not available; `notes` say why, and what else is worth knowing: lengths that the host was not made for.
    adapters: what LoRA adapts (`targets`), and the decoder layers' other weights (`left_out`), by name.
    """

    expression: str
    hash: str
    host: dict[str, Any]
    pieces: list[dict[str, Any]]
    wires: list[dict[str, str]]
    prefix: dict[str, int]
    stages: list[StagePlan] = field(default_factory=list)
    total_parameters: int = 0
    generation_memory: int | None = 0
    flops_per_report: int | None = 0
    adapters: dict[str, list[str]] | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        lines = [f"recipe {self.hash}: {self.expression} on {self.host['name']}", "", "pieces"]
        lines += _columns([[p["name"], p["kind"], count(p["parameters"]), p["origin"]] for p in self.pieces])
        lines += ["", "who feeds whom"]
        lines += _columns([[w["reader"], "<-", w["provider"], w["signal"], _when(w)] for w in self.wires])
        if self.adapters:
            lines += ["", *_wrapped("LoRA adapts:", self.adapters["targets"])]
            lines += _wrapped("left as they are:", self.adapters["left_out"] or ["nothing else of the layers"])
        for number, stage in enumerate(self.stages, 1):
            lines += ["", *_stage_lines(number, stage)]
        lines += [
            "",
            f"parameters {count(self.total_parameters)}; "
            f"visual prefix of {self.prefix['slots']} positions ({self.prefix['views']} films)",
            f"generation {self._generation()}",
            *(line for note in self.notes for line in _wrapped("note:", note.split(), between=" ")),
            "",
            ESTIMATES,
        ]
        return "\n".join(lines)

    def _generation(self) -> str:
        memory, flops = self.generation_memory, self.flops_per_report
        about = "memory not available" if memory is None else f"about {size(memory)}"
        return f"{about}, {'FLOPs not available' if flops is None else f'{flops / 1e9:,.1f} GFLOPs a report'}"


def plan(recipe: Recipe, plugins: Plugins | None = None) -> Plan:
    """Plan a recipe without reading any weights.

    Raises UsageError where a piece cannot be built or run on the meta device, or gives other shapes than it says.
    """
    plugins = plugins or find()
    with torch.device("meta"):
        model = build(recipe, plugins=plugins, weights=False).eval()
        model.requires_grad_(False)  # the counter would hook what asks for gradients, and there are none here
        with torch.inference_mode(), FlopCounterMode(display=False) as counter, _Outputs(model) as outputs:
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
        return int(counter.get_total_flops() + _language_flops(model, values, last) + tower)

    def count_generation() -> int:
        cache = 2 * len(model.host.layers) * _kv_width(model) * last * BYTES[recipe.host.dtype]
        return _weights(model) + cache * recipe.generation.batch_size * recipe.generation.beams

    flops = _estimate("FLOPs", count_flops, notes)
    generation = _estimate("memory of generation", count_generation, notes)
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


def _estimate(what: str, compute: Callable[[], int], notes: list[str]) -> int | None:
    """An estimate, or None and a note where a host's own code defeats it: it may train all the same."""
    try:
        return compute()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        notes.append(f"{what} not available: {type(error).__name__}: {reason:.200}")
        return None


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


def count(number: int) -> str:
    """1.20 B, 33.60 M, 5.10 k."""
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


def _when(wire: dict[str, str]) -> str:
    return wire["shape"] + (", in training alone" if of_training(wire["signal"]) else "")


def _stage_lines(number: int, stage: StagePlan) -> list[str]:
    s = stage.settings
    length = f"{s['max_steps']} steps" if s["max_steps"] > 0 else f"{s['epochs']:g} epochs"
    trained = [f"{part} {count(n)}" for part, n in stage.trains.items() if n]
    uses = [f"{part} {size(n)}" for part, n in stage.memory.items() if part != "total"]
    return [
        f"stage {number}: {stage.name}: {length}, batch {s['batch_size']} x {s['accumulation']}, AdamW {s['lr']:g}, "
        f"{s['schedule']}",
        *_wrapped(f"trains {count(sum(stage.trains.values()))}:", trained or ["nothing"]),
        *_wrapped("losses:", stage.losses),
        *([f"  texts: {', '.join(stage.texts)}, in training alone"] if stage.texts else []),
        *(["  prompt: with the retrieved report"] if s["exemplars"] else []),
        *_wrapped(f"memory about {size(stage.memory['total'])} a device:", uses),
    ]


def _wrapped(head: str, parts: list[str], between: str = ", ") -> list[str]:
    whole = between.join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)  # a part is never broken
    lines = textwrap.wrap(f"{head} {whole}", 110, initial_indent="  ", subsequent_indent="    ")
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


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


def _language_flops(model: RRGModel, values: Values, tokens: int) -> int:
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
    return int(counter.get_total_flops() + 2 * REPORT * _head(model).numel())


def _head(model: RRGModel) -> Tensor:
    """The weight that makes logits; a host without a head of its own uses the embeddings'."""
    language = model.host.model
    weight: Tensor = (language.get_output_embeddings() or language.get_input_embeddings()).weight
    return weight


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
            rows.append({"name": name, "kind": kind, "parameters": _total(parameters), "origin": origin})
    for name, kind in model.kinds.items():
        if kind != "stage":
            plugin = plugins.plugin_of(name)
            parameters = [p for _, p in model.piece_parameters(name)]
            origin = f"{plugin.distribution} {plugin.version}"
            rows.append({"name": name, "kind": kind, "parameters": _total(parameters), "origin": origin})
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
    with torch.inference_mode(), _Outputs(model) as outputs:
        return texts, _signals(model, recipe, texts), outputs.bytes


def _stage(model: RRGModel, name: str, texts: list[str], tokens: int, encoder_bytes: int) -> StagePlan:
    model.begin(name)
    recipe, stage = model.recipe, model.configs[name]
    assert isinstance(stage, StageConfig)
    parts = _host_parts(model)
    for piece in [*model.modules_by_piece, *model.injection.pieces]:
        parts[piece] = [p for _, p in model.piece_parameters(piece)]
    trained = {part: [p for p in parameters if p.requires_grad] for part, parameters in parts.items()}
    trained_bytes = sum(_bytes(parameters) for parameters in trained.values())
    element = BYTES[recipe.host.dtype]
    kept = 2 if recipe.host.gradient_checkpointing else 17
    decoder = kept * element * tokens * model.host.width * len(model.host.layers)
    logits = 3 * 4 * REPORT * _head(model).shape[0]
    copies = 0 if recipe.host.dtype == "float32" else trained_bytes * element // 4
    memory = {
        "weights": _weights(model) + copies,
        "gradients": trained_bytes,
        "AdamW": 2 * trained_bytes,
        "activations": (stage.batch_size or 1) * (encoder_bytes + (decoder + logits) * stage.report),
    }
    return StagePlan(
        name=name,
        trains={part: _total(parameters) for part, parameters in trained.items()},
        losses=model.roles.losses(model.stage),
        texts=texts,
        settings=stage.model_dump(mode="json"),
        memory={**memory, "total": sum(memory.values())},
    )


def _total(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _bytes(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _weights(model: RRGModel) -> int:
    return _bytes(list(model.parameters()))


def _kv_width(model: RRGModel) -> int:
    config = model.host.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(heads * width)
