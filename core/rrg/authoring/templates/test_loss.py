from math import log, nan

import pytest
import torch

from rrg.axes import Axes
from rrg.authoring.templates.loss import Focal, FocalConfig


def test_the_loss_of_a_likely_and_an_unlikely_label() -> None:
    focal = Focal(FocalConfig.model_validate({"gamma": 2.0}), Axes(host=8, layers=2, image=32))
    logits = torch.tensor([[log(3), log(3), 5.0, 5.0]])  # σ(log 3) = 3/4
    labels = torch.tensor([[1.0, 0.0, -1.0, nan]])  # the last two, uncertain and not mentioned, don't count
    likely, unlikely = (1 / 4) ** 2 * log(4 / 3), (3 / 4) ** 2 * log(4)
    assert focal(logits, labels).item() == pytest.approx((likely + unlikely) / 2)
