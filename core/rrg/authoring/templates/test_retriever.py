import pytest
import torch

from rrg.axes import Axes
from rrg.config import PieceConfig
from rrg.authoring.templates.retriever import Cosine


def test_the_cosine_of_two_studies() -> None:
    cosine = Cosine(PieceConfig(), Axes(host=8, layers=2, image=32, vision=2))
    one, other = cosine(torch.tensor([[3.0, 4.0], [80.0, 60.0]]))
    assert (one @ other).item() == pytest.approx(24 / 25)
