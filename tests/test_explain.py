"""`rrg explain`: what it says is what the code says."""

import inspect
import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from rrg.authoring.explain import explain
from rrg.cli import main
from rrg.composing.contract import contract_of
from rrg.composing.plugins import find

METHODS = ("lead", "s2d-align", "vdgen", "dast")


@pytest.mark.parametrize("method", METHODS)
def test_every_piece_of_a_method_comes_with_its_file_equations_and_open_choices(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", method]) == 0
    said = capsys.readouterr().out
    joined = " ".join(said.split())
    for piece in find().of_method(method):
        assert f"{piece.name}  ({piece.kind})  {inspect.getfile(piece.cls)}" in said
        first = inspect.cleandoc(piece.cls.__doc__).split("\n\n")[0].removesuffix(":")
        assert " ".join(first.split()) in joined
        for name, field in contract_of(piece).config.model_fields.items():
            if "not stated" in (field.description or ""):
                assert f"{piece.name}.{name} = " in said
    assert f"rrg_{method.replace('-', '_')}/README.md" in said


@pytest.mark.parametrize("method", METHODS)
def test_the_readme_names_every_choice_that_the_paper_leaves_open(method: str) -> None:
    found = explain(method)
    named = re.findall(r"`([\w.*-]+)`", Path(found[0].readme or "").read_text(encoding="utf-8"))
    choices = [f"{piece.name}.{setting.name}" for piece in found for setting in piece.settings if setting.open]
    assert choices
    assert [choice for choice in choices if not any(fnmatch(choice, pattern) for pattern in named)] == []


@pytest.mark.parametrize("method", METHODS)
def test_every_module_names_its_place_in_the_paper(method: str) -> None:
    for piece in explain(method):
        assert any(word in f"{piece.about} {piece.equations}" for word in ("eq.", "section", '"', "table")), piece.name


def test_a_piece_alone_has_all_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "dmsr", "--json"]) == 0
    [piece] = json.loads(capsys.readouterr().out)
    assert piece["name"] == "dast.dmsr"
    assert [setting["name"] for setting in piece["settings"]] == ["search", "probe", "visual"]
    assert piece["settings"][2] == {
        "name": "visual",
        "default": 0.5,
        "meaning": "λ, the share of visual similarity; not stated in the paper",
        "open": True,
    }
    assert main(["explain", "vdgen.train"]) == 0
    said = capsys.readouterr().out
    assert "vdgen.train.lr = 0.0001" in said
    assert 'brings host.prompt = "Human: <img>{visual}</img>' in said


@pytest.mark.parametrize(
    ("name", "hint"), [("leed", "did you mean lead?"), ("core.nothing", "core.nothing is unknown")]
)
def test_an_unknown_name(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 2
    assert hint in capsys.readouterr().err
