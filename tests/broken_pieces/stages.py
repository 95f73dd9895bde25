"""Broken stages."""

import random
from typing import Any, Literal

from pydantic import Field

from broken_pieces.table import breaks
from rrg.config import StageConfig


@breaks("patterns", "stage")
class MatchesNothing(StageConfig):
    llm: Literal["frozen", "lora", "full"] | None = "full"
    pieces: list[str] | None = Field(["mine.*"])


@breaks("freezes", "stage")
class SaysFrozen(StageConfig):
    """Written down as frozen, read as full."""

    llm: Literal["frozen", "lora", "full"] | None = "frozen"

    def __getattribute__(self, name: str) -> Any:
        return "full" if name == "llm" else super().__getattribute__(name)


@breaks("resumes", "stage")
class AnotherRateEachTime(StageConfig):
    llm: Literal["frozen", "lora", "full"] | None = "full"

    def __getattribute__(self, name: str) -> Any:
        return random.SystemRandom().uniform(1e-3, 1e-2) if name == "lr" else super().__getattribute__(name)
