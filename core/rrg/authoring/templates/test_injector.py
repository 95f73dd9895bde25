import torch

from rrg.axes import Axes
from rrg.config import InjectorConfig
from rrg.authoring.templates.injector import FiLM


def film(host: int, diseases: int) -> FiLM:
    axes = Axes(host=host, layers=2, image=32, diseases=diseases)
    return FiLM(InjectorConfig.model_validate({}), axes, layer=0, first=None)


def test_it_starts_as_the_identity() -> None:
    piece, hidden = film(host=5, diseases=3), torch.randn(2, 7, 5)
    assert torch.equal(piece(hidden, *piece.prepare(torch.randn(2, 3))), hidden)


def test_scale_and_shift_by_one_logit() -> None:
    piece = film(host=1, diseases=1)
    with torch.no_grad():
        piece.linear.weight.copy_(torch.tensor([[2.0], [4.0]]))
    prepared = piece.prepare(torch.zeros(1, 1))  # σ(0) = 1/2: scale 1, shift 2
    assert piece(torch.full((1, 1, 1), 3.0), *prepared).item() == 8.0
