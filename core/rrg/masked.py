"""Tokens of which a mask keeps some. What it leaves out may hold anything, infinities and NaN too, so it is put to zero
and never multiplied by zero. Where it keeps nothing, the result is zero: a mean or softmax over nothing would be NaN.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn


def masked(
    tokens: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens width"]:
    """The tokens, zeros where the mask is False."""
    return tokens.masked_fill(~mask.unsqueeze(-1), 0.0)


def masked_mean(
    tokens: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch width"]:
    """The mean of the tokens that the mask keeps."""
    return masked(tokens, mask).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def attend(
    attention: nn.MultiheadAttention,
    queries: Float[Tensor, "batch queries width"],
    tokens: Float[Tensor, "batch tokens source"],
    mask: Bool[Tensor, "batch tokens"],
) -> Float[Tensor, "batch queries width"]:
    """Attention of the queries to the tokens that the mask keeps."""
    kept = masked(tokens, mask)
    absent = ~mask & mask.any(dim=1, keepdim=True)
    found: Tensor = attention(queries, kept, kept, key_padding_mask=absent, need_weights=False)[0]
    return found
