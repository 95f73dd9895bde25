"""A stranger's package beside our wheel in a clean environment: it composes like the bundled methods."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from rrg.testing.data import noise_folder

ROOT = Path(__file__).parent.parent
STRANGER = Path(__file__).parent / "stranger" / "rrg-focal"  # as `rrg new focal` writes it
QUICK = (
    "stages.max_steps=2 stages.batch_size=2 image.size=32 "
    "host.config.hidden_size=32 host.config.intermediate_size=32 host.config.num_hidden_layers=1"
)
# What pip says where no package index can be reached: the build needs hatchling from there.
NO_INDEX = re.compile(r"No matching distribution|Could not find a version|ConnectionError|Failed to establish")


def command(*words: object) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, env=clean)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Our wheel and the stranger's, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheels")
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    built = command(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, *isolation, ROOT, STRANGER
    )
    if built.returncode and NO_INDEX.search(built.stderr):
        pytest.skip("hatchling is not installed, and no package index can be reached to build with it")
    assert built.returncode == 0, built.stderr
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def rrg(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `rrg` of a fresh environment with both wheels; the dependencies are borrowed from this one."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    # A plain path in a .pth file brings the packages, not the .pth files among them, such as our editable install.
    [site] = home.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", "--ignore-installed"]
    installed = command(*pip, *wheels.values())
    assert installed.returncode == 0, installed.stderr
    where = command(python, "-c", "import rrg, rrg_lead, rrg_focal; print(rrg.__file__, rrg_lead.__file__)")
    assert all(path.startswith(str(home)) for path in where.stdout.split()), where
    return home / "bin" / "rrg"


def test_the_wheel_holds_what_runs_need(wheels: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(wheels["rrg_compose"]).namelist())
    files = [p for p in (ROOT / "core").rglob("*") if p.suffix in (".py", ".toml", ".json", ".txt")]
    files += (ROOT / "plugins").rglob("*.py")
    expected = {str(p.relative_to(ROOT / ("core" if ROOT / "core" in p.parents else "plugins"))) for p in files}
    assert expected <= names
    assert "rrg/registry.toml" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/")) or name.endswith(".pyc")]


def test_the_stranger_is_listed_beside_ours(rrg: Path) -> None:
    listed = command(rrg, "plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    plugins = {row["plugin"]: row for row in json.loads(listed.stdout)}
    assert {"core", "lead", "dast", "focal"} <= set(plugins)
    assert (plugins["focal"]["distribution"], plugins["focal"]["version"]) == ("rrg-focal", "0.1.0")
    assert [(p["name"], p["kind"], p["problem"]) for p in plugins["focal"]["pieces"]] == [("focal.loss", "loss", None)]
    assert all(plugin["problem"] is None for plugin in plugins.values())


def test_the_stranger_composes(rrg: Path) -> None:
    done = command(rrg, "compose", "lead+focal", "--set", "focal.loss.gamma=1.5", "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["recipe"]["pieces"]["focal.loss"] == {"weight": 1.0, "gamma": 1.5}
    assert content["recipe"]["wire"]["focal.loss.disease_logits"] == "lead.experts"
    assert content["recipe"]["versions"]["rrg-focal"] == "0.1.0"
    assert content["plan"]["stages"][0]["losses"] == ["report", "lead.bce", "focal.loss"]


def test_the_stranger_trains_two_steps(rrg: Path, tmp_path: Path) -> None:
    folder, recipe, run = noise_folder(tmp_path / "data", {"train": 4}), tmp_path / "recipe.toml", tmp_path / "run"
    words = [word for setting in QUICK.split() for word in ("--set", setting)]
    composed = command(rrg, "compose", "lead+focal", *words, "-o", recipe)
    assert composed.returncode == 0, composed.stderr
    trained = command(rrg, "train", recipe, "--data", folder.path, "--out", run)
    assert trained.returncode == 0, trained.stderr
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert max(line["step"] for line in logged) == 2
    assert any("loss/focal.loss" in line for line in logged)


def test_the_stranger_keeps_its_contracts_until_one_line_breaks_them(rrg: Path) -> None:
    green = command(rrg, "test", "focal", "--examples", "5")
    assert green.returncode == 0, green.stdout + green.stderr
    [loss] = rrg.parent.parent.glob("lib/python*/site-packages/rrg_focal/loss.py")
    sound = loss.read_text(encoding="utf-8")
    line = "        return loss.masked_fill(~stated, 0.0).sum() / stated.sum()"
    assert sound.count(line) == 1
    loss.write_text(
        sound.replace(line, line.replace("loss.masked_fill", "loss.detach().masked_fill")), encoding="utf-8"
    )
    try:
        red = command(rrg, "test", "focal", "--examples", "5")
    finally:
        loss.write_text(sound, encoding="utf-8")
    assert red.returncode == 1
    assert "  focal.loss: one_study: no gradient leaves it (batch=1 " in red.stdout


def test_the_installed_command_writes_the_stranger_but_not_twice(rrg: Path, tmp_path: Path) -> None:
    taken = command(rrg, "new", "focal", "--into", tmp_path)
    assert (taken.returncode, list(tmp_path.iterdir())) == (2, [])
    done = command(rrg, "new", "margin", "--into", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rrg-margin" / "rrg_margin" / "loss.py").read_bytes() == (
        STRANGER / "rrg_focal" / "loss.py"
    ).read_bytes()


def test_the_stranger_is_small() -> None:
    sources = list((STRANGER / "rrg_focal").glob("*.py"))
    assert len(sources) == 2
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in sources) <= 40
