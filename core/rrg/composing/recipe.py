"""The recipe: what `compose` decided, every default filled in. Training, generation and evaluation start from it."""

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rrg.config import GenerationConfig, HostConfig, ImageConfig, TextConfig
from rrg.errors import UsageError


class Recipe(BaseModel):
    """A composition that is settled.

    pieces: settings by piece, encoders first, in the order in which they run.
    wire: `reader.argument` to the provider: a piece, `data` or `host`.
    drop: what was left out of the expression.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    expression: str
    drop: list[str] = []
    seed: int = Field(ge=0)
    stages: list[str]
    host: HostConfig
    image: ImageConfig
    text: TextConfig
    generation: GenerationConfig
    wire: dict[str, str]
    visual_embeds: str = Field(description="who gives the visual prefix: a connector, or `host`")
    pieces: dict[str, dict[str, Any]]
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _names_its_own(self) -> Self:
        """Stages and wires name pieces of this recipe."""
        readers = {key: key.rpartition(".")[0] for key in self.wire}
        strange = [f"stages: {name}" for name in self.stages if name not in self.pieces]
        strange += [f"wire: {key}" for key, reader in readers.items() if reader not in self.pieces]
        strange += [f"wire: {p}" for p in self.wire.values() if p not in (*self.pieces, "data", "host")]
        strange += [f"visual_embeds: {p}" for p in [self.visual_embeds] if p not in (*self.pieces, "host")]
        if strange:
            raise ValueError(f"not among the recipe's pieces: {', '.join(strange)}")
        if not self.stages:
            raise ValueError("a recipe has at least one stage")
        return self

    @property
    def hash(self) -> str:
        """Twelve hex digits over everything, the pieces' order too, but the versions and the expression."""
        content = self.model_dump(mode="json", exclude={"versions", "expression", "drop"}, exclude_none=True)
        content["order"] = list(self.pieces)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def to_toml(self) -> str:
        # TOML has no null: an absent key means None.
        content = self.model_dump(mode="json", exclude_none=True)
        tables = {key: content.pop(key) for key in [k for k, v in content.items() if isinstance(v, dict)]}
        return tomli_w.dumps({**content, "hash": self.hash, **tables})

    def save(self, path: Path) -> None:
        """Write the recipe atomically. Raises UsageError where `path` cannot be written."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(self.to_toml(), encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UsageError(f"{path}: the recipe cannot be written: {error.strerror}") from error

    @classmethod
    def open(cls, path: Path) -> "Recipe":
        """Read a recipe file.

        Raises UsageError where it is missing, is no TOML, has unknown or missing keys, or no longer matches its hash.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path}: no such recipe; make one with: rrg compose lead+dmsr -o {path}") from None
        except (OSError, ValueError, RecursionError) as error:  # no TOML, or numbers and lists without end
            raise UsageError(f"{path}: not a recipe in TOML: {error}") from error
        stated = content.pop("hash", None)
        try:
            recipe = cls.model_validate(content)
        except ValidationError as error:
            raise UsageError(f"{path}: not a recipe", validation_problems(error)) from error
        if stated is not None and stated != recipe.hash:
            raise UsageError(
                f"{path}: its hash says {stated}, its content {recipe.hash}: it was edited after composing; "
                f"compose the change with --from {path} --set …, or delete the line `hash`"
            )
        return recipe


def validation_problems(error: ValidationError, prefix: str = "") -> list[str]:
    """One readable line for each setting that pydantic found wrong."""
    found: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    for item in error.errors():
        # A union's errors carry each option's type, such as list[int], behind the setting's name.
        path = ".".join([prefix, *(str(part) for part in item["loc"] if not str(part).endswith("]"))]).strip(".")
        message = item["msg"].removeprefix("Value error, ")
        found.setdefault(path, []).append(message[0].lower() + message[1:])
        if item["type"] not in ("missing", "extra_forbidden", "value_error"):
            given[path] = f", given {item['input']!r:.60}"
    return [
        f"{path}: {' or '.join(messages)}{given.get(path, '')}".removeprefix(": ") for path, messages in found.items()
    ]
