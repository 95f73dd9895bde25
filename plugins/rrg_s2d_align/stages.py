"""S2D-Align's progressive anatomical grounding (PAG, eq. 9 to 11): three stages, each from the last one's weights."""

from typing import Literal

from pydantic import Field

from rrg.config import LoRA, StageConfig

OPEN = "not stated in the paper's text; LLM-RG4's published value for the same encoder and host"
ADAPTERS = LoRA(r=32, alpha=64, dropout=0.1)


class Pag1(StageConfig):
    """Coarse alignment: the adapter learns from films and reports; encoder and language model are frozen (eq. 9)."""

    vision: Literal["frozen", "full"] | None = "frozen"
    connector: Literal["frozen", "full"] | None = "full"
    llm: Literal["frozen", "lora", "full"] | None = "frozen"
    pieces: list[str] | None = Field([])
    losses: list[str] = Field([])
    epochs: float | None = Field(2.0, description=OPEN)
    batch_size: int | None = Field(16, description=OPEN)
    lr: float | None = Field(3e-4, description=OPEN)
    warmup: float | None = Field(0.03, description=OPEN)
    schedule: Literal["cosine", "linear", "constant"] | None = "cosine"
    weight_decay: float | None = Field(0.01, description=OPEN)


class Pag2(Pag1):
    """Contextual enhancement: a reference report stands beside the film; adapter and LoRA learn (eq. 10)."""

    llm: Literal["frozen", "lora", "full"] | None = "lora"
    lora: LoRA | None = Field(ADAPTERS, description=OPEN)
    contexts: list[Literal["reference", "phrase"]] = Field(["reference"])


class Pag3(Pag2):
    """Fine-grained grounding: key phrases of the report itself stand there too (eq. 11)."""

    contexts: list[Literal["reference", "phrase"]] = Field(["reference", "phrase"])
    phrases: int = Field(4, ge=1, description="k; not stated in the paper")


class Joint(Pag3):
    """Table 3's joint training: one stage, and each study shows none, the first or both of the contexts by chance.

    The paper says that all data are mixed, not how often each context comes.
    """

    joint: bool = True
    epochs: float | None = Field(6.0, description="as the three stages together; not stated in the paper")
