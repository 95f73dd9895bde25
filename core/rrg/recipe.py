"""The recipe: what `compose` decided, every default filled in. Training, generation and evaluation start from it."""

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rrg.config import GenerationConfig, HostConfig, ImageConfig, TextConfig
from rrg.errors import UsageError


class Recipe(BaseModel):
    """A composition that is settled.

    pieces: settings by piece, encoders first, in the order in which they run.
    wire: `reader.argument` to the provider: a piece, `data` or `host`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    expression: str
    seed: int = Field(0, ge=0)
    stages: list[str]
    host: HostConfig
    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    generation: GenerationConfig = GenerationConfig()
    wire: dict[str, str]
    visual_embeds: str = Field(description="who gives the visual prefix: a connector, or `host`")
    pieces: dict[str, dict[str, Any]]
    versions: dict[str, str] = {}

    @property
    def hash(self) -> str:
        """Twelve hex digits over everything but the versions and the expression that led here."""
        content = self.model_dump(mode="json", exclude={"versions", "expression"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def to_toml(self) -> str:
        content = _without_none(self.model_dump(mode="json"))
        tables = {key: content.pop(key) for key in [k for k, v in content.items() if isinstance(v, dict)]}
        return tomli_w.dumps({**content, "hash": self.hash, **tables})

    def save(self, path: Path) -> None:
        """Write the recipe atomically."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(self.to_toml(), encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def open(cls, path: Path) -> "Recipe":
        """Read a recipe file.

        Raises UsageError where it is missing, is no TOML, has unknown or missing keys, or no longer matches its hash.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path}: no such recipe; make one with: rrg compose lead+dmsr -o {path}") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path}: not a recipe in TOML: {error}") from error
        stated = content.pop("hash", None)
        try:
            recipe = cls.model_validate(content)
        except ValidationError as error:
            raise UsageError(f"{path}: not a recipe", validation_problems(error)) from error
        if stated is not None and stated != recipe.hash:
            raise UsageError(
                f"{path}: its hash says {stated}, its content {recipe.hash}: the file was edited after it was composed; "
                f"compose the change with --from {path} --set …, or delete the line `hash`"
            )
        return recipe


def _without_none(value: Any) -> Any:
    """TOML has no null: an absent key means None, which is every optional field's default."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def validation_problems(error: ValidationError, prefix: str = "") -> list[str]:
    """One readable line for each thing that pydantic found."""
    lines = []
    for item in error.errors():
        path = ".".join([prefix.rstrip("."), *map(str, item["loc"])]).strip(".")
        given = "" if item["type"] in ("missing", "extra_forbidden") else f", given {item['input']!r:.60}"
        lines.append(f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}{given}")
    return lines
