"""A plugin of rrg: focal loss on the disease logits."""

import rrg


@rrg.hookimpl
def rrg_losses() -> list[rrg.Piece]:
    target = "rrg_focal.loss:Focal"  # imported when it is first needed
    return [rrg.Piece("focal.loss", target, "focal loss on the disease logits")]
