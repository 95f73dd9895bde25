"""A plugin that is not rrg's own: one loss."""

import rrg


@rrg.hookimpl
def rrg_losses() -> list[rrg.Piece]:
    return [rrg.Piece("focal.loss", "rrg_focal.loss:Focal", "focal loss on the disease logits")]
