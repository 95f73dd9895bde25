"""VDGen's image encoder: Swin-B at 224 x 224 ("Implementation Details")."""

from typing import Annotated, ClassVar

from pydantic import Field

from rrg.axes import Axes
from rrg.config import Folder
from rrg.core_pieces.encoder import Encoder, EncoderConfig


class SwinConfig(EncoderConfig):
    model: Annotated[str, Folder] = Field(
        "swin_base_patch4_window7_224", description="any timm model name, hub id or folder"
    )


class Swin(Encoder):
    """The last feature map of a Swin Transformer (Liu et al. 2021) by timm: 49 patches of 1,024 for a film of 224."""

    image_sizes = (64, 96)
    trial: ClassVar = {
        "model": "swin_tiny_patch4_window7_224",
        "options": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2},
    }

    def __init__(self, config: SwinConfig, axes: Axes) -> None:
        super().__init__(config, axes)
