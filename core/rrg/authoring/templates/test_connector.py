from math import nan

import torch

from rrg.axes import Axes
from rrg.config import PieceConfig
from rrg.authoring.templates.connector import MLP


def test_two_layers_with_gelu_between() -> None:
    connector = MLP(PieceConfig(), Axes(host=2, layers=2, image=32, vision=1))
    with torch.no_grad():
        connector.first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        connector.second.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        connector.first.bias.zero_()
        connector.second.bias.zero_()
    embeds, mask = connector(torch.tensor([[[1.0], [nan]]]), torch.tensor([[True, False]]))
    # GELU(1) = Φ(1) = 0.841345, GELU(-1) = Φ(1) - 1: their sum and their difference
    torch.testing.assert_close(embeds, torch.tensor([[[0.682689, 1.0], [0.0, 0.0]]]))
    assert mask.tolist() == [[True, False]]
