"""Core's plain image encoder: any timm model by name, or any Hugging Face vision model by hub id or folder."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

import rrg._torchvision  # noqa: F401  before timm and transformers
from rrg.axes import Axes
from rrg.config import Folder, PieceConfig
from rrg.core_pieces.patches import Layout, find_layout
from rrg.core_pieces.weights import need_safetensors, refuse_missing
from rrg.errors import DataError, UsageError
from rrg.views import films_there, side_by_side

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EncoderConfig(PieceConfig):
    model: Annotated[str, Folder] = Field(
        "resnet10t", description="timm model name, or hub id or folder of a Hugging Face vision model"
    )
    pretrained: bool = Field(
        False, description="load timm's published weights; a hub id or folder always loads its own"
    )
    options: dict[str, Any] = Field({}, description="arguments of the timm model itself, none of its loader's")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the patch tokens, in training")
    standardize: bool = Field(
        False,
        description="batch-normalise every position and channel: chest films look alike, and what sets one "
        "apart is small beside what all share; for encoders that start at random. Where a stage freezes the encoder "
        "first, the training films give the statistics",
    )


class Patches(NamedTuple):
    patch_tokens: Float[Tensor, "batch patches vision"]
    patch_mask: Bool[Tensor, "batch patches"]


class Encoder(nn.Module):
    """The last feature map of every film, films side by side: patches = views × positions of one film. Class, register
    and other tokens beside the patches are left out; `rrg.core_pieces.patches` finds them by running the model once.

    A grey film is repeated over a Hugging Face model's three channels; a timm model is built with one channel
    (pretrained kernels are summed over the colours, as timm does). Films are normalised as published weights expect.
    """

    image_sizes = (32, 47, 96)  # that the default model reads
    architectures: ClassVar[dict[str, dict[str, Any]]] = {}  # of hub ids, so that planning asks no hub

    def __init__(self, config: EncoderConfig, axes: Axes) -> None:
        super().__init__()
        self.hugging_face = "/" in config.model or Path(config.model).is_dir()
        # Modules whose weights have a source: they are saved only once they are trained.
        self.published = ("backbone",) if self.hugging_face or config.pretrained else ()
        self.backbone: Any = (
            _hugging_face(config, self.architectures) if self.hugging_face else _timm(config, axes.image)
        )
        self.dropout = nn.Dropout(config.dropout)
        # Python floats, not buffers: nothing to save, nothing to move.
        self.mean, self.std = _colour_statistics(config, self.backbone, self.hugging_face)
        self.intermediate = False  # whether timm's feature maps are read, where its features are none
        self.asked = _asked(self.backbone, axes.image) if self.hugging_face else {}
        self.layout = self._find_layout(config.model, axes.image)
        self.vision = self.layout.width
        self.standardize: nn.Module | None = None
        if config.standardize:
            self.standardize = nn.BatchNorm1d(self.layout.positions * self.vision, affine=False)

    @property
    def settled(self) -> bool:
        """Whether `standardize` has statistics, where it is asked for."""
        return self.standardize is None or bool(self.standardize.num_batches_tracked)

    @contextmanager
    def settling(self) -> Iterator[None]:
        """The films that are encoded meanwhile, two or more, give `standardize` its statistics, over all of them."""
        norm: Any = self.standardize
        seen: list[Any] = [0, 0.0, 0.0]  # films, and sums of their values and squares

        def add(module: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0].double()
            seen[:] = [seen[0] + len(x), seen[1] + x.sum(dim=0), seen[2] + x.square().sum(dim=0)]

        hook = norm.register_forward_pre_hook(add)
        try:
            yield
        finally:
            hook.remove()
        films, total, squares = seen
        if films > 1:
            norm.running_mean.copy_(total / films)
            norm.running_var.copy_((squares - total.square() / films).clamp(min=0) / (films - 1))
            norm.num_batches_tracked.fill_(1)

    def forward(
        self,
        pixel_values: Float[Tensor, "batch views channels height width"],
        view_mask: Bool[Tensor, "batch views"],
    ) -> Patches:
        # Only films that are there: a blank one would cost time and enter the statistics of batch normalisation.
        films = films_there(pixel_values, view_mask)
        films = torch.cat([(films - mean) / std for mean, std in zip(self.mean, self.std, strict=True)], dim=1)
        alone = self.training and len(films) == 1
        if alone:  # one film has no statistics of a batch: it is normalised by those so far
            self.eval()
        tokens = self._tokens(films)
        if self.standardize is not None:
            tokens = self.standardize(tokens.flatten(1)).view_as(tokens)
        tokens = self.dropout(tokens)
        if alone:
            self.train()
        return Patches(*side_by_side(tokens, view_mask))

    def _tokens(self, films: Tensor) -> Tensor:
        """(films channels height width) to (films positions vision)."""
        return self.layout.patches(self._features(films))

    def _features(self, films: Tensor) -> Any:
        if self.hugging_face:
            asked = dict(self.asked)
            if "noise" in asked:  # the order in which a masked autoencoder keeps patches: their own
                asked["noise"] = torch.arange(asked["noise"], device=films.device).expand(len(films), -1)
            given = self.backbone(pixel_values=films, **asked)
            if not hasattr(given, "last_hidden_state"):
                raise ValueError(f"it gives {', '.join(given)} and no last_hidden_state")
            return given.last_hidden_state
        # Convolutions run a third faster on a CPU with channels last; tensor cores want it too.
        films = films.contiguous(memory_format=torch.channels_last)
        if self.intermediate:
            [last] = self.backbone.forward_intermediates(films, indices=1, output_fmt="NCHW", intermediates_only=True)
            return last
        return self.backbone.forward_features(films)

    def _find_layout(self, model: str, size: int) -> Layout:
        """Raises UsageError where the model cannot read films of this size or gives no patches of them."""
        patch, training = self._patch(), self.backbone.training
        self.backbone.eval()  # a film of noise must not enter its statistics
        try:
            if not self.hugging_face:
                self.intermediate = self._lacks_features(size)
            front = None if self.hugging_face else getattr(self.backbone, "num_prefix_tokens", None)
            return find_layout(self.backbone, self._features, len(self.mean), size, patch=patch, front=front)
        except Exception as error:  # a model's own code may raise anything
            reason, advice = _reason(error), "expected a model that reads films of that size and gives their patches"
            if size % patch:
                reason = f"it reads films whose side is a multiple of {patch}"
                advice = f"set image.size={max(round(size / patch), 1) * patch}"
            elif "meta" in reason:
                reason = f"its shapes cannot be planned without its weights ({reason})"
            raise UsageError(f"core.encoder.model={model}, image.size={size}: {reason}; {advice}") from error
        finally:
            self.backbone.train(training)

    def _lacks_features(self, size: int) -> bool:
        """Whether a timm model's features are several, or class tokens alone, and its feature maps must be read."""
        with torch.no_grad():
            given = self._features(torch.zeros(1, len(self.mean), size, size))
        if not isinstance(given, Tensor):
            return True
        reduction = self.backbone.feature_info[-1]["reduction"] if given.ndim == 3 else 1
        return given.ndim == 3 and given.shape[1] < (size // reduction) ** 2

    def _patch(self) -> int:
        """Side of a patch in pixels; 1 for a model that states none, such as a convolutional one."""
        if self.hugging_face:
            size = getattr(self.backbone.config, "patch_size", 1)
        else:
            embed: Any = getattr(self.backbone, "patch_embed", None)
            size, convolution = getattr(embed, "patch_size", 1), getattr(embed, "proj", None)
            if isinstance(convolution, nn.Conv2d) and convolution.stride != convolution.kernel_size:
                return 1  # patches overlap, as in PVT v2
        return int(size[0] if isinstance(size, Sequence) else size)


def _on_meta() -> bool:
    """Whether modules are being built for their shapes alone, as planning does: no weights are read then."""
    return torch.get_default_device().type == "meta"


def _timm(config: EncoderConfig, size: int) -> Any:
    import timm

    _refuse_loading(config)

    def create(**options: Any) -> Any:
        pretrained = config.pretrained and not _on_meta()
        return timm.create_model(config.model, pretrained=pretrained, in_chans=1, num_classes=0, **options)

    try:
        try:
            return create(**{"img_size": size, **config.options})
        except TypeError:  # a convolutional model has no image size
            return create(**config.options)
    except Exception as error:
        raise UsageError(
            f"core.encoder.model={config.model}, options={config.options}, image.size={size}: {_reason(error)}; "
            "expected a timm name, a hub id or a folder, and a size that the model can read"
        ) from error


def _refuse_loading(config: EncoderConfig) -> None:
    """A recipe is data: its options make the model, and never say which file is read into it."""
    import timm
    from timm.models._builder import build_model_with_cfg

    loading = {*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters}
    if found := sorted(loading & config.options.keys()):
        raise UsageError(
            f"core.encoder.options: {', '.join(found)}: how timm loads a model, not what it is; options are the "
            "model's own, such as drop_path_rate; weights come by core.encoder.pretrained or a folder"
        )
    if ":" in config.model:
        raise UsageError(f"core.encoder.model={config.model}: give a timm name, hub id or folder without a scheme")


def _hugging_face(config: EncoderConfig, architectures: dict[str, dict[str, Any]]) -> Any:
    from transformers import AutoConfig, AutoModel

    try:
        if _on_meta():
            known = architectures.get(config.model)
            model = AutoModel.from_config(
                AutoConfig.for_model(**known)
                if known
                else AutoConfig.from_pretrained(config.model, trust_remote_code=False),
                trust_remote_code=False,
                dtype=torch.float32,
            )
        else:
            need_safetensors(config.model, "AutoModel")
            model, found = AutoModel.from_pretrained(
                config.model,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
            refuse_missing(found)
        return getattr(model, "vision_model", model)  # of CLIP and its like, which read a text too
    except DataError:
        raise
    except Exception as error:
        raise UsageError(
            f"core.encoder.model={config.model}: {_reason(error)}; expected a hub id or folder of a Hugging Face model"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _asked(backbone: Any, size: int) -> dict[str, Any]:
    """What a Hugging Face model must be told: films of another size than it was trained with, or to mask nothing."""
    known, asked = inspect.signature(backbone.forward).parameters, dict[str, Any]()
    usual = getattr(backbone.config, "image_size", size)
    if "interpolate_pos_encoding" in known and size not in (usual if isinstance(usual, Sequence) else [usual]):
        asked["interpolate_pos_encoding"] = True
    if "noise" in known and isinstance(backbone.config.patch_size, int):  # ViT-MAE; Hiera masks in pretraining alone
        backbone.config.mask_ratio = 0.0
        asked["noise"] = (size // backbone.config.patch_size) ** 2
    return asked


def _colour_statistics(config: EncoderConfig, backbone: Any, hugging_face: bool) -> tuple[Sequence[float], ...]:
    """Mean and deviation by input channel: the published ones of the weights, else of a film's grey values, about."""
    if hugging_face and not _on_meta():
        from transformers import ImageProcessingMixin

        try:
            settings, _ = ImageProcessingMixin.get_image_processor_dict(config.model)
        except OSError:  # a folder of weights alone
            settings = {}
        return settings.get("image_mean", IMAGENET_MEAN), settings.get("image_std", IMAGENET_STD)
    if hugging_face:
        return IMAGENET_MEAN, IMAGENET_STD
    if config.pretrained:
        published = backbone.pretrained_cfg
        return (sum(published["mean"]) / 3,), (sum(published["std"]) / 3,)
    return (0.5,), (0.25,)
