"""Films of a study side by side."""

from torch import Tensor


def side_by_side(tokens: Tensor, view_mask: Tensor) -> tuple[Tensor, Tensor]:
    """From the films that there are to one row of patches per study.

    tokens: (films positions vision), in the order of `view_mask` (batch views). Gives patch_tokens (batch
    views·positions vision), zero where there is no film, and patch_mask (batch views·positions).
    """
    rows = tokens.new_zeros(*view_mask.shape, *tokens.shape[1:])
    rows[view_mask] = tokens
    mask = view_mask.unsqueeze(-1).expand(*view_mask.shape, tokens.shape[1])
    return rows.flatten(1, 2), mask.flatten(1, 2)
