"""The settings of a composition by dotted name, validated, each stage's gaps filled from the stage before."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from rrg.composing.host_names import absolute
from rrg.composing.recipe import validation_problems
from rrg.composing.resolve import did_you_mean
from rrg.config import STAGE_DEFAULTS, Folder, StageConfig
from rrg.errors import UsageError


class Settings:
    """Values by section or piece; `problems` collects what is wrong with them.

    models: the schema of each section and piece, in the order of the recipe. stages: which of them are stages.
    stated: each stage as stated, before its gaps are filled, once `validated` has run.
    """

    def __init__(self, models: Mapping[str, type[BaseModel]], stages: list[str]) -> None:
        self.models, self.stages = models, stages
        self.values: dict[str, dict[str, Any]] = {name: {} for name in models}
        self.seed: Any = 0
        self.stated: dict[str, StageConfig] = {}
        self.problems: list[str] = []

    def assign(self, key: str, value: Any, *, quiet: bool = False) -> None:
        """Put one dotted setting where it belongs. quiet: a host's preset may name pieces that are not here."""
        parts = key.split(".")
        if parts == ["seed"]:
            self.seed = value
        elif parts[0] == "stages" and len(parts) > 1:
            self._assign_stages(key, parts[1:], value, quiet)
        else:
            depth = 1 if parts[0] in self.models else 2
            target, path = ".".join(parts[:depth]), parts[depth:]
            if target in self.models and path:
                self._put(key, target, path, value)
            elif not quiet:
                names = ["seed", *(f"{name}.{field}" for name, m in self.models.items() for field in m.model_fields)]
                hint = did_you_mean(key, names) or f"; settings begin with seed, stages, {', '.join(self.models)}"
                self.problems.append(f"--set {key}: no such setting{hint}")

    def _assign_stages(self, key: str, path: list[str], value: Any, quiet: bool) -> None:
        for index, stage in enumerate(self.stages):
            field = self.models[stage].model_fields.get(path[0])
            inherits = index > 0 and field is not None and field.default is None and not self.values[stage].get(path[0])
            if len(path) == 1 or not inherits:  # part of a value that comes whole from the stage before
                self.assign(f"{stage}.{'.'.join(path)}", value, quiet=quiet)
        if not self.stages and not quiet:
            self.problems.append(f"--set {key}: the composition has no stage")

    def _put(self, key: str, target: str, path: list[str], value: Any) -> None:
        model: type[BaseModel] | None = self.models[target]
        node = self.values[target]
        for depth, part in enumerate(path):
            if model is not None and part not in model.model_fields:
                owner, known = ".".join([target, *path[:depth]]), model.model_fields
                hint = did_you_mean(part, known)
                self.problems.append(f"--set {key}: {owner} has no setting {part}{hint} (settings: {', '.join(known)})")
                return
            if depth == len(path) - 1:
                node[part] = value
                return
            field = model.model_fields[part] if model is not None else None
            inner = node.get(part, field.get_default(call_default_factory=True) if field is not None else None)
            if isinstance(inner, BaseModel):
                inner = inner.model_dump(mode="json")
            node[part] = dict(inner) if isinstance(inner, Mapping) else {}
            node, model = node[part], _inner_model(field.annotation) if field is not None else None

    def validated(self) -> dict[str, BaseModel]:
        """Each section's and piece's settings, every default filled in; what fails is a problem and left out."""
        found: dict[str, BaseModel] = {}
        before: dict[str, Any] = dict(STAGE_DEFAULTS)
        for name, model in self.models.items():
            try:
                found[name] = _validate(model, self.values[name])
                made = found[name] = self._settled(name, found[name])
                if isinstance(made, StageConfig):
                    self.stated[name] = made
                    found[name], before = self._fill(name, made, before)
                else:
                    lost = [f for f, value in made if value is None and model.model_fields[f].default is not None]
                    self.problems += [f"{name}.{f}: a recipe cannot hold None, which is not its default" for f in lost]
            except ValidationError as error:
                self.problems += validation_problems(error, prefix=name)
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            self.problems.append(f"seed: expected a whole number from 0 to 2**32 - 1, given {self.seed!r}")
        return found

    def _settled(self, name: str, made: BaseModel) -> BaseModel:
        """With the whole paths of folders. A path to nothing is a problem: it is no hub id."""
        fields = [field for field, info in type(made).model_fields.items() if Folder in info.metadata]
        given = {field: getattr(made, field) for field in fields if isinstance(getattr(made, field), str)}
        paths = {field: absolute(value) for field, value in given.items()}
        self.problems += [
            f"{name}.{field}={given[field]}: no such folder from {Path.cwd()}"
            for field, path in paths.items()
            if path == given[field] and path.startswith((".", "/", "~")) and not Path(path).is_dir()
        ]
        return made.model_copy(update=paths)

    def _fill(self, name: str, stage: StageConfig, before: dict[str, Any]) -> tuple[StageConfig, dict[str, Any]]:
        values = stage.model_dump()
        filled = values | {field: before.get(field) for field, value in values.items() if value is None}
        adapts = filled["llm"] == "lora" and bool(filled["lora"])
        if adapts and before.get("adapters") and filled["lora"] != before["adapters"]:
            shapes = (json.dumps(lora).replace('": ', '" = ') for lora in (before["adapters"], filled["lora"]))
            flags = " or ".join(f"--set 'stages.lora={shape}'" for shape in shapes)
            self.problems.append(
                f"{name}.lora differs from the stage before, and adapters keep one shape; settle it with {flags}"
            )
        if adapts:
            before = {**before, "adapters": filled["lora"]}
        if filled["llm"] == "lora" and not filled["lora"]:
            filled["lora"] = {}
        whole = type(stage).model_validate(filled)
        silent = () if whole.report else ("llm", "connector", "lora")  # says nothing of how the language model trains
        return whole, before | {k: v for k, v in whole.model_dump().items() if v is not None and k not in silent}


def _validate(model: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    """No type is bent to fit ("3" is no number, true is not 1), save a whole number where a float is meant."""
    text = json.dumps(values, default=str)
    model.model_validate_json(text, strict=True)
    return model.model_validate_json(text)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model within an annotation such as `LoRA | None`; None for a plain dict."""
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def parse_setting(text: str) -> tuple[str, Any]:
    """`name=VALUE` with VALUE in TOML (3, 0.5, true, "text", [1, 2]); a bare word is text.

    Raises UsageError where there is no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: expected NAME=VALUE, such as --set lead.gate.fusion=add")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    return key.strip(), parsed["value"] if parsed.keys() == {"value"} else value


def parse_wire(text: str) -> tuple[str, str]:
    """`reader.signal=provider`. Raises UsageError where it is anything else."""
    key, _, provider = (part.strip() for part in text.partition("="))
    if not provider or key.count(".") < 2:
        raise UsageError(
            f"--wire {text}: expected READER.SIGNAL=PROVIDER, such as --wire dast.dmsr.disease_logits=lead.experts"
        )
    return key, provider
