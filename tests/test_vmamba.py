"""VMamba: against a plain transcription of its equations; the published keys and counts."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.errors import UsageError
from rrg_dast.vmamba import SIZES, VSSM, Block, VMamba, VMambaConfig

SMALL = {"dims": 8, "depths": [1, 2, 1, 1]}
# Parameters of the published classifiers with 1,000 classes, as VMamba's analyze/tp.py counts them; its table of models
# says 30M, 49M and 87M.
PUBLISHED = {"tiny": 30_249_064, "small": 49_012_840, "base": 86_614_504}

State = dict[str, Any]


def vmamba(image: int = 64, seed: int = 0, **config: Any) -> VMamba:
    torch.manual_seed(seed)
    return VMamba(VMambaConfig(**{**SMALL, **config}), Axes(host=7, layers=2, image=image))


def vssm(seed: int = 0) -> VSSM:
    torch.manual_seed(seed)
    return VSSM(8, [1, 2, 1, 1], 0.0)


# A plain reference: channels last, one position at a time, weights from the state dict.


def layer_norm(x: Tensor, state: State, key: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{key}.weight"] + state[f"{key}.bias"]


def convolved(x: Tensor, state: State, key: str, **options: Any) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), state[f"{key}.weight"], state.get(f"{key}.bias"), padding=1, **options)
    return y.permute(0, 2, 3, 1)


def scanned(x: Tensor, order: list[int], direction: int, state: State, key: str) -> dict[int, Tensor]:
    """The selective scan of one direction: position to (films channels). x: (films rows columns channels)."""
    channels = x.shape[-1]
    own = slice(direction * channels, (direction + 1) * channels)
    A, D = -state[f"{key}.A_logs"][own].exp(), state[f"{key}.Ds"][own]
    project, widen = state[f"{key}.x_proj_weight"][direction], state[f"{key}.dt_projs_weight"][direction]
    rank, states, cells = widen.shape[1], A.shape[1], x.flatten(1, 2).unbind(dim=1)
    h, y = x.new_zeros(len(x), channels, states), {}
    for position in order:
        u = cells[position]
        low, B, C = (u @ project.T).split([rank, states, states], dim=1)
        step = (1 + (low @ widen.T + state[f"{key}.dt_projs_bias"][direction]).exp()).log().unsqueeze(-1)
        h = (step * A).exp() * h + step * B.unsqueeze(1) * u.unsqueeze(-1)
        y[position] = (h * C.unsqueeze(1)).sum(dim=-1) + D * u
    return y


def scanned_in_2d(x: Tensor, state: State, key: str) -> Tensor:
    x = convolved(x @ state[f"{key}.in_proj.weight"].T, state, f"{key}.conv2d", groups=x.shape[-1])
    x = x * x.sigmoid()
    rows, columns = x.shape[1:3]
    by_row = [row * columns + column for row in range(rows) for column in range(columns)]
    by_column = [row * columns + column for column in range(columns) for row in range(rows)]
    found = [
        scanned(x, order, direction, state, key)
        for direction, order in enumerate((by_row, by_column, by_row[::-1], by_column[::-1]))
    ]
    y = torch.stack([sum(one[position] for one in found) for position in range(rows * columns)], dim=1).view(x.shape)
    return layer_norm(y, state, f"{key}.out_norm") @ state[f"{key}.out_proj.weight"].T


def perceived(x: Tensor, state: State, key: str) -> Tensor:
    x = x @ state[f"{key}.fc1.weight"].T + state[f"{key}.fc1.bias"]
    x = x * (1 + torch.erf(x / 2**0.5)) / 2
    return x @ state[f"{key}.fc2.weight"].T + state[f"{key}.fc2.bias"]


def reference(films: Tensor, state: State, depths: list[int]) -> Tensor:
    """films: (films 3 height width). Gives (films rows columns channels)."""
    x = layer_norm(convolved(films.permute(0, 2, 3, 1), state, "patch_embed.0", stride=2), state, "patch_embed.2")
    x = x * (1 + torch.erf(x / 2**0.5)) / 2
    x = layer_norm(convolved(x, state, "patch_embed.5", stride=2), state, "patch_embed.7")
    for i, depth in enumerate(depths):
        for j in range(depth):
            key = f"layers.{i}.blocks.{j}"
            x = x + scanned_in_2d(layer_norm(x, state, f"{key}.norm"), state, f"{key}.op")
            x = x + perceived(layer_norm(x, state, f"{key}.norm2"), state, f"{key}.mlp")
        if i < len(depths) - 1:
            x = convolved(x, state, f"layers.{i}.downsample.1", stride=2)
            x = layer_norm(x, state, f"layers.{i}.downsample.3")
    return layer_norm(x, state, "classifier.norm")


def assert_parity(model: VSSM, films: Tensor, depths: list[int]) -> None:
    """Output and every gradient, to 1e-5 of its largest value."""
    model = model.double()
    with torch.no_grad():  # as trained: no norm is the identity, no A is -1
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or name.endswith(("A_logs", "dt_projs_bias")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    state = dict(model.named_parameters())
    found, expected = model(films), reference(films, state, depths)
    upstream = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, list(state.values()), upstream) for y in (found, expected)]
    pairs = zip(("output", *state), (found, *gradients[0]), (expected, *gradients[1]), strict=True)
    for name, one, other in pairs:
        assert other.abs().max() > 0, name
        assert (one - other).abs().max() <= 1e-5 * other.abs().max(), name


@pytest.mark.parametrize(("size", "width"), [("tiny", 96), ("small", 32), ("base", 32)])
def test_outputs_and_gradients_are_the_equations(size: str, width: int) -> None:
    torch.manual_seed(0)
    dims, depths, _ = SIZES[size]
    assert_parity(VSSM(dims, depths, 0.0), torch.randn(1, 3, 64, width, dtype=torch.float64), depths)


# The published models


@pytest.mark.parametrize("size", SIZES)
def test_counts_are_the_published_ones(size: str) -> None:
    dims, depths, _ = SIZES[size]
    with torch.device("meta"):
        model = VSSM(dims, depths, 0.0)
    head = 1000 * model.width + 1000
    assert sum(p.numel() for p in model.parameters()) + head == PUBLISHED[size]
    assert len(model.state_dict()) + 2 == {"tiny": 276}.get(size, 276 + 12 * 18)


def test_keys_and_shapes_are_the_published_ones() -> None:
    block = {
        "norm.weight": (48,), "norm.bias": (48,), "norm2.weight": (48,), "norm2.bias": (48,),
        "op.A_logs": (192, 1), "op.Ds": (192,), "op.dt_projs_bias": (4, 48), "op.dt_projs_weight": (4, 48, 3),
        "op.x_proj_weight": (4, 5, 48), "op.in_proj.weight": (48, 48), "op.out_proj.weight": (48, 48),
        "op.conv2d.weight": (48, 1, 3, 3), "op.out_norm.weight": (48,), "op.out_norm.bias": (48,),
        "mlp.fc1.weight": (192, 48), "mlp.fc1.bias": (192,), "mlp.fc2.weight": (48, 192), "mlp.fc2.bias": (48,),
    }  # fmt: skip
    rest = {
        "patch_embed.0.weight": (12, 3, 3, 3), "patch_embed.0.bias": (12,), "patch_embed.2.weight": (12,),
        "patch_embed.5.weight": (24, 12, 3, 3), "patch_embed.7.bias": (24,), "layers.0.downsample.1.bias": (48,),
        "layers.1.downsample.1.weight": (96, 48, 3, 3), "layers.2.downsample.3.weight": (192,),
        "classifier.norm.weight": (192,), "classifier.norm.bias": (192,),
    }  # fmt: skip
    shapes = {key: tuple(value.shape) for key, value in VSSM(24, [1, 2, 1, 1], 0.0).state_dict().items()}
    own = {key.removeprefix("layers.1.blocks.1."): shape for key, shape in shapes.items() if ".1.blocks.1." in key}
    assert own == block
    assert rest.items() <= shapes.items()
    assert len(shapes) == 5 * 18 + 8 + 3 * 4 + 2
    assert not [key for key in shapes if not re.match(r"patch_embed|layers\.\d\.(blocks|downsample)|classifier", key)]


def test_steps_start_between_1_and_100_thousandths() -> None:
    op = vssm().layers[1].blocks[0].op
    steps = F.softplus(op.dt_projs_bias)
    assert (steps.min() > 0.99e-3) & (steps.max() < 1.01e-1)
    assert torch.equal(-op.A_logs.exp(), -torch.ones(4 * 16, 1))
    assert torch.equal(op.Ds, torch.ones(4 * 16))


# The piece


def normalised(film: Tensor) -> Tensor:
    mean, std = (torch.tensor(three).view(3, 1, 1) for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (film.expand(-1, 3, -1, -1) - mean) / std


def test_a_grey_film_is_read_in_three_channels_normalised_as_for_imagenet() -> None:
    piece, film = vmamba().eval(), torch.rand(1, 1, 1, 64, 64)
    tokens = piece(film, torch.ones(1, 1, dtype=torch.bool)).patch_tokens
    torch.testing.assert_close(tokens, piece.backbone(normalised(film[0])).flatten(1, 2))
    assert tokens.shape == (1, 4, piece.vision) == (1, 4, 64)


@pytest.mark.parametrize("pixel", [0.0, float("nan")])
def test_absent_films_do_not_matter(pixel: float) -> None:
    films, mask = torch.rand(3, 2, 1, 64, 64), torch.tensor([[True, True], [True, False], [False, False]])
    piece = vmamba(drop_path=0.0).train()
    expected = piece.backbone(normalised(films[mask])).flatten(1, 2)
    films[~mask] = pixel
    tokens, patch_mask = piece(films, mask)
    assert torch.equal(patch_mask, mask.repeat_interleave(4, dim=1))
    torch.testing.assert_close(tokens[patch_mask], expected.flatten(0, 1))
    assert not tokens[~patch_mask].any()


def test_a_batch_without_films_is_empty() -> None:
    tokens, mask = vmamba()(torch.rand(2, 1, 1, 64, 64), torch.zeros(2, 1, dtype=torch.bool))
    assert tokens.shape == (2, 4, 64)
    assert not tokens.any()
    assert not mask.any()


def test_films_are_encoded_each_by_itself() -> None:
    films, one, piece = torch.rand(2, 3, 1, 64, 64), torch.ones(1, 1, dtype=torch.bool), vmamba().eval()
    whole = piece(films, torch.ones(2, 3, dtype=torch.bool)).patch_tokens
    alone = [piece(film.view(1, 1, 1, 64, 64), one).patch_tokens for film in films.flatten(0, 1)]
    torch.testing.assert_close(whole, torch.cat(alone).view(2, 12, -1))


def test_every_weight_learns() -> None:
    piece = vmamba(drop_path=0.0).train()
    tokens = piece(torch.rand(2, 1, 1, 64, 64), torch.ones(2, 1, dtype=torch.bool)).patch_tokens
    tokens[..., ::2].square().sum().backward()
    idle = [name for name, p in piece.named_parameters() if not (p.grad.isfinite().all() and p.grad.any())]
    assert idle == []


def test_branches_are_dropped_in_training_alone_and_the_rest_scaled() -> None:
    torch.manual_seed(0)
    block, branch = Block(8, 0.25).train(), torch.ones(4000, 1, 1, 8)
    kept = block.kept(branch)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (kept == kept[..., :1]).all()  # a film as a whole
    assert kept.mean() == pytest.approx(1.0, abs=0.05)
    assert block.eval().kept(branch) is branch


def test_rates_of_dropped_branches_rise_to_the_published_one() -> None:
    for size, last in (("tiny", 0.2), ("small", 0.3), ("base", 0.5)):
        blocks = [m for m in vmamba(size=size).modules() if isinstance(m, Block)]
        assert [block.drop_path for block in blocks] == pytest.approx([last * i / 4 for i in range(5)])
    assert all(m.drop_path == 0 for m in vmamba(drop_path=0.0).modules() if isinstance(m, Block))


def test_on_the_meta_device_it_gives_the_same_shapes_and_reads_no_file() -> None:
    with torch.device("meta"):
        piece = vmamba(checkpoint="nowhere.pth")
        patches = piece(torch.empty(2, 3, 1, 64, 64), torch.ones(2, 3, dtype=torch.bool))
    real = vmamba()(torch.rand(2, 3, 1, 64, 64), torch.ones(2, 3, dtype=torch.bool))
    assert [t.shape for t in patches] == [t.shape for t in real]
    assert all(tensor.is_meta for tensor in (*patches, *piece.parameters()))


@pytest.mark.parametrize(("image", "nearest"), [(47, 32), (100, 96), (16, 32)])
def test_a_film_that_does_not_fit(image: int, nearest: int) -> None:
    with pytest.raises(UsageError, match=rf"image.size={image}: .*multiple of 32; set image.size={nearest}"):
        vmamba(image=image)


# Checkpoints
