"""From labels of four values to the targets of a binary classification, as the losses of several papers need them."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rrg.config import LossConfig


class TargetConfig(LossConfig):
    """Settings of a loss against `disease_labels`. CheXpert's labels are 1, 0, -1 uncertain, nan not mentioned."""

    uncertain: Literal["negative", "positive", "ignore"] = Field(
        "negative", description="how a label of -1 counts; not stated in the paper"
    )
    unmentioned: Literal["negative", "ignore"] = Field(
        "negative", description="how an observation that the report does not mention counts; not stated in the paper"
    )


def binary_targets(labels: Tensor, config: TargetConfig) -> tuple[Tensor, Tensor]:
    """Targets 0 or 1 and what is scored 0 or 1, both (batch diseases), of labels (batch diseases)."""
    uncertain, unmentioned = labels == -1, labels.isnan()
    target = torch.where(uncertain, float(config.uncertain == "positive"), labels).nan_to_num(0.0)
    left_out = (uncertain & (config.uncertain == "ignore")) | (unmentioned & (config.unmentioned == "ignore"))
    return target, (~left_out).float()
