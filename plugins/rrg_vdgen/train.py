"""VDGen's training ("Implementation Details")."""

from typing import Literal

from pydantic import Field

from rrg.config import LoRA, StageConfig


class Train(StageConfig):
    """One stage of L_report + L_VSE + L_DID (eq. 8): encoder, connector, losses, and the language model by LoRA."""

    vision: Literal["frozen", "full"] | None = Field("full", description="not stated in the paper; VSE shapes it")
    connector: Literal["frozen", "full"] | None = "full"
    llm: Literal["frozen", "lora", "full"] | None = "lora"
    lora: LoRA | None = LoRA(r=16, alpha=16)
    pieces: list[str] | None = Field(["vdgen.*"])
    losses: list[str] = Field(["vdgen.*"])
    epochs: float | None = Field(5.0, description="not stated in the paper")
    batch_size: int | None = 16
    lr: float | None = 1e-4
    schedule: Literal["cosine", "linear", "constant"] | None = Field("cosine", description="not stated in the paper")
    warmup: float | None = Field(0.03, description="not stated in the paper")
    weight_decay: float | None = Field(0.01, description="not stated in the paper")
