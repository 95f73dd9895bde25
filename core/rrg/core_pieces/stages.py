"""Core's own stages."""

from typing import Literal

from pydantic import Field

from rrg.config import StageConfig


class Pretrain(StageConfig):
    """Encoders and their classifiers by the auxiliary losses; the language model doesn't run."""

    vision: Literal["frozen", "full"] | None = "full"
    connector: Literal["frozen", "full"] | None = "frozen"
    llm: Literal["frozen", "lora", "full"] | None = "frozen"
    pieces: list[str] | None = Field(["*"])
    report: bool = False


class Train(StageConfig):
    """One stage in which everything trains, for a composition whose methods bring no stage."""

    vision: Literal["frozen", "full"] | None = "full"
    connector: Literal["frozen", "full"] | None = "full"
    llm: Literal["frozen", "lora", "full"] | None = "lora"
    pieces: list[str] | None = Field(["*"])


class Exemplars(StageConfig):
    """Go on as the stage before, with retrieved reports in the prompt (DAST's DMSR beside another method's stages)."""

    exemplars: bool = True
    epochs: float | None = Field(1.0, description="not stated in the papers: no paper mixes these methods")
