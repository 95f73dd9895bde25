"""LEAD's training (sections 2.4 and 3.3)."""

from typing import Literal

from pydantic import Field

from rrg.config import LoRA, StageConfig


class Train(StageConfig):
    """One stage: vision tower, connector and LEAD's modules in full, the language model by LoRA.

    Table 3's four settings are `vision` (frozen or full) and `llm` (frozen or lora).
    """

    vision: Literal["frozen", "full"] | None = "full"
    connector: Literal["frozen", "full"] | None = "full"
    llm: Literal["frozen", "lora", "full"] | None = "lora"
    pieces: list[str] | None = Field(["lead.*"])
    lora: LoRA | None = LoRA(r=64, alpha=128)
    epochs: float | None = 8
    batch_size: int | None = Field(
        4, description="4 studies, accumulated 4 times: the paper's total of 16 on one device"
    )
    accumulation: int | None = 4
    lr: float | None = 2e-4
    warmup: float | None = 0.03
    schedule: Literal["cosine", "linear", "constant"] | None = "cosine"
    weight_decay: float | None = Field(0.01, description="not stated in the paper")
