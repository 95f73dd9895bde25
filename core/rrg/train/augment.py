"""Random changes of films in training, on the device and from torch's own generator, so that resuming repeats them."""

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(pixel_values: Tensor, strength: float) -> Tensor:
    """Shift, turn, zoom and expose each study's films a little; never mirrored, since left and right are findings.

    pixel_values: (batch views channels height width) in [0, 1]. strength 1: shifts to 10 % of the side, turns to 10
    degrees, zoom to 15 %, exposure to 30 %.
    """
    batch, views = pixel_values.shape[:2]
    films = pixel_values.flatten(0, 1)
    n, device = films.shape[0], films.device

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n, device=device) * 2 - 1) * limit * strength

    angle, zoom = uniform(torch.pi / 18), 1 + uniform(0.15)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [torch.stack([cos, -sin, uniform(0.2)], -1), torch.stack([sin, cos, uniform(0.2)], -1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(films.shape), align_corners=False)
    moved = F.grid_sample(films, grid.to(films.dtype), padding_mode="border", align_corners=False)
    gamma, gain = torch.exp(uniform(0.3)), 1 + uniform(0.3)
    exposed = moved.clamp(min=1e-4) ** gamma[:, None, None, None] * gain[:, None, None, None]
    return exposed.clamp(0, 1).view(batch, views, *films.shape[1:])
