"""Linear probing before fine-tuning (Kumar et al., "Fine-tuning can distort pretrained features", ICLR 2022)."""

from typing import Literal

from pydantic import Field

from rrg.config import StageConfig


class Probe(StageConfig):
    """Vision tower and language model stay as they are; the connector and all other pieces learn to fit them.

    Put a stage that trains everything after it: the new layers' first, large gradients then distort nothing.
    """

    vision: Literal["frozen", "full"] | None = "frozen"
    connector: Literal["frozen", "full"] | None = "full"
    llm: Literal["frozen", "lora", "full"] | None = "frozen"
    pieces: list[str] | None = Field(["*"])
    epochs: float | None = Field(1.0, description="not stated in the paper")
