"""Resolve an expression to a recipe, or report everything that is wrong with it at once."""

import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel, ValidationError

from rrg import __version__, grammar, resolve
from rrg import plugins as plugins_module
from rrg.config import STAGE_DEFAULTS, GenerationConfig, HostConfig, ImageConfig, TextConfig
from rrg.contract import Contract, contract_of
from rrg.errors import RRGError, UsageError
from rrg.hosts.names import host_preset
from rrg.pieces import Registered
from rrg.plugins import Plugins
from rrg.recipe import Recipe, validation_problems
from rrg.registry import registry

SECTIONS: dict[str, type[BaseModel]] = {
    "host": HostConfig,
    "image": ImageConfig,
    "text": TextConfig,
    "generation": GenerationConfig,
}
HOST_GIVES = {"text": (), "qwen3-vl": ("patch_tokens", "patch_mask", "visual_embeds")}
# Encoders and connectors run in the order of their wires; the rest follows, stages last.
RANK = {"encoder": 0, "connector": 0, "injector": 1, "loss": 2, "retriever": 3, "stage": 4}


def compose(
    expression: str | None = None,
    *,
    host: str | None = None,
    settings: Mapping[str, Any] | None = None,
    drop: Iterable[str] = (),
    wire: Mapping[str, str] | None = None,
    start: Recipe | None = None,
    plugins: Plugins | None = None,
) -> Recipe:
    """Compose pieces into a recipe.

    expression: terms joined by +; may be left out where `start` is given, whose own is taken then.
    host: a name of registry.toml, a hub id or a local folder; `start`'s or `tiny` where absent.
    settings: values by dotted name: piece.field, host.field, image.field, text.field, generation.field, seed, or
        stages.field for every stage.
    drop: pieces to leave out.
    wire: `reader.signal` to the provider that shall feed it.
    start: a recipe to begin from. Under another host its stages' settings are not taken: they were that host's.

    Raises UsageError with every problem found and the commands that settle them.
    """
    if expression is None:
        if start is None:
            raise UsageError("nothing to compose: give an expression such as lead+dmsr, or --from recipe.toml")
        expression = start.expression
    host = host or (start.host.name if start else "tiny")
    composer = _Composer(plugins or plugins_module.find())
    composer.choose(expression, set(drop))
    preset = composer.host(host)
    composer.connect(preset["host"]["kind"], {**(start.wire if start else {})}, dict(wire or {}), set(drop))
    composer.check_stages(set(drop))
    tree = composer.settings(preset, start, settings or {})
    if composer.problems:
        raise UsageError(f"cannot compose {expression!r}", list(dict.fromkeys(composer.problems)))
    return Recipe(
        expression=expression,
        seed=tree.pop("seed", 0),
        stages=[name for name in composer.order if composer.chosen[name].kind == "stage"],
        wire=composer.wires,
        visual_embeds=composer.visual_embeds,
        pieces={name: tree[name].model_dump(mode="json") for name in composer.order},
        versions=_versions(composer.order, composer.plugins),
        **{section: tree[section] for section in SECTIONS},
    )


class _Composer:
    """The steps of `compose`; each adds to `problems` and goes on as far as it can."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self.problems: list[str] = []
        self.chosen: dict[str, Registered] = {}
        self.contracts: dict[str, Contract] = {}
        self.wires: dict[str, str] = {}
        self.order: list[str] = []
        self.visual_embeds = "host"

    def choose(self, expression: str, drop: set[str]) -> None:
        """Resolve the terms to pieces, less the dropped ones."""
        brought: dict[str, str] = {}
        for term in grammar.parse(expression):
            alias = registry()["aliases"].get(term)
            for part in grammar.parse(alias) if alias else [term]:
                answer = resolve.pieces_of(part, self.plugins)
                if isinstance(answer, str):
                    self.problems.append(answer)
                    continue
                for piece in answer:
                    if piece.name in brought:
                        self.problems.append(f"{piece.name} comes twice, with {brought[piece.name]} and with {term}; "
                                             "give it once")
                    brought[piece.name] = term
                    self.chosen[piece.name] = piece
        for name in sorted(drop):
            if name not in self.chosen and not name.startswith("core."):
                self.problems.append(f"--drop {name}: not in this composition{resolve.did_you_mean(name, self.chosen)}")
            self.chosen.pop(name, None)
        self._read_contracts()

    def _read_contracts(self) -> None:
        for name, piece in list(self.chosen.items()):
            if name in self.contracts:
                continue
            try:
                self.contracts[name] = contract_of(piece)
            except RRGError as error:
                self.problems.append(error.message)
                del self.chosen[name]

    def host(self, name: str) -> dict[str, Any]:
        try:
            return host_preset(name)
        except RRGError as error:
            self.problems.append(error.message)
            return host_preset("tiny")

    def connect(self, kind: str, earlier: dict[str, str], wire: dict[str, str], drop: set[str]) -> None:
        """Add core's defaults where nothing gives a signal, then wire every reader and order the pieces."""
        given = {port.signal for contract in self.contracts.values() for port in contract.gives}
        # An encoder of the composition replaces the host's own tower, and with it all that stands on the tower.
        host_gives = () if "patch_tokens" in given else HOST_GIVES[kind]
        wiring = resolve.Wiring(self.contracts, host_gives, wire)
        self.problems += wiring.single_problems()
        while missing := [name for name in wiring.missing_defaults() if name not in drop]:
            self.chosen |= {name: self.plugins.pieces[name] for name in missing}
            self._read_contracts()
            wiring = resolve.Wiring(self.contracts, host_gives, wire)
        if not wiring.providers.get("visual_embeds"):
            self.problems.append("the language model reads visual_embeds, and no piece gives it; add a connector")
        else:  # a connector of the composition replaces the host's
            self.visual_embeds = wiring.providers["visual_embeds"][-1]
        retrievers = [name for name, piece in self.chosen.items() if piece.kind == "retriever"]
        if len(retrievers) > 1:
            settle = " or ".join(f"--drop {name}" for name in retrievers)
            self.problems.append(f"{' and '.join(retrievers)} both answer exemplars; settle it with {settle}")
        wiring.chosen = {k: v for k, v in earlier.items() if wiring.is_open(k, v)} | wire
        self.wires, problems = wiring.wire()
        self.problems += [problem + self._hint(problem) for problem in problems]
        self.order, circle = wiring.order(self.wires)
        self.problems += circle
        self._add_stages(drop, bool(retrievers))
        self.order.sort(key=lambda name: RANK[self.chosen[name].kind])

    def _hint(self, problem: str) -> str:
        """Installed pieces outside the composition that would give a signal that nobody gives."""
        if not problem.endswith(resolve.NOBODY):
            return ""
        signal = problem.removesuffix(resolve.NOBODY).rpartition(" ")[2]
        givers = []
        for name, piece in self.plugins.pieces.items():
            if name not in self.chosen and piece.kind in ("encoder", "connector"):
                try:
                    givers += [name for port in contract_of(piece).gives if port.signal == signal]
                except RRGError:  # a piece that cannot be read is no help here
                    continue
        return f"; add one that does: {' or '.join('+' + giver for giver in givers)}" if givers else ""

    def _add_stages(self, drop: set[str], retriever: bool) -> None:
        kinds = {name: piece.kind for name, piece in self.chosen.items()}
        wanted = [] if "stage" in kinds.values() else ["core.train"]
        reads = any(self.contracts[n].config.model_fields["exemplars"].default for n, k in kinds.items() if k == "stage")
        if retriever and not reads:
            wanted.append("core.exemplars")
        for name in wanted:
            if name not in drop and name not in self.chosen:
                self.chosen[name] = self.plugins.pieces[name]
                self._read_contracts()
                self.order.append(name)

    def check_stages(self, drop: set[str]) -> None:
        if not any(piece.kind == "stage" for piece in self.chosen.values()):
            self.problems.append(f"no stage is left to train{' (--drop core.train)' if 'core.train' in drop else ''}")

    def settings(self, preset: dict[str, Any], start: Recipe | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """Validated settings by section and piece: defaults, then the host's, then `start`'s, then those given."""
        stages = [name for name in self.order if self.chosen[name].kind == "stage"]
        tree: dict[str, Any] = {name: {} for name in [*SECTIONS, *self.order]}
        tree["host"].update(preset["host"])
        for key, value in preset["set"].items():
            self._assign(tree, key, value, stages, quiet=True)
        if start:
            same_host = start.host.name == preset["host"]["name"]
            for name, values in start.pieces.items():
                if name in self.chosen and (same_host or name not in stages):
                    tree[name] = dict(values)
            for section in SECTIONS:
                if same_host or section == "generation":
                    tree[section] = getattr(start, section).model_dump(mode="json")
            tree["seed"] = start.seed
        for key, value in given.items():
            self._assign(tree, key, value, stages)
        validated: dict[str, Any] = {"seed": tree.get("seed", 0)}
        before: dict[str, Any] = dict(STAGE_DEFAULTS)
        for name in [*SECTIONS, *self.order]:
            model = SECTIONS.get(name) or self.contracts[name].config
            try:
                validated[name] = model.model_validate(tree[name])
                if name in stages:
                    validated[name], before = self._inherit(name, validated[name], before)
            except ValidationError as error:
                self.problems += validation_problems(error, prefix=name)
        if not isinstance(validated["seed"], int) or validated["seed"] < 0:
            self.problems.append(f"seed: expected a whole number from 0, given {validated['seed']!r}")
        return validated

    def _inherit(self, name: str, stage: Any, before: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        values = stage.model_dump()
        filled = values | {field: before.get(field) for field, value in values.items() if value is None}
        if before.get("lora") and filled["lora"] != before["lora"]:
            self.problems.append(f"{name}.lora differs from the stage before; adapters keep one shape: set both alike")
        if filled["llm"] == "lora" and not filled["lora"]:
            filled["lora"] = {}
        stage = type(stage).model_validate(filled)
        return stage, before | {k: v for k, v in stage.model_dump().items() if v is not None}

    def _assign(self, tree: dict[str, Any], key: str, value: Any, stages: list[str], quiet: bool = False) -> None:
        """Put one dotted setting where it belongs. quiet: a host's preset may name pieces that are not here."""
        parts = key.split(".")
        if parts == ["seed"]:
            tree["seed"] = value
            return
        if parts[0] == "stages" and len(parts) > 1:
            for stage in stages:
                self._assign(tree, f"{stage}.{'.'.join(parts[1:])}", value, stages, quiet)
            return
        target = parts[0] if parts[0] in SECTIONS else ".".join(parts[:2])
        path = parts[1:] if parts[0] in SECTIONS else parts[2:]
        if target not in tree or not path:
            if not quiet:
                names = [f"{name}." for name in tree if name != "seed"]
                hint = resolve.did_you_mean(key, [f"{n}{f}" for n in tree if n != "seed" for f in self._fields(n)])
                self.problems.append(f"--set {key}: no such setting{hint or f'; settings begin with {chr(32).join(names)}'}")
            return
        model: Any = SECTIONS.get(target) or self.contracts[target].config
        node = tree[target]
        for depth, part in enumerate(path):
            fields = getattr(model, "model_fields", None)
            if fields is not None and part not in fields:
                known = ", ".join(fields)
                self.problems.append(f"--set {key}: {target} has no setting {part}"
                                     f"{resolve.did_you_mean(part, fields)} (settings: {known})")
                return
            if depth == len(path) - 1:
                node[part] = value
                return
            model = _inner_model(fields[part].annotation) if fields else None
            node[part] = dict(node.get(part) or {})
            node = node[part]

    def _fields(self, name: str) -> list[str]:
        return list((SECTIONS.get(name) or self.contracts[name].config).model_fields)


def _inner_model(annotation: Any) -> Any:
    """The pydantic model within an annotation such as `LoRA | None`; None for a plain dict."""
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def parse_setting(text: str, option: str = "--set") -> tuple[str, Any]:
    """`key=VALUE` with VALUE in TOML (3, 0.5, true, "text", [1, 2]); a bare word is text.

    Raises UsageError where there is no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"{option} {text}: expected name=value, such as {option} lead.gate.fusion=add")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return key.strip(), parsed


def _versions(pieces: list[str], plugins: Plugins) -> dict[str, str]:
    versions = {"rrg-compose": __version__}
    for package in ("torch", "transformers", "peft"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    for name in pieces:
        distribution, _, number = plugins.version_of(name).rpartition(" ")
        versions.setdefault(distribution, number)
    return versions
