"""`rrg compose` through the command line: what composes, and one clear error for everything that doesn't."""

# ruff: noqa: F811  (the fixture `install` is imported)

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_distributions import LOGITS, Install, install, piece  # noqa: F401  (install is a fixture)
from rrg.cli import main
from rrg.composing import plugins
from rrg.composing.recipe import Recipe

Refused = Callable[..., str]
Made = Callable[..., Recipe]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The error of a command line that must end with exit code 2, print nothing else and show no traceback."""

    def run(*words: str) -> str:
        assert main(["compose", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("rrg: ")
        assert "Traceback" not in err
        return err

    return run


@pytest.fixture
def made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Made:
    """The recipe that a command line writes."""

    def run(*words: str) -> Recipe:
        path = tmp_path / f"recipe-{len(list(tmp_path.iterdir()))}.toml"
        assert main(["compose", *words, "-o", str(path)]) == 0, capsys.readouterr().err
        return Recipe.open(path)

    return run


def test_an_unknown_name(refused: Refused) -> None:
    assert "laed is unknown; did you mean lead?; rrg plugins lists what is installed" in refused("laed")


def test_an_unknown_piece_of_a_known_method(refused: Refused) -> None:
    assert "lead.gait is unknown; did you mean lead.gate?" in refused("lead.gait")


def test_a_known_name_that_is_not_installed(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plugins.entry_points
    monkeypatch.setattr(plugins, "entry_points", lambda group: [p for p in found(group=group) if p.name != "s2d-align"])
    said = refused("s2d-align")
    assert "s2d-align is known (S2D-Align: " in said
    assert "but not installed; install it with: pip install" in said


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("lead+lead.gate", "lead.gate comes twice, with lead and with lead.gate; give it once"),
        ("lead+dmsr+dast.dmsr", "dast.dmsr comes twice, with dmsr and with dast.dmsr; give it once"),
        ("", "the expression is empty"),
        ("lead+", "term 2 of 'lead+' is empty"),
    ],
)
def test_an_expression_that_is_wrong(expression: str, problem: str, refused: Refused) -> None:
    assert problem in refused(expression)


def test_no_expression_and_no_recipe(refused: Refused) -> None:
    assert "nothing to compose: give an expression such as lead+dmsr, or --from recipe.toml" in refused()


def test_two_image_encoders_and_the_commands_that_settle_it(refused: Refused, made: Made, install: Install) -> None:
    install("other", piece("rrg_encoders", "other.encoder", "rrg.core_pieces.encoder:Encoder"))
    said = refused("lead+core.encoder+other")
    assert said.splitlines()[1:] == [
        "  - patch_tokens is given by core.encoder and other.encoder; only one can: "
        "settle it with --drop core.encoder or --drop other.encoder"
    ]
    for drop in re.findall(r"--drop \S+", said):
        recipe = made("lead+core.encoder+other", *drop.split())
        assert drop.split()[1] not in recipe.pieces


def test_a_missing_provider_and_the_commands_that_settle_it(refused: Refused, made: Made) -> None:
    said = refused("dmsr")
    assert (
        "dast.dmsr reads disease_logits, and no piece of this composition gives it; "
        "settle it by adding +dast.tokens or by adding +lead.experts or by --drop dast.dmsr" in said
    )
    for provider in ("dast.tokens", "lead.experts"):
        assert made(f"dmsr+{provider}").wire["dast.dmsr.disease_logits"] == provider


def test_a_provider_that_was_dropped(refused: Refused) -> None:
    said = refused("lead", "--drop", "lead.experts")
    assert "lead.gate reads lead.expert_embedding, and no piece of this composition gives it" in said
    assert "settle it by keeping lead.experts or by --drop lead.gate" in said


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("lead.gate.fusin=add", "lead.gate has no setting fusin; did you mean fusion? (settings: layers, where, "),
        ("lead.gait.fusion=add", "no such setting; did you mean lead.gate.fusion?"),
        ("lead.train.lora.rank=8", "lead.train.lora has no setting rank (settings: r, alpha, dropout)"),
        ("lead.gate=3", "--set lead.gate: no such setting"),
        ("nothing=3", "--set nothing: no such setting; settings begin with seed, stages, host, image, "),
        ("lead.gate.width=wide", "lead.gate.width: input should be a valid integer, given 'wide'"),
        ('lead.gate.width="512"', "lead.gate.width: input should be a valid integer, given '512'"),
        ("lead.gate.width=true", "lead.gate.width: input should be a valid integer, given True"),
        ("lead.gate.width=0", "lead.gate.width: input should be greater than or equal to 1, given 0"),
        (
            "lead.gate.layers=abc",
            "lead.gate.layers: input should be a valid array or input should be 'all', given 'abc'",
        ),
        ("lead.train.lr=nan", "lead.train.lr: input should be "),
        ("lead.train.lr=inf", "lead.train.lr: input should be a finite number"),
        ("lead.train.epochs=1979-05-27", "lead.train.epochs: input should be a valid number, given '1979-05-27'"),
        ("seed=-1", "seed: expected a whole number from 0 to 2**32 - 1, given -1"),
        ("seed=true", "seed: expected a whole number from 0 to 2**32 - 1, given True"),
        ("lead.gate.fusion", "--set lead.gate.fusion: expected NAME=VALUE"),
        ("=3", "--set =3: expected NAME=VALUE"),
        ("host.prompt=Describe.", "prompt must hold {visual} once, given 'Describe.'"),
        ("lead.train.exemplars=true", "lead.train shows exemplars, and no retriever answers them; settle it by "),
    ],
)
def test_a_setting_that_is_wrong(setting: str, problem: str, refused: Refused) -> None:
    assert problem in refused("lead", "--set", setting)


def test_a_layer_that_the_host_lacks(refused: Refused) -> None:
    assert "lead.gate.layers=[99]" in refused("lead", "--set", "lead.gate.layers=[99]")


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        ("lead", "--wire lead: expected READER.SIGNAL=PROVIDER"),
        ("lead.gate.x=lead.experts", "no such reader and signal in this composition; lead.gate reads expert_embedding"),
        ("lead.gait.expert_embedding=lead.experts", "in this composition; did you mean lead.gate.expert_embedding?"),
        ("lead.bce.disease_logits=core.encoder", "core.encoder gives no disease_logits; it is given by lead.experts"),
        ("lead.bce.disease_logits=nobody", "nobody gives no disease_logits; it is given by lead.experts"),
    ],
)
def test_a_wire_that_is_wrong(wire: str, problem: str, refused: Refused) -> None:
    assert problem in refused("lead", "--wire", wire)


@pytest.mark.parametrize("name", ["dast.dmsr", "core.exemplars", "nonsense"])
def test_dropping_what_is_not_there(name: str, refused: Refused) -> None:
    assert f"--drop {name}: not in this composition" in refused("lead", "--drop", name)


def test_dropping_the_only_stage(refused: Refused) -> None:
    assert "no stage is left to train" in refused("core.connector", "--drop", "core.train")


def test_dropping_what_the_language_model_reads(refused: Refused) -> None:
    assert "the language model reads visual_embeds, and no piece gives it" in refused(
        "lead", "--drop", "core.connector"
    )


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("nonsense", "host nonsense: no such host or folder; known hosts: tiny, "),
        ("qwen3-vl-8", "no such host or folder; did you mean qwen3-vl-8b?"),
        ("/no/such/folder", "host /no/such/folder: no such host or folder"),
    ],
)
def test_a_host_that_is_not_there(host: str, problem: str, refused: Refused) -> None:
    assert problem in refused("lead", "--host", host)


def test_a_hub_id_that_cannot_be_reached(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    assert "the hub cannot be reached or has no such model (ConnectionError)" in refused("lead", "--host", "some/model")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the folder has no config.json"),
        ("{", "is not a JSON configuration"),
        ("[]", "names no model_type"),
        ('{"model_type": "resnet"}', "its model_type 'resnet' is no causal language model of transformers"),
    ],
)
def test_a_host_folder_that_holds_no_language_model(
    content: str | None, problem: str, tmp_path: Path, refused: Refused
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    assert problem in refused("lead", "--host", str(tmp_path))


def test_a_local_folder_is_a_host(tmp_path: Path, made: Made) -> None:
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "vocab_size": 99, **small}), encoding="utf-8"
    )
    recipe = made("lead", "--host", str(folder))
    assert (recipe.host.kind, recipe.host.source) == ("text", str(folder))


def test_all_problems_at_once(refused: Refused) -> None:
    said = refused(
        "lead+dmsr+nope", "--host", "nonsense", "--set", "lead.gate.fusin=1", "--drop", "gone", "--wire", "a.b.c=d"
    )
    assert len([line for line in said.splitlines() if line.startswith("  - ")]) == 5


TWO_HEADS = """
    import rrg

    @rrg.hookimpl
    def rrg_encoders():
        return [rrg.Piece("heads.one", "heads_code:Heads", ""), rrg.Piece("heads.two", "heads_code:Heads", "")]
"""


def test_ambiguity_prints_wires_that_work_when_copied(refused: Refused, made: Made, install: Install) -> None:
    install("heads", TWO_HEADS, heads_code=LOGITS)
    said = refused("dmsr+heads")
    assert "dast.dmsr reads disease_logits, given by heads.one and heads.two; settle it with one of" in said
    copied = [line.strip() for line in said.splitlines() if line.strip().startswith("--wire")]
    assert len(copied) == 2
    providers = {made("dmsr+heads", *shlex.split(line)).wire["dast.dmsr.disease_logits"] for line in copied}
    assert providers == {"heads.one", "heads.two"}


def test_a_provider_of_the_same_method_comes_first(made: Made, install: Install) -> None:
    install("heads", piece("rrg_encoders", "heads.one", "heads_code:Heads"), heads_code=LOGITS)
    recipe = made("lead+heads")
    assert recipe.wire["lead.bce.disease_logits"] == "lead.experts"


def test_a_wire_overrules_the_same_method(made: Made, install: Install) -> None:
    install("heads", piece("rrg_encoders", "heads.one", "heads_code:Heads"), heads_code=LOGITS)
    recipe = made("lead+heads", "--wire", "lead.bce.disease_logits=heads.one")
    assert recipe.wire["lead.bce.disease_logits"] == "heads.one"


def test_reader_and_provider_that_annotate_a_signal_differently(refused: Refused, install: Install) -> None:
    source = LOGITS.replace(
        'visual_mean: Float[Tensor, "batch vision"]', 'lead__expert_embedding: Float[Tensor, "batch vision"]'
    )
    install("heads", piece("rrg_encoders", "heads.one", "heads_code:Heads"), heads_code=source)
    said = refused("lead+heads")
    assert 'heads.one reads lead.expert_embedding as Float[Tensor, "batch vision"], ' in said
    assert 'lead.experts gives Float[Tensor, "batch host"]' in said


def test_a_circle(refused: Refused, install: Install) -> None:
    one = LOGITS.replace("visual_mean: ", "b: ").replace("disease_logits: Float", "a: Float")
    two = LOGITS.replace("visual_mean: ", "a: ").replace("disease_logits: Float", "b: Float")
    one, two = (text.replace('"batch diseases"', '"batch vision"') for text in (one, two))
    source = TWO_HEADS.replace('"heads_code:Heads", ""), rrg', '"heads_one:Heads", ""), rrg')
    install("heads", source.replace("heads_code", "heads_two"), heads_one=one, heads_two=two)
    assert "heads.one and heads.two feed each other in a circle" in refused("heads")


def test_a_short_name_of_two_pieces(refused: Refused, install: Install) -> None:
    install("other", piece("rrg_losses", "other.bce", "absent:Loss"))
    assert "bce is the short name of lead.bce and other.bce; write one of them in full" in refused("bce")


def test_a_method_without_default_pieces(refused: Refused, install: Install) -> None:
    source = piece("rrg_losses", "other.loss", "absent:Loss").replace('"for a test")', '"", default=False)')
    install("other", source)
    assert "other brings no piece by itself; name those you want: other.loss" in refused("other")


def test_two_retrievers(refused: Refused, install: Install) -> None:
    install("other", piece("rrg_retrievers", "other.retriever", "rrg_dast.dmsr:DMSR"))
    said = refused("lead+dmsr+other")
    assert "answer exemplars; only one can: settle it with --drop dast.dmsr or --drop other.retriever" in said


STAGE = """
    from rrg.config import StageConfig

    class Train(StageConfig):
        pieces: list[str] | None = {pieces}
        losses: list[str] = {losses}
"""


def stage(install: Install, pieces: object = None, losses: object = ("*",)) -> None:
    code = STAGE.format(pieces=pieces, losses=list(losses))  # type: ignore[call-overload]
    install("own", piece("rrg_stages", "own.train", "own_code:Train"), own_code=code)


def test_a_stage_whose_pieces_match_nothing(refused: Refused, made: Made, install: Install) -> None:
    stage(install, pieces=["led.*", "lead.gate"])
    said = refused("own+lead.experts+lead.gate")
    assert "own.train.pieces: led.* matches nothing of this composition (there are lead.experts, lead.gate)" in said
    [settle] = re.findall(r"--set .*", said)
    assert made("own+lead.experts+lead.gate", *shlex.split(settle)).pieces["own.train"]["pieces"] == ["lead.gate"]


def test_a_stage_whose_losses_match_nothing(refused: Refused, made: Made, install: Install) -> None:
    stage(install, losses=["lead.bcee"])
    said = refused("own+lead.experts+lead.bce")
    assert "own.train.losses: lead.bcee matches nothing of this composition (there are lead.bce)" in said
    [settle] = re.findall(r"--set .*", said)
    assert made("own+lead.experts+lead.bce", *shlex.split(settle)).pieces["own.train"]["losses"] == []


def test_a_stage_that_names_the_connector_as_a_piece(refused: Refused, install: Install) -> None:
    stage(install, pieces=["core.connector"])  # which trains by the stage's field `connector` alone
    assert "own.train.pieces: core.connector matches nothing of this composition (there are none)" in refused("own")


def test_a_dropped_piece_needs_no_change_of_the_stages(made: Made, install: Install) -> None:
    stage(install, pieces=["lead.gate"], losses=["lead.bce"])
    assert (
        "lead.gate"
        not in made("own+lead.gate+lead.experts+lead.bce", "--drop", "lead.gate", "--drop", "lead.bce").pieces
    )


def test_the_default_patterns_may_match_nothing(made: Made) -> None:
    assert made("core.train").pieces["core.train"]["pieces"] == ["*"]


def test_a_retriever_brings_a_stage_that_shows_exemplars(made: Made) -> None:
    assert made("lead+dmsr").stages == ["lead.train", "core.exemplars"]
    assert made("lead+dmsr", "--set", "lead.train.exemplars=true").stages == ["lead.train"]


def test_a_part_of_the_adapters_settings_keeps_the_rest(made: Made) -> None:
    recipe = made("lead+dmsr", "--host", "smollm2-135m", "--set", "stages.lora.r=8")
    shapes = [recipe.pieces[name]["lora"] for name in recipe.stages]
    assert shapes == [{"r": 8, "alpha": 128, "dropout": 0.0}] * 2


def test_adapters_keep_one_shape(refused: Refused) -> None:
    assert "core.exemplars.lora differs from the stage before" in refused(
        "lead+dmsr", "--host", "smollm2-135m", "--set", "core.exemplars.lora={ r = 2 }"
    )


def test_a_broken_piece_is_the_only_problem_told(refused: Refused, install: Install) -> None:
    install("heads", piece("rrg_encoders", "heads.one", "absent_module:Heads"))
    said = refused("dmsr+heads")
    assert [line for line in said.splitlines() if line.startswith("  - ")] == [
        "  - piece heads.one of plugin heads: absent_module:Heads cannot be loaded "
        "(ModuleNotFoundError: No module named 'absent_module'); mend or uninstall the plugin"
    ]


def test_a_piece_that_looks_into_values_cannot_be_planned(refused: Refused, install: Install) -> None:
    source = LOGITS.replace("return Logits(", "visual_mean.sum().item()\n            return Logits(")
    install("heads", piece("rrg_encoders", "heads.one", "heads_code:Heads"), heads_code=source)
    assert "the encoders cannot run on the meta device" in refused("dmsr+heads")


def test_a_piece_that_gives_another_shape_than_it_says(refused: Refused, install: Install) -> None:
    source = LOGITS.replace("axes.vision, axes.diseases", "axes.vision, 13")
    install("heads", piece("rrg_encoders", "heads.one", "heads_code:Heads"), heads_code=source)
    said = refused("dmsr+heads")
    assert "heads.one gives disease_logits of the shape (1, 13), annotated (batch diseases)" in said


def test_a_piece_that_gives_another_size_than_its_number(refused: Refused, install: Install) -> None:
    source = LOGITS.replace("axes.vision, axes.diseases", "axes.vision, 13").replace('"batch diseases"', '"batch 14"')
    install("heads", piece("rrg_encoders", "heads.one", "heads_code:Heads"), heads_code=source)
    assert "heads.one gives disease_logits of the shape (1, 13), annotated (batch 14)" in refused("dmsr+heads")


def test_a_stage_that_gives_a_field_its_own_default_keeps_the_fields_limits(capsys: pytest.CaptureFixture[str]) -> None:
    bad = ["stages.epochs=-3", "lead.train.batch_size=0", "lead.train.weight_decay=-1"]
    assert main(["compose", "lead+dmsr", *(word for setting in bad for word in ("--set", setting))]) == 2
    error = capsys.readouterr().err
    named = ("lead.train.epochs", "core.exemplars.epochs", "lead.train.batch_size", "lead.train.weight_decay")
    assert [name for name in named if name not in error] == []
