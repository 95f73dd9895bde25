"""The four papers alone, in pairs and all together: composed by what the errors say, trained, and writing reports."""

import re
import shlex
from itertools import combinations
from pathlib import Path

import pytest

from rrg.cli import main
from rrg.composing.composition import compose
from rrg.composing.options import composition_of
from rrg.composing.settings import parse_setting
from rrg.data.phantom import make_phantom
from rrg.data.study import StudyFolder
from rrg.errors import UsageError
from rrg.generate.predictions import write_predictions
from rrg.generate.reporter import load
from rrg.train.training import train

METHODS = ("lead", "s2d-align", "vdgen", "dast")
MIXTURES = ["+".join(names) for count in (1, 2, 4) for names in combinations(METHODS, count)] + ["lead+dmsr"]
SMALL = {
    "image.size": 64,
    "image.views": 1,
    "host.config.hidden_size": 32,
    "host.config.intermediate_size": 48,
    "host.config.num_hidden_layers": 2,
    "host.config.num_attention_heads": 2,
    "host.config.num_key_value_heads": 2,
    "stages.max_steps": 2,
    "stages.batch_size": 2,
    "text.report": 24,
    "generation.max_new_tokens": 6,
    "generation.beams": 1,
}
ENCODE, ALIGN, DECODE, SHOW = range(4)
PHASE = {
    "dast.stage-1": ENCODE,
    **{f"s2d-align.pag-{n}": ALIGN for n in (1, 2, 3)},
    "vdgen.train": ALIGN,
    "lead.train": DECODE,
    "dast.stage-2": SHOW,
    "core.exemplars": SHOW,
}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return make_phantom(tmp_path_factory.mktemp("mixtures") / "phantom", studies=24, workers=1)


def settled(expression: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The flags that make an expression compose: the first that each problem prints."""
    flags: list[str] = []
    for _ in range(3):
        if main(["compose", expression, *flags, "--json"]) == 0:
            capsys.readouterr()
            return flags
        problems = re.split(r"^  - ", capsys.readouterr().err, flags=re.M)[1:]
        found = [re.search(r"(--(?:drop|set|wire) (?:'[^']+'|\S+))", problem) for problem in problems]
        assert all(found), problems
        flags += [word for match in found if match for word in shlex.split(match[1])]
    raise AssertionError(f"{expression}: still not composed with {flags}")


@pytest.mark.parametrize("expression", MIXTURES)
def test_it_composes_trains_every_stage_and_writes_reports(
    expression: str, phantom: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = composition_of(shlex.join([expression, *settled(expression, capsys)]))
    recipe = compose(**{**given, "settings": {**SMALL, **given["settings"]}})
    train(recipe, phantom, tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    for stage in recipe.stages:
        assert re.search(rf'"stage": "{re.escape(stage)}".*"step": 2', log), stage
    written = write_predictions(load(tmp_path / "run", "cpu"), phantom, "test", tmp_path / "predictions.jsonl")
    assert [line["id"] for line in written] == [study.id for study in phantom.split("test")]
    assert [PHASE[stage] for stage in recipe.stages] == sorted(PHASE[stage] for stage in recipe.stages)
    brought = {name.partition(".")[0] for name in recipe.pieces}
    assert brought >= {"dast" if term == "dmsr" else term for term in expression.split("+")}


@pytest.mark.parametrize(
    ("expression", "stages"),
    [
        ("lead+s2d-align", "s2d-align.pag-1 s2d-align.pag-2 s2d-align.pag-3 lead.train"),
        ("lead+vdgen", "vdgen.train lead.train"),
        ("lead+dmsr", "lead.train core.exemplars"),
        (
            "s2d-align+dast",
            "dast.stage-1 s2d-align.pag-1 s2d-align.pag-2 s2d-align.pag-3 dast.stage-2",
        ),
        ("vdgen+dast", "dast.stage-1 vdgen.train dast.stage-2"),
        (
            "lead+s2d-align+vdgen+dast",
            "dast.stage-1 s2d-align.pag-1 s2d-align.pag-2 s2d-align.pag-3 vdgen.train lead.train dast.stage-2",
        ),
    ],
)
def test_the_default_order_of_stages(expression: str, stages: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = settled(expression, capsys)
    assert main(["compose", expression, *flags]) == 0
    printed = re.findall(r"^stage \d+: ([\w.-]+):", capsys.readouterr().out, re.M)
    assert printed == stages.split()


def test_the_order_of_stages_is_settable_and_a_recipe_keeps_it() -> None:
    order = ["s2d-align.pag-1", "s2d-align.pag-3", "s2d-align.pag-2"]
    recipe = compose("s2d-align", stages=["pag-1", "pag-3", "s2d-align.pag-2"])
    assert recipe.stages == order
    again = compose(start=recipe, settings={"seed": 1})
    assert again.stages == order
    shorter = compose(start=recipe, drop=["s2d-align.pag-3"])
    assert shorter.stages == ["s2d-align.pag-1", "s2d-align.pag-2"]
    bare = compose(start=compose("lead+dmsr"), drop=["dast.dmsr"])
    assert bare.stages == ["lead.train"]
    longer = compose(start=shorter, stages=order)
    assert longer.stages == order
    assert compose("lead", stages=["core.pretrain", "lead.train"]).stages == ["core.pretrain", "lead.train"]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["pag-9"], "--stages pag-9: no such stage; did you mean"),
        (["pag-1", "pag-1"], "--stages pag-1: given twice"),
        ([""], "--stages : no such stage"),
    ],
)
def test_stages_that_there_are_not(stages: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        compose("s2d-align", stages=stages)
    assert message in str(error.value)


def test_adapters_of_two_shapes_are_settled_by_the_flag_that_the_error_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compose", "lead+vdgen", "--host", "llama2-7b"]) == 2
    said = capsys.readouterr().err
    assert "adapters keep one shape" in said
    flag = re.search(r"--set '(stages\.lora=[^']+)'", said)
    assert flag
    recipe = compose("lead+vdgen", host="llama2-7b", settings=dict([parse_setting(flag[1])]))
    assert {str(recipe.pieces[stage]["lora"]) for stage in recipe.stages} == {str(recipe.pieces["lead.train"]["lora"])}


def test_two_pieces_that_bring_different_settings_are_settled_by_what_is_printed() -> None:
    with pytest.raises(UsageError) as error:
        compose("s2d-align.sma+dast.contrastive+core.train", host="vicuna-7b")
    assert "dast.contrastive sets core.text.model=emilyalsentzer/Bio_ClinicalBERT" in str(error.value)
    model = "microsoft/BiomedVLP-CXR-BERT-specialized"
    recipe = compose("s2d-align.sma+dast.contrastive+core.train", host="vicuna-7b", settings={"core.text.model": model})
    assert recipe.pieces["core.text"]["model"] == model


def test_a_stage_asked_for_and_dropped_at_once_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--drop s2d-align.pag-1: not in this composition"):
        compose("s2d-align", stages=["pag-1", "pag-2"], drop=["s2d-align.pag-1"])


@pytest.mark.parametrize("pieces", [5, [1], "x"])
def test_patterns_of_another_type_are_one_clear_error(pieces: object) -> None:
    with pytest.raises(UsageError, match=r"lead.train.pieces(.0)?: input should be a valid"):
        compose("lead", settings={"lead.train.pieces": pieces})
