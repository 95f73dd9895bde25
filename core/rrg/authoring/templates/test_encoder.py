from math import inf, log, tanh

import torch

from rrg.axes import Axes
from rrg.authoring.templates.encoder import Attention, AttentionConfig


def test_attention_of_one_to_three() -> None:
    pool = Attention(AttentionConfig(width=1), Axes(host=8, layers=2, image=32, vision=1, diseases=2))
    with torch.no_grad():
        pool.v.weight.fill_(1.0)
        pool.u.weight.fill_(0.0)  # σ(0) = 1/2
        pool.w.weight.fill_(2 * log(3) / tanh(1))
        pool.classify.weight.copy_(torch.tensor([[2.0], [-4.0]]))
        pool.classify.bias.copy_(torch.tensor([0.0, 1.0]))
    patches = torch.tensor([[[0.0], [1.0], [inf]]])  # scores 0 and log 3: attention 1/4 and 3/4
    z, logits = pool(patches, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(z, torch.tensor([[0.75]]))
    torch.testing.assert_close(logits, torch.tensor([[1.5, -2.0]]))
