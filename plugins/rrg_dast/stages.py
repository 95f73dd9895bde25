"""DAST's two stages ("Implementation Details")."""

from typing import Literal

from pydantic import Field

from rrg.config import StageConfig


class Stage1(StageConfig):
    """Image encoder, disease tokens and heads by the method's own losses, without the language model."""

    vision: Literal["frozen", "full"] | None = "full"
    connector: Literal["frozen", "full"] | None = "frozen"
    llm: Literal["frozen", "lora", "full"] | None = "frozen"
    pieces: list[str] | None = Field(["dast.*"])
    losses: list[str] = Field(["dast.*"])
    report: bool = False
    epochs: float | None = Field(3.0, description="not stated in the paper")
    batch_size: int | None = Field(16, description="not stated in the paper")
    lr: float | None = 1e-4
    warmup: float | None = 500
    schedule: Literal["cosine", "linear", "constant"] | None = "cosine"


class Stage2(StageConfig):
    """Stage 1's parts and the language model stay as they are; DVAF, projection and norm train, with exemplars.

    Read to the letter the paper trains "the projection layers and normalization parameters" alone, which would leave
    DVAF as it starts.
    """

    vision: Literal["frozen", "full"] | None = "frozen"
    connector: Literal["frozen", "full"] | None = "full"
    llm: Literal["frozen", "lora", "full"] | None = "frozen"
    pieces: list[str] | None = Field([])
    losses: list[str] = Field([])
    exemplars: bool = True
    epochs: float | None = Field(3.0, description="not stated in the paper")
    batch_size: int | None = Field(4, description="not stated in the paper")
    lr: float | None = 1e-4
    warmup: float | None = 500
    schedule: Literal["cosine", "linear", "constant"] | None = "cosine"
