"""Which of a model's tokens are patches of the film: families that put others before, behind or in their place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rrg._torchvision  # noqa: F401  before transformers
from rrg.axes import Axes
from rrg.core_pieces.encoder import Encoder, EncoderConfig
from rrg.core_pieces.patches import find_layout
from rrg.errors import UsageError

Cut = Callable[[Tensor], Tensor]
VIT = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 48,
    "patch_size": 16,
}  # fmt: skip


def folder_of(kind: str, path: Path, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A small random model of a Hugging Face type, saved in `path`."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **config)).eval()
    model.to(dtype).save_pretrained(path)
    return model.float()


def encoder(model: Path | str, size: int, **settings: Any) -> Encoder:
    return Encoder(EncoderConfig(model=str(model), **settings), Axes(host=8, layers=1, image=size)).eval()


@torch.no_grad()
def patches(piece: Encoder, films: Tensor) -> Tensor:
    return piece(films, torch.ones(films.shape[:2], dtype=torch.bool)).patch_tokens


def normalised(films: Tensor, piece: Encoder) -> Tensor:
    return torch.cat([(films[:, 0] - m) / s for m, s in zip(piece.mean, piece.std, strict=True)], dim=1)


@pytest.mark.parametrize(
    ("kind", "config", "size", "cut"),
    [
        ("vit", VIT, 48, lambda x: x[:, 1:]),
        ("deit", VIT, 48, lambda x: x[:, 2:]),  # a distillation token too
        ("ijepa", VIT, 48, lambda x: x),
        ("dinov2_with_registers", VIT | {"num_register_tokens": 3}, 80, lambda x: x[:, 4:]),
        ("dinov3_vit", VIT | {"hidden_size": 16, "num_register_tokens": 4}, 32, lambda x: x[:, 5:]),
        ("yolos", VIT | {"image_size": [48, 48], "num_detection_tokens": 7}, 48, lambda x: x[:, 1:-7]),
        ("dinov3_convnext", {"hidden_sizes": [4, 4, 4, 12], "depths": [1] * 4}, 96, lambda x: x[:, 1:]),
        (
            "pvt",
            {
                "image_size": 64, "depths": [1] * 4, "hidden_sizes": [4, 4, 4, 12], "num_attention_heads": [1] * 4,
                "mlp_ratios": [1] * 4,
            },
            64, lambda x: x[:, 1:],
        ),
        ("swinv2", {"image_size": 64, "embed_dim": 4, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}, 64,
         lambda x: x),
        ("resnet", {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1]}, 52,
         lambda x: x.flatten(2).transpose(1, 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)  # fmt: skip
def test_the_patches_of_a_folder_and_nothing_beside_them(
    tmp_path: Path, kind: str, config: dict[str, Any], size: int, cut: Cut
) -> None:
    model = folder_of(kind, tmp_path, **config)
    piece, films = encoder(tmp_path, size), torch.rand(3, 1, 1, size, size)
    with torch.no_grad():
        expected = cut(model(pixel_values=normalised(films, piece)).last_hidden_state)
    torch.testing.assert_close(patches(piece, films), expected)
    with torch.device("meta"):
        assert encoder(tmp_path, size).layout.positions == expected.shape[1]


def test_a_masked_autoencoder_shows_every_patch_in_its_place(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    model = folder_of("vit_mae", tmp_path, **VIT)
    plain = ViTModel(ViTConfig(**VIT), add_pooling_layer=False).eval()
    plain.load_state_dict(model.state_dict())
    piece, films = encoder(tmp_path, 48), torch.rand(2, 1, 1, 48, 48)
    with torch.no_grad():
        expected = plain(normalised(films, piece)).last_hidden_state[:, 1:]
    torch.testing.assert_close(patches(piece, films), expected)
    assert torch.equal(patches(piece, films), patches(piece, films))


def test_a_model_of_films_and_texts_gives_its_vision_tower(tmp_path: Path) -> None:
    text = {k: v for k, v in VIT.items() if k not in ("image_size", "patch_size")}
    text |= {"vocab_size": 30, "max_position_embeddings": 8}
    model = folder_of("siglip", tmp_path, text_config=text, vision_config=VIT)
    piece, films = encoder(tmp_path, 48), torch.rand(2, 1, 1, 48, 48)
    with torch.no_grad():
        expected = model.vision_model(pixel_values=normalised(films, piece)).last_hidden_state
    torch.testing.assert_close(patches(piece, films), expected)


def test_films_of_another_size_than_the_model_was_trained_with_are_read(tmp_path: Path) -> None:
    model = folder_of("vit", tmp_path, **VIT)
    piece, films = encoder(tmp_path, 80), torch.rand(2, 1, 1, 80, 80)
    with torch.no_grad():
        expected = model(normalised(films, piece), interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    torch.testing.assert_close(patches(piece, films), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_saved_in_half_precision_are_float32_here(tmp_path: Path, dtype: torch.dtype) -> None:
    folder_of("vit", tmp_path, dtype, **VIT)
    assert patches(encoder(tmp_path, 48), torch.rand(1, 1, 1, 48, 48)).dtype == torch.float32
    for place in ("cpu", "meta"):
        with torch.device(place):
            assert {p.dtype for p in encoder(tmp_path, 48).parameters()} == {torch.float32}


def test_weights_that_the_configuration_does_not_fit_are_refused(tmp_path: Path) -> None:
    folder_of("vit", tmp_path, **VIT)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(UsageError, match=r"its weights lack \d+ that its configuration asks for, such as .*layer.*2"):
        encoder(tmp_path, 48)


def test_a_model_that_reads_no_single_film_is_one_clear_error(tmp_path: Path) -> None:
    folder_of("videomae", tmp_path, **VIT, num_frames=2)
    with pytest.raises(UsageError, match=r"core.encoder.model=.*image.size=48: .*; expected a model that reads films"):
        encoder(tmp_path, 48)


ONE = {"depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
TIMM: list[tuple[str, dict[str, Any], Cut | None]] = [  # None: its features are class tokens, or several
    ("levit_128s", {"embed_dim": (16, 24, 32), "depth": (1, 1, 1), "num_heads": (1, 1, 2)}, lambda x: x),
    ("twins_svt_small", {"embed_dims": (8, 8, 8, 8), **ONE}, lambda x: x),
    ("pit_ti_224", {"base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (1, 1, 1)}, None),
    ("coat_tiny", {"embed_dims": (8,) * 4, "serial_depths": (1,) * 4, "parallel_depth": 1}, None),
    ("pvt_v2_b0", {"embed_dims": (8,) * 4, **ONE}, lambda x: x.flatten(2).transpose(1, 2)),  # overlapping patches
]


@pytest.mark.parametrize(("model", "options", "cut"), TIMM, ids=[row[0] for row in TIMM])
def test_timm_families_whose_features_differ(model: str, options: dict[str, Any], cut: Cut | None) -> None:
    size = 96
    torch.manual_seed(0)
    piece, films = encoder(model, size, options=options), torch.rand(1, 1, 1, size, size)
    with torch.no_grad():
        x = normalised(films, piece)
        if cut is None:
            maps = piece.backbone.forward_intermediates(x, output_fmt="NCHW", intermediates_only=True)
            expected = maps[-1].flatten(2).transpose(1, 2)
        else:
            expected = cut(piece.backbone.forward_features(x))
    torch.testing.assert_close(patches(piece, films), expected)
    with torch.device("meta"):
        planned = encoder(model, size, options=options)
        given = patches(planned, torch.empty(2, 3, 1, size, size))
    assert given.shape == (2, 3 * expected.shape[1], expected.shape[2])


# Models of our own, for what no family does today


class Patchwise(nn.Module):
    """Tokens of 8 x 8 patches, put together by `arrange` from them (films patches width) and a learnt token."""

    def __init__(self, arrange: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.token, self.arrange = nn.Conv2d(1, 6, 8, 8), nn.Parameter(torch.randn(1, 1, 6)), arrange
        self.join, self.mix = nn.Identity(), nn.Linear(6, 6)

    def forward(self, films: Tensor) -> Tensor:
        found = self.embed(films).flatten(2).transpose(1, 2)
        joined = self.join(self.arrange(found, self.token.expand(len(films), -1, -1)))
        if joined.ndim == 4:
            return joined
        return joined + self.mix(joined).mean(dim=1, keepdim=True)


def layout_of(arrange: Callable[[Tensor, Tensor], Tensor]) -> Any:
    torch.manual_seed(0)
    model = Patchwise(arrange).eval()
    return find_layout(model, model, channels=1, size=40)


@pytest.mark.parametrize(("front", "behind"), [(0, 0), (1, 0), (0, 1), (2, 3), (0, 11), (30, 0)])
def test_tokens_before_and_behind_are_told_apart(front: int, behind: int) -> None:
    found = layout_of(lambda x, token: torch.cat([token.repeat(1, front, 1), x, token.repeat(1, behind, 1)], dim=1))
    assert (found.positions, found.width, found.front, found.behind) == (25, 6, front, behind)


@pytest.mark.parametrize("front", [0, 1])
def test_the_mean_of_the_patches_is_none_of_them(front: int) -> None:
    def joined(x: Tensor, token: Tensor) -> Tensor:
        both = [x.mean(dim=1, keepdim=True), x]
        return torch.cat(both if front else both[::-1], dim=1)

    assert layout_of(joined).front == front


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda x, token: x[:, torch.randperm(25)[:5]], "other tokens for the same film at every call"),
        (lambda x, token: x + 0.5 * torch.randn_like(x), "other tokens for the same film at every call"),
        (lambda x, token: x.flip(1), "no patches in the film's order"),
        (lambda x, token: x.unflatten(1, (5, 5)).transpose(1, 2).flatten(1, 2), "no patches in the film's order"),
        (lambda x, token: torch.cat([x[:, :9], token, x[:, 9:], token], dim=1), "nothing shows which are the patches"),
        (lambda x, token: torch.cat([x, x[:, :7]], dim=1), "nothing shows which are the patches"),
        (
            lambda x, token: (x + 0.5 * torch.randn_like(x)).transpose(1, 2).unflatten(2, (5, 5)),
            "other tokens for the same film at every call",
        ),
        (lambda x, token: x[:, None], "expected a square map or a sequence"),
    ],
    ids=[
        "masked",
        "noisy",
        "backwards",
        "columns first",
        "token within",
        "some twice",
        "noisy map",
        "a map of one row",
    ],
)
def test_what_is_no_grid_in_the_films_order_is_refused(
    arrange: Callable[[Tensor, Tensor], Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        layout_of(arrange)


def test_looking_for_patches_draws_no_random_number_and_changes_no_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 8, 8), nn.BatchNorm2d(4), nn.Flatten(2)).train()
    torch.manual_seed(0)
    piece = encoder("vit_tiny_patch16_224", 48, options={"embed_dim": 12, "depth": 1, "num_heads": 2})
    before = torch.random.get_rng_state()
    find_layout(piece.backbone, piece._features, channels=1, size=48)
    find_layout(model.eval(), lambda films: model(films).transpose(1, 2), channels=1, size=40)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert int(model[1].num_batches_tracked) == 0
