"""Recipes: every default filled in, a hash that follows every setting, files that open as they were saved."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from rrg.cli import main
from rrg.composing.composition import compose
from rrg.composing.contract import contract_of
from rrg.composing.plugins import find
from rrg.composing.recipe import Recipe
from rrg.errors import UsageError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    compose("lead+dmsr").save(path)
    return path


@pytest.mark.parametrize("host", ["tiny", "smollm2-135m", "qwen3-vl-8b"])
@pytest.mark.parametrize("expression", ["core.train", "lead", "lead+dmsr"])
def test_a_saved_recipe_opens_as_it_was(expression: str, host: str, tmp_path: Path) -> None:
    recipe = compose(expression, host=host)
    recipe.save(tmp_path / "recipe.toml")
    opened = Recipe.open(tmp_path / "recipe.toml")
    assert opened == recipe
    assert opened.hash == recipe.hash
    assert opened.to_toml() == recipe.to_toml()
    assert list(opened.pieces) == list(recipe.pieces)


def test_composing_is_deterministic() -> None:
    assert compose("lead+dmsr").to_toml() == compose("lead+dmsr").to_toml()


def test_every_default_is_filled_in(saved: Path) -> None:
    content = tomllib.loads(saved.read_text(encoding="utf-8"))
    found = find().pieces
    for name, values in content["pieces"].items():
        expected = contract_of(found[name]).config().model_dump(exclude_none=True)
        assert set(expected) <= set(values), name
    assert {"size", "views", "augment"} <= set(content["image"])


def test_versions_say_what_it_was_made_with(saved: Path) -> None:
    assert {"rrg-compose", "torch", "transformers", "peft", "timm"} <= set(Recipe.open(saved).versions)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"seed": 1}},
        {"settings": {"lead.gate.fusion": "add"}},
        {"settings": {"lead.gate.layers": [0]}},
        {"settings": {"lead.train.lora.r": 8}},
        {"settings": {"stages.lr": 0.5}},
        {"settings": {"image.views": 1}},
        {"settings": {"text.report": 9}},
        {"settings": {"generation.beams": 5}},
        {"settings": {"host.config": {"num_hidden_layers": 2}}},
        {"host": "smollm2-135m"},
        {"drop": ["lead.bce"]},
    ],
)
def test_the_hash_follows_every_change(change: dict[str, Any]) -> None:
    assert compose("lead+dmsr", **change).hash != compose("lead+dmsr").hash


def test_the_hash_follows_the_order_of_pieces() -> None:
    recipe = compose("lead+dmsr")
    turned = dict(reversed(recipe.pieces.items()))
    assert recipe.model_copy(update={"pieces": turned}).hash != recipe.hash


def test_the_hash_does_not_follow_how_it_was_reached() -> None:
    named = compose("lead.experts+lead.gate+lead.bce+lead.train")
    assert named.hash == compose("lead").hash
    assert named.model_copy(update={"versions": {}}).hash == named.hash


def test_a_whole_number_is_the_same_setting_as_its_float() -> None:
    assert compose("lead", settings={"stages.epochs": 3}).hash == compose("lead", settings={"stages.epochs": 3.0}).hash


def test_from_a_recipe_without_changes_is_the_same_recipe(saved: Path) -> None:
    start = Recipe.open(saved)
    assert compose(start=start).to_toml() == start.to_toml()


def test_from_a_recipe_keeps_what_it_says() -> None:
    wire = {"dast.dmsr.disease_logits": "lead.experts"}
    start = compose(
        "lead+dmsr", settings={"lead.gate.width": 33, "seed": 5, "image.size": 64}, drop=["lead.bce"], wire=wire
    )
    changed = compose(start=start, settings={"lead.gate.rank": 4})
    assert changed.pieces["lead.gate"] == {**start.pieces["lead.gate"], "rank": 4}
    assert "lead.bce" not in changed.pieces
    assert (changed.seed, changed.image.size, changed.wire) == (5, 64, start.wire)


def test_from_a_recipe_with_another_expression() -> None:
    start = compose("lead+dmsr", settings={"lead.gate.width": 33}, drop=["lead.bce"])
    changed = compose("lead", start=start)
    assert "dast.dmsr" not in changed.pieces
    assert "lead.bce" in changed.pieces  # what was dropped from the other expression
    assert changed.pieces["lead.gate"]["width"] == 33


def test_from_a_recipe_with_another_host() -> None:
    start = compose("lead+dmsr", settings={"lead.gate.projection": "shared", "lead.train.lr": 0.5, "seed": 5})
    changed = compose(start=start, host="qwen3-vl-8b")
    assert changed.pieces["lead.gate"]["projection"] == "shared"
    assert changed.seed == 5
    assert changed.pieces["lead.train"]["lr"] == compose("lead", host="qwen3-vl-8b").pieces["lead.train"]["lr"]
    assert changed.wire["lead.experts.patch_tokens"] == "host"


def test_the_command_recomposes(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = tmp_path / "changed.toml"
    assert main(["compose", "--from", str(saved), "--set", "lead.gate.fusion=add", "-o", str(changed)]) == 0
    assert Recipe.open(changed).pieces["lead.gate"]["fusion"] == "add"
    assert Recipe.open(saved) == compose("lead+dmsr")


def test_another_recipe_is_never_overwritten(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = saved.read_bytes()
    assert main(["compose", "lead+dmsr", "-o", str(saved)]) == 0  # the same recipe
    assert main(["compose", "lead", "-o", str(saved)]) == 2
    assert f"{saved} holds another recipe; give another -o, or remove it first" in capsys.readouterr().err
    assert saved.read_bytes() == before


@pytest.mark.parametrize("name", ["absent/recipe.toml", "folder"])
def test_a_place_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="the recipe cannot be written"):
        compose("lead").save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]  # nothing half written


@pytest.mark.parametrize(
    ("pattern", "replacement", "problem"),
    [
        (r"lr = [0-9.e-]+", "lr = 0.7", "it was edited after composing; compose the change with --from"),
        (r"\[image\]", "[image", "not a recipe in TOML"),
        (r'expression = ".*"', "", "expression: field required"),
        (r'expression = "', 'colour = "red"\nexpression = "', "colour: extra inputs are not permitted"),
        (r"seed = \d+", 'seed = "x"', "seed: input should be a valid integer"),
        (r"\nsize = \d+", "\nsize = 3", "image.size: input should be greater than or equal to 16, given 3"),
        (r'"core.exemplars",', '"gone.stage",', "not among the recipe's pieces: stages: gone.stage"),
        (
            r"visual_embeds = .*",
            'visual_embeds = "gone.piece"',
            "not among the recipe's pieces: visual_embeds: gone.piece",
        ),
        (r'= "lead.experts"', '= "gone.piece"', "not among the recipe's pieces: wire: gone.piece"),
        (r"stages = \[[^]]*\]", "stages = []", "a recipe has at least one stage"),
    ],
)
def test_a_recipe_file_that_is_broken_or_edited(
    pattern: str, replacement: str, problem: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, count = re.subn(pattern, replacement, saved.read_text(encoding="utf-8"), count=1)
    assert count == 1
    saved.write_text(text, encoding="utf-8")
    assert main(["compose", "--from", str(saved)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rrg: {saved}: ")
    assert problem in err


def test_an_edited_recipe_without_its_hash_is_taken(saved: Path) -> None:
    text = re.sub(r"hash = .*\n", "", saved.read_text(encoding="utf-8"), count=1)
    saved.write_text(text.replace('fusion = "gate"', 'fusion = "add"'), encoding="utf-8")
    assert compose(start=Recipe.open(saved)).pieces["lead.gate"]["fusion"] == "add"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[[[[", b"x = 1"])
def test_a_file_that_is_no_recipe(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(content)
    with pytest.raises(UsageError, match="not a recipe"):
        Recipe.open(tmp_path / "recipe.toml")


def test_a_missing_recipe_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such recipe; make one with: rrg compose"):
        Recipe.open(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="not a recipe in TOML"):
        Recipe.open(tmp_path)


def test_none_where_toml_would_lose_it() -> None:
    with pytest.raises(UsageError, match=r"text.report: input should be a valid integer, given None"):
        compose("lead", settings={"text.report": None})
