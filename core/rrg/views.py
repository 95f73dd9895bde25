"""Films of a study side by side."""

from torch import Tensor


def films_there(pixel_values: Tensor, view_mask: Tensor) -> Tensor:
    """(films channels height width): of (batch views channels height width) those that `view_mask` (batch views) has.

    All of them on the meta device, which can't choose, since its tensors hold no values.
    """
    return pixel_values.flatten(0, 1) if pixel_values.is_meta else pixel_values[view_mask]


def side_by_side(tokens: Tensor, view_mask: Tensor) -> tuple[Tensor, Tensor]:
    """From the films of `films_there` to one row of patches per study.

    tokens: (films positions vision), in the order of `view_mask` (batch views). Gives patch_tokens (batch
    views·positions vision), zero where there is no film, and patch_mask (batch views·positions).
    """
    if tokens.is_meta:
        rows = tokens.unflatten(0, view_mask.shape)
    else:
        rows = tokens.new_zeros(*view_mask.shape, *tokens.shape[1:])
        rows[view_mask] = tokens
    mask = view_mask.unsqueeze(-1).expand(*view_mask.shape, tokens.shape[1])
    return rows.flatten(1, 2), mask.flatten(1, 2)
