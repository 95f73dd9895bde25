"""Core's plain encoder, connector and pool."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.composing.recipe import Recipe
from rrg.config import PieceConfig
from rrg.core_pieces.connector import Connector, ConnectorConfig
from rrg.core_pieces.encoder import Encoder, EncoderConfig
from rrg.core_pieces.pool import Pool
from rrg.data.films import read_pixels, unit
from rrg.data.study import StudyFolder
from rrg.errors import UsageError
from rrg.generate.reporter import load
from rrg.train.training import train
from rrg_lead.experts import Experts, ExpertsConfig
from tiny_runs import tiny_recipe

AXES = Axes(host=7, layers=2, image=32, vision=5)
SMALL_RESNET = {"channels": [8, 8, 16, 16], "stem_width": 4}


def readers_of_patches() -> list[Any]:
    torch.manual_seed(0)
    return [
        pytest.param(Pool(PieceConfig(), AXES), id="pool"),
        pytest.param(Connector(ConnectorConfig(), AXES), id="connector"),
        pytest.param(Experts(ExpertsConfig(hidden=6, feature=3), AXES), id="experts-mean"),
        pytest.param(Experts(ExpertsConfig(hidden=6, feature=3, pool="max"), AXES), id="experts-max"),
    ]


def tensors(answer: Any) -> list[Tensor]:
    return list(answer) if isinstance(answer, tuple) else [answer]


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(3, 11, 5)


@pytest.fixture
def mask() -> Tensor:
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[0, 4:] = False
    mask[1, ::2] = False
    return mask


@pytest.mark.parametrize("fill", [0.0, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("piece", readers_of_patches())
def test_masked_patches_do_not_matter(piece: nn.Module, tokens: Tensor, mask: Tensor, fill: float) -> None:
    spoilt = tokens.masked_fill(~mask.unsqueeze(-1), fill).requires_grad_()
    clean = tensors(piece(tokens, mask))
    answers = tensors(piece(spoilt, mask))
    for a, b in zip(clean, answers, strict=True):
        assert torch.equal(a, b)
    sum(a.sum() for a in answers if a.is_floating_point()).backward()
    assert torch.isfinite(spoilt.grad).all()
    assert not spoilt.grad[~mask].any()


@pytest.mark.parametrize("piece", readers_of_patches())
def test_study_without_patches_stays_finite(piece: nn.Module, tokens: Tensor, mask: Tensor) -> None:
    mask[1] = False
    assert all(torch.isfinite(a.float()).all() for a in tensors(piece(tokens, mask)))


@pytest.mark.parametrize("piece", readers_of_patches())
def test_studies_do_not_see_each_other(piece: nn.Module, tokens: Tensor, mask: Tensor) -> None:
    whole = tensors(piece(tokens, mask))
    for row in range(3):
        alone = tensors(piece(tokens[row : row + 1], mask[row : row + 1]))
        for a, b in zip(alone, whole, strict=True):
            torch.testing.assert_close(a[0], b[row])


def test_pool_is_the_mean_of_what_is_there(tokens: Tensor, mask: Tensor) -> None:
    pooled = Pool(PieceConfig(), AXES)(tokens, mask).visual_mean
    for row in range(3):
        torch.testing.assert_close(pooled[row], tokens[row][mask[row]].mean(dim=0))


def test_connector_is_linear_and_layer_norm(tokens: Tensor) -> None:
    piece = Connector(ConnectorConfig(), AXES)
    prefix = piece(tokens, torch.ones(3, 11, dtype=torch.bool)).visual_embeds
    x = tokens @ piece.project.weight.T + piece.project.bias
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(prefix, expected)


# The encoder


def encoder(model: str = "resnet10t", image: int = 32, **settings: Any) -> Encoder:
    torch.manual_seed(0)
    if model == "resnet10t":
        settings.setdefault("options", SMALL_RESNET)
    return Encoder(EncoderConfig(model=model, **settings), Axes(host=7, layers=2, image=image))


VIT = {"embed_dim": 12, "depth": 1, "num_heads": 2}
SWIN = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}


@pytest.mark.parametrize(
    ("model", "options", "image", "positions"),
    [
        ("resnet10t", SMALL_RESNET, 64, 4),
        ("vit_tiny_patch16_224", VIT, 64, 16),  # without its class token
        ("swin_tiny_patch4_window7_224", SWIN, 64, 64),  # channels last
        ("swin_tiny_patch4_window7_224", SWIN, 100, 169),  # windows are padded
    ],
)
def test_timm_models(model: str, options: dict[str, Any], image: int, positions: int) -> None:
    piece = encoder(model, image, options=options).eval()
    patches = piece(torch.rand(2, 3, 1, image, image), torch.ones(2, 3, dtype=torch.bool))
    assert patches.patch_tokens.shape == (2, 3 * positions, piece.vision)
    assert patches.patch_mask.shape == (2, 3 * positions)
    assert torch.isfinite(patches.patch_tokens).all()


@pytest.mark.parametrize("pixel", [0.0, float("nan")])
def test_absent_films_do_not_matter_even_to_batch_statistics(pixel: float) -> None:
    films, mask = torch.rand(3, 2, 1, 32, 32), torch.tensor([[True, True], [True, False], [False, False]])
    piece = encoder().train()
    expected = piece._tokens((films[mask] - 0.5) / 0.25)
    films[~mask] = pixel
    tokens, patch_mask = piece(films, mask)
    positions = expected.shape[1]
    assert torch.equal(patch_mask, mask.repeat_interleave(positions, dim=1))
    torch.testing.assert_close(tokens[patch_mask], expected.flatten(0, 1))
    assert not tokens[~patch_mask].any()


def test_films_of_a_study_are_encoded_each_by_itself() -> None:
    films, piece = torch.rand(1, 3, 1, 32, 32), encoder().eval()
    whole = piece(films, torch.ones(1, 3, dtype=torch.bool)).patch_tokens
    alone = [piece(films[:, i : i + 1], torch.ones(1, 1, dtype=torch.bool)).patch_tokens for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(alone, dim=1))


def test_encoder_on_the_meta_device_gives_the_same_shapes() -> None:
    with torch.device("meta"):
        piece = encoder(pretrained=True)  # nothing is downloaded
        patches = piece(torch.empty(2, 3, 1, 32, 32), torch.ones(2, 3, dtype=torch.bool))
    real = encoder()(torch.rand(2, 3, 1, 32, 32), torch.ones(2, 3, dtype=torch.bool))
    assert [t.shape for t in patches] == [t.shape for t in real]


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    BitImageProcessor(image_mean=[0.53] * 3, image_std=[0.26] * 3).save_pretrained(folder)
    return folder


def test_hugging_face_folder(dinov2: Path) -> None:
    from transformers import Dinov2Model

    piece = encoder(str(dinov2), image=42).eval()
    film = torch.rand(1, 1, 1, 42, 42)
    tokens = piece(film, torch.ones(1, 1, dtype=torch.bool)).patch_tokens
    model = Dinov2Model.from_pretrained(dinov2).eval()
    expected = model(((film[0] - 0.53) / 0.26).expand(-1, 3, -1, -1)).last_hidden_state[:, 1:]
    torch.testing.assert_close(tokens, expected)
    assert tokens.shape == (1, 9, 12)


def test_published_names_the_parts_whose_weights_have_a_source(dinov2: Path) -> None:
    assert encoder(str(dinov2), image=42).published == ("backbone",)
    assert encoder().published == ()


@pytest.mark.parametrize(
    ("model", "image", "message"),
    [
        ("dinov2", 64, r"image.size=64: .*multiple of 14; set image.size=70"),
        ("vit_tiny_patch16_224", 100, r"image.size=100: .*multiple of 16; set image.size=96"),
        ("resnet10", 32, r"core.encoder.model=resnet10.*Unknown model"),
        ("nobody/nothing", 32, r"core.encoder.model=nobody/nothing.*hub id or folder"),
    ],
)
def test_wrong_model_or_size(
    dinov2: Path, monkeypatch: pytest.MonkeyPatch, model: str, image: int, message: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=message):
        encoder(str(dinov2) if model == "dinov2" else model, image)


def test_wrong_option_is_named() -> None:
    with pytest.raises(UsageError, match=r"'chanels': 3.*chanels"):
        encoder("resnet10t", options={"chanels": 3})


def test_standardised_features_have_mean_0_and_deviation_1_at_every_position():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(standardize=True, options=SMALL_RESNET), Axes(host=8, layers=1, image=64))
    tokens = encoder.train()(torch.rand(5, 1, 1, 64, 64), torch.ones(5, 1, dtype=torch.bool)).patch_tokens
    assert tokens.mean(dim=0).abs().max() < 1e-3
    assert (tokens.var(dim=0, correction=0).mean() - 1).abs() < 0.1


@pytest.mark.parametrize("standardize", [False, True])
def test_a_batch_of_one_film_with_one_position_trains(standardize):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(standardize=standardize, options=SMALL_RESNET), AXES).train()
    tokens = encoder(torch.rand(1, 1, 1, 32, 32), torch.ones(1, 1, dtype=torch.bool)).patch_tokens
    assert tokens.shape[:2] == (1, 1)
    assert tokens.isfinite().all()
    assert all(module.training for module in encoder.modules())


def standardised(**settings: Any) -> Recipe:
    settings |= {"core__encoder__standardize": True, "core__pretrain__epochs": 1, "lead__train__epochs": 1}
    return tiny_recipe("core.pretrain+lead", stages__batch_size=5, stages__lr=1e-3, **settings)


@pytest.fixture(scope="module")
def settled_run(tmp_path_factory: pytest.TempPathFactory, folder: StudyFolder) -> Path:
    """One epoch with vision frozen from the start, then one in which it trains."""
    out = tmp_path_factory.mktemp("settled") / "run"
    recipe = standardised(core__pretrain__vision="frozen")
    train(recipe, folder, out)
    return out


def test_frozen_features_are_standardised_by_the_training_films(settled_run: Path, folder: StudyFolder) -> None:
    first, second = (load_file(path / "pieces.safetensors") for path in sorted((settled_run / "stages").iterdir()))
    piece = load(settled_run, "cpu").model.modules_by_piece["core.encoder"].eval()
    with torch.no_grad():
        for name, tensor in (*piece.named_parameters(), *piece.named_buffers()):
            tensor.copy_(first[f"core.encoder/{name}"])
        names = [name for study in folder.split("train") for name in study.file_names]
        films = torch.stack([torch.from_numpy(unit(read_pixels(folder.path / name, 32))) for name in names])[:, None]
        raw = piece._tokens((films - piece.mean[0]) / piece.std[0]).flatten(1)
    torch.testing.assert_close(first["core.encoder/standardize.running_mean"], raw.mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first["core.encoder/standardize.running_var"], raw.var(dim=0), rtol=1e-3, atol=1e-6)
    # Once it trains it gathers its own.
    assert not torch.equal(*(w["core.encoder/standardize.running_mean"] for w in (first, second)))
    assert int(second["core.encoder/standardize.num_batches_tracked"]) > 1


def test_statistics_that_an_earlier_stage_gathered_stay_while_vision_is_frozen(
    tmp_path: Path, folder: StudyFolder
) -> None:
    recipe = standardised(lead__train__vision="frozen")
    train(recipe, folder, tmp_path / "run")
    first, second = (load_file(p / "pieces.safetensors") for p in sorted((tmp_path / "run" / "stages").iterdir()))
    assert all(torch.equal(first[key], second[key]) for key in first if key.startswith("core.encoder/"))
    assert first["core.encoder/standardize.running_mean"].any()
