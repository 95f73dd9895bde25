"""Every command of the README and of docs/ runs, in order, on small data in a folder laid out as they assume."""

# ruff: noqa: F811  (the fixture `install_package` is imported)

import re
import shlex
import shutil
from pathlib import Path

import pytest

from chexpert_source import chexpert, row
from data_sources import item, r2gen
from mimic_source import jpg_source
from rrg.authoring.new import PIECES, expression, new
from rrg.cli import main
from rrg.composing.composition import compose
from written_packages import install_package  # noqa: F401  (a fixture)

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE = ROOT / "docs" / "writing-a-piece.md"
# What makes a training of minutes one of seconds; a reader's own command has none of it.
QUICK = (
    "image.size=32 stages.max_steps=1 stages.batch_size=2 text.report=16 generation.max_new_tokens=8 "
    "host.config.hidden_size=32 host.config.intermediate_size=32 host.config.num_hidden_layers=1"
)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """A page's fenced blocks: the line of text before each, its language, what it holds."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^(?:([^\n]+)\n\n)?```(\w*)\n(.*?)^```$", text, re.M | re.S)


def commands(page: Path) -> list[str]:
    """The `rrg`, `make` and `pip install -e` lines of a page's fenced blocks that name no language."""
    lines = [line for _, language, held in blocks(page) if not language for line in held.splitlines()]
    return [line for line in lines if line.startswith(("rrg ", "make ", "pip install -e "))]


def quick() -> list[str]:
    return [part for setting in QUICK.split() for part in ("--set", setting)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_rrg_command_of_a_page_runs(page, tmp_path, monkeypatch, capsys, install_package):
    found = [shlex.split(line)[1:] for line in commands(page) if not line.startswith("make ")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    r2gen(tmp_path / "iu_xray", [item(number, split) for number, split in enumerate(splits, 1)])
    jpg_source(tmp_path)
    chexpert(tmp_path / "chexpert-plus", [row(patient, 1) for patient in range(1, 11)])
    for name in ("frontal.png", "lateral.png"):
        shutil.copy(next((tmp_path / "iu_xray" / "images").rglob("*.png")), name)
    needs_data = any("data/iu-xray" in words for words in found)
    if needs_data and not any(words[:2] == ["data", "import"] for words in found):
        assert main(["data", "import", "iu-xray", "iu_xray", "data/iu-xray"]) == 0  # the README's own step before
    for words in found:
        words = [str(Path(word).expanduser()) if word.startswith("~") else word for word in words]
        if words[:2] == ["install", "-e"]:
            install_package(Path(words[2]))
            continue
        if words[0] == "train":  # a host of this size has no weights here: the same command trains the tiny one
            settings = dict(setting.split("=") for setting in QUICK.split())
            compose("lead+dmsr", settings={k: int(v) for k, v in settings.items()}).save(Path("recipe.toml"))
        assert main([*words, *(quick() if words[0] == "run" else [])]) == 0, words
    capsys.readouterr()


def test_every_make_target_of_a_page_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {line.split()[1] for page in PAGES for line in commands(page) if line.startswith("make ")}
    assert named
    assert named <= targets


def test_the_demo_composes(capsys):
    demo = re.search(r"^DEMO := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert demo
    assert main(["compose", *shlex.split(demo[1].replace("\\\n", " "))]) == 0
    assert "stage 3: core.exemplars: 2 epochs" in capsys.readouterr().out


def test_the_guide_to_writing_a_piece_shows_what_rrg_new_writes(tmp_path):
    shown = {before.split("`")[1]: held for before, language, held in blocks(GUIDE) if language in ("python", "toml")}
    folder = new("focal", "loss", tmp_path)
    written = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.suffix in (".py", ".toml")}
    assert shown == {name: path.read_text(encoding="utf-8") for name, path in written.items()}


def test_the_guide_says_what_to_compose_each_kind_with():
    guide = GUIDE.read_text(encoding="utf-8")
    for kind in PIECES:
        assert re.search(rf"^\| `{kind}` \| .* \| `{re.escape(expression('NAME', kind))}` \|$", guide, re.M), kind
