"""S2D-Align's image encoder: RAD-DINO, frozen ("Visual Encoder")."""

from typing import Annotated, ClassVar

from pydantic import Field

from rrg.axes import Axes
from rrg.config import Folder
from rrg.core_pieces.encoder import Encoder, EncoderConfig


class RadDinoConfig(EncoderConfig):
    model: Annotated[str, Folder] = Field(
        "microsoft/rad-dino",
        description="hub id or folder of a Hugging Face vision model, or a timm name; RAD-DINO is a DINOv2 ViT-B/14",
    )


class RadDino(Encoder):
    """Patch tokens of RAD-DINO (Pérez-García et al. 2024): 37 x 37 patches of 768 for a film of 518."""

    architectures: ClassVar = {"microsoft/rad-dino": {"model_type": "dinov2", "image_size": 518, "patch_size": 14}}
    image_sizes = (32, 48)
    trial: ClassVar = {"model": "vit_tiny_patch16_224", "options": {"embed_dim": 12, "depth": 2}}

    def __init__(self, config: RadDinoConfig, axes: Axes) -> None:
        super().__init__(config, axes)
