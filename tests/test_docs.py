"""Every command of the README and of docs/ runs, in order, on small data in a folder laid out as they assume."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from data_sources import item, r2gen
from rrg.cli import main
from rrg.composition import compose

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What makes a training of minutes one of seconds; a reader's own command has none of it.
QUICK = (
    "image.size=32 stages.max_steps=1 stages.batch_size=2 text.report=16 generation.max_new_tokens=8 "
    "host.config.hidden_size=32 host.config.intermediate_size=32 host.config.num_hidden_layers=1"
)


def commands(page: Path) -> list[str]:
    """The `rrg` and `make` lines of a page's fenced blocks that name no language."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith(("rrg ", "make "))]


def quick() -> list[str]:
    return [part for setting in QUICK.split() for part in ("--set", setting)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_rrg_command_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    found = [shlex.split(line)[1:] for line in commands(page) if line.startswith("rrg ")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    r2gen(tmp_path / "iu_xray", [item(number, split) for number, split in enumerate(splits, 1)])
    for name in ("frontal.png", "lateral.png"):
        shutil.copy(next((tmp_path / "iu_xray" / "images").rglob("*.png")), name)
    needs_data = any("data/iu-xray" in words for words in found)
    if needs_data and not any(words[:2] == ["data", "import"] for words in found):
        assert main(["data", "import", "iu-xray", "iu_xray", "data/iu-xray"]) == 0  # the README's own step before
    for words in found:
        words = [str(Path(word).expanduser()) if word.startswith("~") else word for word in words]
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


def test_the_guide_to_writing_a_piece_shows_the_package_that_the_tests_install():
    guide = (ROOT / "docs" / "writing-a-piece.md").read_text(encoding="utf-8")
    sources = [path for path in (ROOT / "tests" / "stranger").rglob("*") if path.suffix in (".py", ".toml")]
    assert sources
    for source in sources:
        assert source.read_text(encoding="utf-8").strip() in guide, source.name


def test_the_guide_lists_every_signal():
    from rrg.signals import SIGNALS

    guide = (ROOT / "docs" / "writing-a-piece.md").read_text(encoding="utf-8")
    for name, signal in SIGNALS.items():
        assert f"| `{name}` | {signal.axes} | {signal.meaning} |" in guide, name


def test_the_guide_documents_every_hook():
    from rrg.hookspecs import KINDS

    guide = (ROOT / "docs" / "writing-a-piece.md").read_text(encoding="utf-8")
    assert [hook for hook in KINDS if f"| `{hook}` |" not in guide] == []
