"""Binary cross-entropy against labels of four values, as the losses of several papers need it."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from rrg.config import LossConfig


class TargetConfig(LossConfig):
    """Settings of a loss against `disease_labels`. CheXpert's labels are 1, 0, -1 uncertain, nan not mentioned."""

    uncertain: Literal["negative", "positive", "ignore"] = Field(
        "negative", description="how a label of -1 counts; not stated in the paper"
    )
    unmentioned: Literal["negative", "ignore"] = Field(
        "negative", description="how an observation that the report does not mention counts; not stated in the paper"
    )


def binary_cross_entropy(logits: Tensor, labels: Tensor, config: TargetConfig) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each observation, 0 where it isn't scored, and what is scored, 0 or 1; all (batch diseases)."""
    uncertain, unmentioned = labels == -1, labels.isnan()
    target = torch.where(uncertain, float(config.uncertain == "positive"), labels).nan_to_num(0.0)
    left_out = (uncertain & (config.uncertain == "ignore")) | (unmentioned & (config.unmentioned == "ignore"))
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return each.masked_fill(left_out, 0.0), (~left_out).float()
