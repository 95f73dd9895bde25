"""DAST's image encoder: VMamba, with the published state-dict keys, and a loader for its checkpoints.

Liu et al., "VMamba: Visual State Space Model" (NeurIPS 2024). `VSSM` is the second version of its code: one state per
channel, no gate, and as many channels inside SS2D as outside; published as T[s1l8], S[s1l20] and B[s1l20], that is, 1
state and 8 or 20 blocks in the third stage. DAST's eq. 1 is `VSSM.patch_embed`: the published weights read patches by
convolutions that overlap, where the equation's patches do not. Eq. 2 is the blocks. Activations stay channels-last.
"""

import math
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from rrg import PieceConfig
from rrg.axes import Axes
from rrg.core_pieces.encoder import IMAGENET_MEAN, IMAGENET_STD, Patches
from rrg.errors import DataError, UsageError
from rrg.ops.selective_scan import selective_scan_2d
from rrg.views import films_there, side_by_side

# Channels of the first stage, blocks of the four stages, rate of dropped branches in the published training.
SIZES = {"tiny": (96, [2, 2, 8, 2], 0.2), "small": (96, [2, 2, 20, 2], 0.3), "base": (128, [2, 2, 20, 2], 0.5)}
STRIDE = 32  # pixels of a film to a position of the last stage
DIRECTIONS, STATES = 4, 1  # orders in which a map is read; numbers that a channel remembers
MAX_BYTES = 4 << 30  # of a checkpoint


class VMambaConfig(PieceConfig):
    size: Literal["tiny", "small", "base"] = Field("tiny", description="not stated in the paper beyond 'lightweight'")
    dims: int | None = Field(
        None, ge=2, multiple_of=2, description="channels of the first stage, instead of the size's"
    )
    depths: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, min_length=4, max_length=4, description="blocks of the four stages, instead of the size's"
    )
    checkpoint: str = Field(
        "", description="published weights of the same size, .pth or .safetensors; empty: random ones"
    )
    drop_path: float | None = Field(
        None, ge=0, lt=1, description="rate of dropped branches in the last block; none: as published for the size"
    )


class VMamba(nn.Module):
    """The last stage's normalised feature map of every film, films side by side: patches = views × (side / 32)².

    The published weights read three colours, so a grey film is repeated over them and normalised as for ImageNet.
    """

    image_sizes = (64, 96)  # at 32 the last stage has one position, hence no state to carry
    trial: ClassVar = {"dims": 8, "depths": [1, 1, 1, 1]}

    def __init__(self, config: VMambaConfig, axes: Axes) -> None:
        super().__init__()
        if axes.image % STRIDE:
            nearest = max(round(axes.image / STRIDE), 1) * STRIDE
            raise UsageError(
                f"image.size={axes.image}: VMamba reads films whose side is a multiple of {STRIDE}; "
                f"set image.size={nearest}"
            )
        dims, depths, rate = SIZES[config.size]
        rate = rate if config.drop_path is None else config.drop_path
        self.backbone = VSSM(config.dims or dims, config.depths or depths, rate)
        self.vision = self.backbone.width
        self.published = ("backbone",) if config.checkpoint else ()  # saved only once they are trained
        if config.checkpoint and torch.get_default_device().type != "meta":  # planning reads no weights
            load_checkpoint(self.backbone, Path(config.checkpoint))

    def forward(
        self,
        pixel_values: Float[Tensor, "batch views channels height width"],
        view_mask: Bool[Tensor, "batch views"],
    ) -> Patches:
        films = films_there(pixel_values, view_mask)
        colours = [(films - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
        tokens = self.backbone(torch.cat(colours, dim=1)).flatten(1, 2)
        return Patches(*side_by_side(tokens, view_mask))


class Permute(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


def halve(width: int, out: int) -> list[nn.Module]:
    """A convolution that halves height and width, channels first to channels last, and a norm."""
    return [nn.Conv2d(width, out, 3, stride=2, padding=1), Permute(0, 2, 3, 1), nn.LayerNorm(out)]


class VSSM(nn.Module):
    """A stem to a quarter of the side, then four stages; each but the last halves the map and doubles its channels.

    Its state dict is that of the published classifier without `classifier.head`, hence the names.
    """

    def __init__(self, dims: int, depths: list[int], drop_path: float) -> None:
        super().__init__()
        self.width = dims * 2 ** (len(depths) - 1)
        first = Permute(0, 3, 1, 2)
        self.patch_embed = nn.Sequential(*halve(3, dims // 2), first, nn.GELU(), *halve(dims // 2, dims))
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(depths):
            width, before, last = dims * 2**stage, sum(depths[:stage]), max(sum(depths) - 1, 1)
            blocks = [Block(width, drop_path * (before + i) / last) for i in range(depth)]  # rates rise from 0
            down = nn.Sequential(first, *halve(width, 2 * width)) if stage < len(depths) - 1 else nn.Identity()
            self.layers.append(nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks), downsample=down)))
        self.classifier = nn.ModuleDict({"norm": nn.LayerNorm(self.width)})
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "films 3 height width"]) -> Float[Tensor, "films rows columns width"]:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.classifier["norm"](x)


class Block(nn.Module):
    """x + SS2D(LN(x)), then x + MLP(LN(x)); in training either branch is dropped, film by film, at `drop_path`."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm = nn.LayerNorm(width)
        self.op = SS2D(width)
        self.norm2 = nn.LayerNorm(width)
        fc1, fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(), fc2=fc2))

    def forward(self, x: Float[Tensor, "films rows columns width"]) -> Float[Tensor, "films rows columns width"]:
        x = x + self.kept(self.op(self.norm(x)))
        return x + self.kept(self.mlp(self.norm2(x)))

    def kept(self, branch: Tensor) -> Tensor:
        """Scaled so that the mean over many draws is the branch."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1, 1).bernoulli_(keep).div_(keep)


class SS2D(nn.Module):
    """The 2D selective scan: one map read in four orders, each by a selective scan of its own; their sum.

    With x after a linear layer, a depthwise convolution and SiLU, per direction k and position: [δ; B; C] = x_proj_k x
    with δ of width / 16 numbers, Δ = softplus(dt_projs_k δ + bias_k), and A = -exp(A_logs); D is Ds.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rank = math.ceil(width / 16)
        self.in_proj = nn.Linear(width, width, bias=False)
        self.conv2d = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        bound = width**-0.5  # as nn.Linear starts
        sizes = (DIRECTIONS, self.rank + 2 * STATES, width)
        self.x_proj_weight = nn.Parameter(torch.empty(sizes).uniform_(-bound, bound))
        bound = self.rank**-0.5
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, width, self.rank).uniform_(-bound, bound))
        # Steps Δ start log-uniformly between 0.001 and 0.1: what softplus makes of the bias.
        steps = torch.empty(DIRECTIONS, width).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_projs_bias = nn.Parameter(steps + (-(-steps).expm1()).log())
        self.A_logs = nn.Parameter(torch.zeros(DIRECTIONS * width, STATES))
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * width))
        self.out_norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "films rows columns width"]) -> Float[Tensor, "films rows columns width"]:
        x = F.silu(self.conv2d(self.in_proj(x).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        read = torch.einsum("fhwc,krc->fhwkr", x, self.x_proj_weight)  # (films rows columns 4 rank+2·states)
        low, B, C = read.split([self.rank, STATES, STATES], dim=-1)
        low = low.flatten(0, 2).transpose(0, 1)  # (4 positions rank): one matrix product a direction
        delta = torch.bmm(low, self.dt_projs_weight.transpose(1, 2)).unflatten(1, x.shape[:3])
        y = selective_scan_2d(
            x.permute(0, 3, 1, 2),
            delta.permute(1, 0, 4, 2, 3),
            -self.A_logs.to(torch.promote_types(self.A_logs.dtype, torch.float32)).exp(),
            B.permute(0, 3, 4, 1, 2),
            C.permute(0, 3, 4, 1, 2),
            self.Ds,
            delta_bias=self.dt_projs_bias.flatten(),
        )
        return self.out_proj(self.out_norm(y.permute(0, 2, 3, 1)))


# A checkpoint of the public training code holds its settings too, of a class that is a dict: read as a dict, they run
# no code.
SETTINGS: list[Any] = [(OrderedDict, "yacs.config.CfgNode")]
# Names of older published checkpoints.
RENAMED = (
    (r"patch_embed\.proj\.", "patch_embed.0."),
    (r"patch_embed\.norm\.", "patch_embed.2."),
    (r"(layers\.\d+\.blocks\.\d+)\.ln_1\.", r"\1.norm."),
    (r"(layers\.\d+\.blocks\.\d+)\.self_attention\.", r"\1.op."),
    (r"norm\.", "classifier.norm."),
    (r"head\.", "classifier.head."),
)


def load_checkpoint(model: VSSM, path: Path) -> None:
    """Published VMamba weights into `model`: a state dict, bare or under `model`, with present or older names.

    The classifier's head is left out; everything else must fit. A 1×1 convolution's kernel passes for a linear weight.
    Raises DataError for a file that is missing, corrupt or holds more than tensors, and for weights that do not fit.
    """
    own, weights, problems = model.state_dict(), {}, []
    for name, value in _read(path).items():
        key = name
        for old, new in RENAMED:
            key = re.sub(f"^{old}", new, key)
        if key.startswith("classifier.head."):
            continue
        if key in weights:
            problems.append(f"{key} stands twice, once under an older name")
        if key in own and own[key].ndim == 2 and value.ndim == 4 and value.shape[2:] == (1, 1):
            value = value.flatten(1)
        weights[key] = value
    problems += [f"{key} is missing" for key in own if key not in weights]
    for key, value in weights.items():
        if key not in own:
            problems.append(f"{key} belongs to no module")
        elif value.shape != own[key].shape:
            problems.append(f"{key}: {tuple(value.shape)} in the file, {tuple(own[key].shape)} built")
    if problems:
        raise DataError(f"{path}: {len(problems)} weights do not fit; is dast.vmamba.size the file's?", problems[:10])
    model.load_state_dict(weights)


def _read(path: Path) -> dict[str, Tensor]:
    if path.exists() and (not path.is_file() or path.stat().st_size > MAX_BYTES):
        raise DataError(f"{path}: no plain file of at most {MAX_BYTES >> 30} GiB, as a published checkpoint is")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            with torch.serialization.safe_globals(SETTINGS):
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a hostile file fails in any way it likes; torch's own message says to trust it
        reason = error if isinstance(error, OSError | SafetensorError) else type(error).__name__
        raise DataError(f"{path}: not a .pth or .safetensors file that holds tensors alone ({reason})") from error
    if isinstance(state, dict):
        state = state.get("model", state)
    if not isinstance(state, dict):
        raise DataError(f"{path}: holds a {type(state).__name__}; expected a state dict, bare or under `model`")
    problems = [
        f"{key} does not name a floating-point tensor" for key, value in state.items() if not _named(key, value)
    ]
    if problems:
        raise DataError(f"{path}: {len(problems)} entries are no weights", problems[:10])
    return state


def _named(key: object, value: object) -> bool:
    if not isinstance(key, str) or not isinstance(value, Tensor) or value.device.type != "cpu":
        return False
    return value.is_floating_point() and value.layout == torch.strided
