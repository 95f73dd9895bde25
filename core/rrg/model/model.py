"""The composed model: signals from film to visual prefix, injected modules, the language model, auxiliary losses.

Precision: what any stage trains, and every piece, is float32; the rest of the host has `host.dtype`. Where that is not
float32, everything runs under autocast to it.
"""

from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.composing.contract import Contract, can_run, contract_of
from rrg.composing.plugins import Plugins, find
from rrg.composing.recipe import Recipe
from rrg.config import GenerationConfig, LoRA, StageConfig
from rrg.errors import UsageError
from rrg.masked import masked_mean
from rrg.model.hosts.build import build_host
from rrg.model.hosts.text import TextHost
from rrg.model.inject import Injection
from rrg.model.making import made, settings_of, width_of
from rrg.model.roles import REPORT, Roles
from rrg.pieces import Registered
from rrg.signals import SIGNALS, of_training

Values = dict[tuple[str, str], Any]  # signals by provider and name
MODULE_KINDS = ("encoder", "connector", "loss", "retriever")
DATA = [name for name, signal in SIGNALS.items() if signal.source == "data"]


class RRGModel(nn.Module):
    """A recipe made flesh. Build it with `build`."""

    # The Trainer would otherwise infer from `**batch` that the loss is a sum over all accumulated tokens, and would not
    # divide it by the number of accumulated steps.
    accepts_loss_kwargs = False

    def __init__(self, recipe: Recipe, host: TextHost, registered: dict[str, Registered]) -> None:
        super().__init__()
        self.recipe, self.host = recipe, host
        self.kinds = {name: piece.kind for name, piece in registered.items()}
        self.contracts: dict[str, Contract] = {name: contract_of(piece) for name, piece in registered.items()}
        self.configs = {name: settings_of(recipe, name, contract) for name, contract in self.contracts.items()}
        self.roles = Roles(recipe, self.kinds, self.contracts, self.configs)
        self.native = host.tower is not None and "patch_tokens" not in {
            port.signal for contract in self.contracts.values() for port in contract.gives
        }
        vision = host.vision if self.native else 0
        axes = Axes(host=host.width, layers=len(host.layers), image=recipe.image.size, vision=vision)
        self.modules_by_piece: dict[str, nn.Module] = {}
        self.injection = Injection(host.model, host.layers)
        for name, piece in registered.items():
            if piece.kind in MODULE_KINDS:
                module = made(piece, self.configs[name], axes)
                self.add_module(name.replace(".", "/"), module)
                self.modules_by_piece[name] = module
                if self.roles.gives(name, "patch_tokens"):
                    axes = replace(axes, vision=width_of(name, module, "vision", "patch_tokens"))
                if self.roles.gives(name, "report_tokens"):
                    axes = replace(axes, language=width_of(name, module, "language", "report_tokens"))
            elif piece.kind == "injector":
                self._inject(name, piece, axes)
        if (encoder := self.text_encoder) is not None:
            self.roles.text_encoder = encoder
            self.roles.text_is_frozen = getattr(self.modules_by_piece[encoder], "frozen", None)
        self.stage: StageConfig | None = None
        self.touched: set[str] = set()
        self._parts: dict[str, Tensor] = {}
        self._train_in_float32()

    def _inject(self, name: str, piece: Registered, axes: Axes) -> None:
        config = self.configs[name]
        wanted = range(axes.layers) if config.layers == "all" else config.layers
        outside = [index for index in wanted if not 0 <= index < axes.layers]
        if outside or not wanted or len(set(wanted)) < len(wanted):
            raise UsageError(
                f"{name}.layers={config.layers}: expected different layers of {self.recipe.host.name}, "
                f"which has 0 to {axes.layers - 1}"
            )
        device = next(self.host.layers[0].parameters()).device
        modules: dict[int, nn.Module] = {}
        for index in wanted:
            modules[index] = made(piece, config, axes, layer=index, first=modules.get(wanted[0])).to(device)
        self.injection.add(name, modules, config.where)

    def _train_in_float32(self) -> None:
        """AdamW's small steps are lost in bfloat16, so what any stage trains is float32 from the start."""
        for name in self.recipe.stages:
            for trains, parameters in self._shares(self.configs[name]):
                for _, parameter in parameters:
                    if trains and parameter.dtype != torch.float32:
                        parameter.data = parameter.data.float()

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        if self.recipe.host.dtype == "float32" or device.type == "meta":
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, self.recipe.host.dtype))

    # Signals

    def signals(self, batch: dict[str, Tensor], pieces: Container[str] | None = None) -> Values:
        """Signals of a batch, by provider and name; the host's tower runs here where the host has the task.

        pieces: those that shall run; None: all. A piece to which something is missing that it must have, as a text
        encoder when a report is written, doesn't run and gives nothing.
        """
        values: Values = {("data", name): batch[name] for name in DATA if name in batch}
        with self._autocast(batch["pixel_values"].device):
            if self.native:
                seen = self.host.see(batch["pixel_values"], batch["view_mask"])
                values |= {("host", name): value for name, value in seen.items()}
            for name, module in self.modules_by_piece.items():
                if self.kinds[name] not in ("encoder", "connector") or not (pieces is None or name in pieces):
                    continue
                arguments = self.arguments(name, values)
                if can_run(self.contracts[name], {n for n, value in arguments.items() if value is not None}):
                    given, ports = module(**arguments), self.contracts[name].gives
                    values |= {(name, port.signal): getattr(given, port.argument) for port in ports}
        return values

    def arguments(self, name: str, values: Values) -> dict[str, Any]:
        """What one piece reads, by argument."""
        wires = self.recipe.wire
        return {
            port.argument: values.get((wires[f"{name}.{port.argument}"], port.signal))
            for port in self.contracts[name].reads
            if f"{name}.{port.argument}" in wires
        }

    def _inputs(self, batch: dict[str, Tensor], values: Values) -> dict[str, Any]:
        """Arguments of the language model; also prepares the injected modules for these studies."""
        self.injection.prepare({name: self.arguments(name, values) for name in self.injection.pieces})
        source = self.recipe.visual_embeds
        if source == "host":
            return self.host.assemble_native(batch, values["host", "visual_embeds"], self.recipe.image.size)
        embeds = values[source, "visual_embeds"]
        mask = values.get((source, "visual_mask"))
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        return self.host.assemble(batch, embeds, mask)

    # Training and generation

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The stage's loss: the language model's plus every auxiliary loss by its weight."""
        with self._autocast(batch["pixel_values"].device):
            values = self.signals(batch, self.roles.needed(self.stage))
            parts = {name: self._loss(name, batch, values) for name in self.roles.losses(self.stage)}
        self._parts = {name: part.detach() for name, part in parts.items()}
        weighted = [part if name == REPORT else self.configs[name].weight * part for name, part in parts.items()]
        return {"loss": torch.stack(weighted).sum()}

    def _loss(self, name: str, batch: dict[str, Tensor], values: Values) -> Tensor:
        if name != REPORT:
            part: Tensor = self.modules_by_piece[name](**self.arguments(name, values))
            return part
        smoothing = (self.stage.label_smoothing if self.stage else 0.0) or 0.0
        try:
            return self.host.loss(self._inputs(batch, values), batch["labels"], smoothing)
        finally:
            self.injection.clear()

    @property
    def parts(self) -> dict[str, float]:
        """The last batch's losses by name, before their weights."""
        return {name: float(part) for name, part in self._parts.items()}

    @property
    def text_encoder(self) -> str | None:
        """The piece that tokenises what training alone shows."""
        return next((name for name, module in self.modules_by_piece.items() if hasattr(module, "tokenize")), None)

    def visual_key(self, values: Values) -> Tensor:
        """The mean patch vector of each study, of length 1 (batch vision): its inner products are cosines."""
        tokens = next(value for (_, name), value in values.items() if name == "patch_tokens")
        mask = next((value for (_, name), value in values.items() if name == "patch_mask"), None)
        mean = tokens.mean(dim=1) if mask is None else masked_mean(tokens, mask)
        return F.normalize(mean.float(), dim=-1)

    @torch.inference_mode()
    def generate(
        self,
        batch: dict[str, Tensor],
        settings: GenerationConfig | None = None,
        values: Values | None = None,
        **options: Any,
    ) -> tuple[list[str], Values]:
        """Reports for a batch of prompts padded left, and the signals that led to them. What of the batch training
        alone has is not looked at.

        values: the batch's signals, where they are computed already.
        """
        with self._autocast(batch["pixel_values"].device):
            if values is None:
                values = self.signals({name: tensor for name, tensor in batch.items() if not of_training(name)})
            try:
                inputs = self._inputs(batch, values)
                return self.host.generate(inputs, settings or self.recipe.generation, **options), values
            finally:
                self.injection.clear()

    @property
    def retriever(self) -> str | None:
        return next((name for name, kind in self.kinds.items() if kind == "retriever"), None)

    @property
    def retriever_config(self) -> object:
        return self.configs[self.retriever] if self.retriever else None

    def keys(self, values: Values) -> Tensor:
        """The retriever's keys of a batch (batch key); their inner product is the retrieval's score."""
        assert self.retriever is not None
        keys: Tensor = self.modules_by_piece[self.retriever](**self.arguments(self.retriever, values))
        return keys

    # Stages

    def begin(self, name: str) -> None:
        """Enter a stage: what it trains gets gradients, everything else is frozen, its statistics too.

        Raises UsageError for a float16 host, whose small gradients vanish, and for a stage without any loss.
        """
        if self.recipe.host.dtype == "float16":
            raise UsageError(
                "host.dtype=float16 cannot train: its gradients vanish; set host.dtype=bfloat16 or float32"
            )
        stage = self.stage = self.configs[name]
        if not self.roles.losses(self.stage):
            raise UsageError(
                f"{name} has nothing to learn from: the language model doesn't run in it (report = false), and no "
                f"auxiliary loss takes part; add a loss, such as +lead.bce, name it in {name}.losses, "
                f"give it a weight, or --set {name}.report=true"
            )
        self.requires_grad_(False)
        for trains, parameters in self._shares(stage):
            for _, parameter in parameters:
                parameter.requires_grad_(trains)
            if trains:
                self.touched |= {full for full, _ in parameters}
        self.train(self.training)

    def _shares(self, stage: StageConfig) -> Iterator[tuple[bool, list[tuple[str, nn.Parameter]]]]:
        """Every parameter once, by the part of the model that it belongs to, and whether that part trains."""
        prefix = "host.model."
        language = [(prefix + n, p) for n, p in self.host.language_parameters()]
        lora = [(n, p) for n, p in language if "lora_" in n]
        yield stage.report and stage.llm == "lora", lora
        yield stage.report and stage.llm == "full", [(n, p) for n, p in language if "lora_" not in n]
        connects = stage.report and stage.connector == "full"
        for connector, trains in ((False, stage.vision == "full"), (True, connects)):
            used = self.native and (not connector or self.recipe.visual_embeds == "host")
            yield trains and used, [(prefix + n, p) for n, p in self.host.tower_parameters(connector)]
        for name in [*self.modules_by_piece, *self.injection.pieces]:
            yield self.roles.trains(name, stage), self.piece_parameters(name)

    def piece_parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """Parameters of one piece by the names under which they are saved: `lead.gate/08/gate.weight`."""
        return self._piece_items(name, "named_parameters")

    def piece_buffers(self, name: str) -> list[tuple[str, Tensor]]:
        return self._piece_items(name, "named_buffers")

    def _piece_items(self, name: str, which: str) -> list[tuple[str, Any]]:
        if name in self.modules_by_piece:
            return [(f"{name}/{key}", value) for key, value in getattr(self.modules_by_piece[name], which)()]
        items, seen = [], set()
        for index, module in self.injection.pieces[name].items():
            for key, value in getattr(module, which)():
                if id(value) not in seen:  # a module shared between layers is saved with the first
                    seen.add(id(value))
                    items.append((f"{name}/{index:02d}/{key}", value))
        return items

    def train(self, mode: bool = True) -> "RRGModel":
        """Frozen modules stay in evaluation mode: their running statistics and dropout are frozen too."""
        super().train(mode)
        if mode and self.stage is not None:
            for module in self.modules():
                own = list(module.parameters())
                if own and not any(parameter.requires_grad for parameter in own):
                    module.eval()
            for layer in self.host.layers:
                if getattr(layer, "gradient_checkpointing", False):
                    layer.training = True  # only then does it checkpoint; the modules within it stay as they are
        return self


def build(recipe: Recipe, *, plugins: Plugins | None = None, weights: bool = True, tokenizer: Any = None) -> RRGModel:
    """Build a recipe's model. weights: False leaves the host's own weights unread, for loading a run's or planning.

    Raises UsageError where a piece of the recipe is not installed.
    """
    plugins = plugins or find()
    absent = [name for name in recipe.pieces if name not in plugins.pieces]
    if absent:
        raise UsageError(
            f"the recipe needs {', '.join(absent)}, not installed here; rrg plugins says what is and why not"
        )
    registered = {name: plugins.pieces[name] for name in recipe.pieces}
    host = build_host(recipe.host, lora_of(recipe), weights=weights, tokenizer=tokenizer)
    return RRGModel(recipe, host, registered)


def lora_of(recipe: Recipe) -> LoRA | None:
    """The adapters that any stage of the recipe trains."""
    settings = [recipe.pieces[name] for name in recipe.stages]
    return next((LoRA.model_validate(s["lora"]) for s in settings if s["llm"] == "lora"), None)
