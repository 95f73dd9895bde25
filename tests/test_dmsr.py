"""DAST's retrieval (eq. 8)."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from rrg.axes import Axes
from rrg_dast.dmsr import DMSR, DMSRConfig

AXES = Axes(host=8, layers=1, image=32, vision=5)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)) / float(a.norm() * b.norm())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_inner_product_of_keys_is_equation_8(share: float) -> None:
    visual, logits = torch.randn(6, 5) * 30, torch.randn(6, 14) * 4
    keys = DMSR(DMSRConfig(visual=share), AXES)(visual, logits)
    for i in range(6):
        for j in range(6):
            expected = share * cosine(visual[i], visual[j]) + (1 - share) * cosine(logits[i], logits[j])
            assert float(keys[i] @ keys[j]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("share", "visual_counts"), [(1.0, True), (0.0, False)])
def test_extreme_shares_leave_one_modality(share: float, visual_counts: bool) -> None:
    visual, logits = torch.randn(4, 5), torch.randn(4, 14)
    keys = DMSR(DMSRConfig(visual=share), AXES)(visual, logits)
    only = visual if visual_counts else logits
    torch.testing.assert_close(keys @ keys.T, cosine_similarity(only[:, None], only[None], dim=-1))
    other = DMSR(DMSRConfig(visual=share), AXES)(
        *((visual, torch.randn(4, 14)) if visual_counts else (torch.randn(4, 5), logits))
    )
    torch.testing.assert_close(other @ other.T, keys @ keys.T)


def test_own_key_scores_one() -> None:
    keys = DMSR(DMSRConfig(), AXES)(torch.randn(3, 5), torch.randn(3, 14))
    torch.testing.assert_close((keys * keys).sum(-1), torch.ones(3))


def test_zero_vector_stays_finite() -> None:
    keys = DMSR(DMSRConfig(), AXES)(torch.zeros(2, 5), torch.zeros(2, 14))
    assert torch.equal(keys, torch.zeros(2, 19))


def test_keys_are_float32_under_bfloat16_signals() -> None:
    keys = DMSR(DMSRConfig(), AXES)(torch.randn(2, 5).bfloat16(), torch.randn(2, 14).bfloat16())
    assert keys.dtype == torch.float32
