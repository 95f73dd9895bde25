"""Core's plain image encoder: any timm model by name, or any Hugging Face vision model by hub id or folder."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

import rrg._torchvision  # noqa: F401  before timm and transformers
from rrg.axes import Axes
from rrg.config import PieceConfig
from rrg.errors import UsageError


class EncoderConfig(PieceConfig):
    model: str = Field("resnet10t", description="timm model name, or hub id or folder of a Hugging Face vision model")
    pretrained: bool = Field(False, description="load timm's published weights; a hub id or folder always loads its own")
    options: dict[str, Any] = Field({}, description="further arguments of timm.create_model")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the patch tokens, in training")


class Patches(NamedTuple):
    patch_tokens: Float[Tensor, "batch patches vision"]
    patch_mask: Bool[Tensor, "batch patches"]


class Encoder(nn.Module):
    """The last feature map of every film, films side by side: patches = views × positions of one film.

    A grey film is repeated over a Hugging Face model's three channels and normalised by its ImageNet mean and deviation;
    a timm model is built with one channel (pretrained kernels are summed over the colours, as timm does).
    """

    def __init__(self, config: EncoderConfig, axes: Axes) -> None:
        super().__init__()
        self.hugging_face = "/" in config.model or Path(config.model).is_dir()
        self.backbone = _hugging_face(config) if self.hugging_face else _timm(config, axes.image)
        self.vision = self.backbone.config.hidden_size if self.hugging_face else self.backbone.num_features
        self.dropout = nn.Dropout(config.dropout)
        # Python floats, not buffers: nothing to save, nothing to move.
        self.mean, self.std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if self.hugging_face else ((0.5,), (0.25,))

    def forward(
        self,
        pixel_values: Float[Tensor, "batch views channels height width"],
        view_mask: Bool[Tensor, "batch views"],
    ) -> Patches:
        batch, views = pixel_values.shape[:2]
        films = pixel_values.flatten(0, 1)
        films = torch.cat([(films - mean) / std for mean, std in zip(self.mean, self.std, strict=True)], dim=1)
        tokens = self._tokens(films.to(next(self.backbone.parameters()).dtype))
        tokens = self.dropout(tokens).unflatten(0, (batch, views))
        mask = view_mask.unsqueeze(-1).expand(batch, views, tokens.shape[2])
        return Patches(tokens.flatten(1, 2), mask.flatten(1, 2))

    def _tokens(self, films: Tensor) -> Tensor:
        """(batch·views, channels, height, width) to (batch·views, patches, vision)."""
        if self.hugging_face:
            config = self.backbone.config
            hidden = self.backbone(pixel_values=films).last_hidden_state
            if hidden.ndim == 4:
                return hidden.flatten(2).transpose(1, 2)
            return hidden[:, hidden.shape[1] - (films.shape[-1] // config.patch_size) ** 2 :]  # without class tokens
        features = self.backbone.forward_features(films)
        if features.ndim == 3:
            return features[:, self.backbone.num_prefix_tokens :]
        if features.shape[-1] == self.vision and features.shape[1] != self.vision:  # channels last, as Swin
            features = features.permute(0, 3, 1, 2)
        return features.flatten(2).transpose(1, 2)


def _timm(config: EncoderConfig, size: int) -> Any:
    import timm

    options = dict(config.options)
    try:
        model = timm.create_model(config.model, pretrained=config.pretrained, in_chans=1, num_classes=0, **options)
    except RuntimeError as error:
        raise UsageError(f"core.encoder.model={config.model}: {error}; a timm name, a hub id or a folder") from error
    except TypeError as error:
        raise UsageError(f"core.encoder.options={options}: {error}") from error
    if "img_size" not in options and getattr(model, "patch_embed", None) is not None and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(size, size))
    return model


def _hugging_face(config: EncoderConfig) -> Any:
    from transformers import AutoConfig, AutoModel

    try:
        if torch.get_default_device().type == "meta":
            return AutoModel.from_config(AutoConfig.from_pretrained(config.model))
        return AutoModel.from_pretrained(config.model, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UsageError(f"core.encoder.model={config.model}: {str(error).splitlines()[0]}") from error
