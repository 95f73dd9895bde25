"""`rrg new`: the package of every kind works as written, and nothing is named or overwritten that is there already."""

# ruff: noqa: F811  (the fixtures `install` and `install_package` are imported)

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_distributions import Install, install  # noqa: F401
from rrg.authoring.new import contents, expression
from rrg.cli import main
from rrg.composing.contract import contract_of
from rrg.composing.plugins import find
from rrg.hookspecs import KINDS
from rrg.model.model import RRGModel
from rrg.testing.data import batch_of, items
from written_packages import InstallPackage, describe, install_package  # noqa: F401

ROOT = Path(__file__).parent.parent
NAME = "two-view-consistency"
EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values())


def files_of(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.suffix in (".py", ".toml", ".md"))  # no tool's cache
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in found}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A package of each kind, with its metadata beside it."""
    home = tmp_path_factory.mktemp("packages")
    for kind in KINDS.values():
        assert main(["new", f"my-{kind}", "--kind", kind, "--into", str(home)]) == 0
        describe(home / f"rrg-my-{kind}")
    return [home / f"rrg-my-{kind}" for kind in KINDS.values()]


@pytest.fixture
def write(tmp_path: Path, install_package: InstallPackage) -> Callable[[str], Path]:
    """Write the package of one kind and install it."""

    def make(kind: str) -> Path:
        assert main(["new", NAME, "--kind", kind, "--into", str(tmp_path)]) == 0
        folder = tmp_path / f"rrg-{NAME}"
        install_package(folder)
        return folder

    return make


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """The error for a name that must end with exit code 2 and write nothing."""

    def run(name: str) -> str:
        assert main(["new", name, "--into", str(tmp_path / "here")]) == 2
        assert not (tmp_path / "here").exists()
        return capsys.readouterr().err

    return run


def test_it_says_what_it_wrote_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", NAME]) == 0
    written, following = capsys.readouterr().out.split("next:\n")
    assert written.split() == ["wrote", f"rrg-{NAME}", *sorted(files_of(tmp_path / f"rrg-{NAME}"))]
    assert following.splitlines() == [
        f"  pip install -e rrg-{NAME}",
        "  rrg plugins",
        f"  rrg compose lead+{NAME}",
        f"  rrg test {NAME}",
    ]


def test_the_stranger_of_these_tests_is_what_it_writes() -> None:
    assert files_of(ROOT / "tests" / "stranger" / "rrg-focal") == contents("focal", "loss")


@EVERY_KIND
def test_a_fresh_package_keeps_its_contracts(kind: str, write: Callable[[str], Path]) -> None:
    write(kind)
    assert main(["test", NAME, "--examples", "4"]) == 0


@EVERY_KIND
def test_the_piece_is_registered_and_its_contract_holds(kind: str, write: Callable[[str], Path]) -> None:
    write(kind)
    found = find()
    [plugin] = [plugin for plugin in found.plugins if plugin.name == NAME]
    assert (plugin.problem, plugin.distribution, plugin.version) == (None, f"rrg-{NAME}", "0.1.0")
    piece = found.pieces[f"{NAME}.{kind}"]
    assert piece.kind == kind
    contract_of(piece)


def trained(model: RRGModel) -> None:
    """Every stage's loss and its gradients, for one batch."""
    for stage in model.recipe.stages:
        model.begin(stage)
        model.train()
        loss = model(**batch_of(model, items([1, 2])))["loss"]
        assert loss.isfinite()
        loss.backward()


@EVERY_KIND
def test_it_composes_with_lead_and_trains(
    kind: str, write: Callable[[str], Path], composed: Callable[..., RRGModel]
) -> None:
    write(kind)
    model = composed(f"lead+{NAME}")
    assert f"{NAME}.{kind}" in model.recipe.pieces
    trained(model)


@EVERY_KIND
def test_whatever_weights_it_has_train_in_the_composition_that_it_prints(
    kind: str, write: Callable[[str], Path], composed: Callable[..., RRGModel]
) -> None:
    write(kind)
    model = composed(expression(NAME, kind))
    trained(model)
    weights = model.piece_parameters(f"{NAME}.{kind}") if kind != "stage" else []
    assert bool(weights) == (kind in ("encoder", "connector", "injector"))
    assert [name for name, weight in weights if weight.grad is None or not weight.grad.any()] == []


def test_the_retriever_gives_keys_of_unit_length(
    write: Callable[[str], Path], composed: Callable[..., RRGModel]
) -> None:
    write("retriever")
    model = composed(f"lead+{NAME}")
    assert model.retriever == f"{NAME}.retriever"
    keys = model.keys(model.signals(batch_of(model, items([1, 2, 1]))))
    assert keys.norm(dim=-1).tolist() == pytest.approx([1.0] * 3)


def test_the_focal_loss_has_finite_gradients_for_a_sure_and_right_expert(
    write: Callable[[str], Path], composed: Callable[..., RRGModel]
) -> None:
    import torch

    write("loss")
    model = composed(f"lead+{NAME}", **{f"{NAME}.loss.gamma": 0.5})
    logits = torch.tensor([[40.0, -40.0]], requires_grad=True)
    model.modules_by_piece[f"{NAME}.loss"](logits, torch.tensor([[1.0, 0.0]])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_packages_own_tests_pass(packages: list[Path]) -> None:
    path = os.pathsep.join([str(packages[0].parent), *map(str, packages), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *map(str, packages)],
        cwd=packages[0].parent,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


@pytest.mark.parametrize("settings", ["the package's", "ours"])
@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(command: list[str], settings: str, packages: list[Path]) -> None:
    ours = ["--config", str(ROOT / "pyproject.toml"), "--config", f"src={[str(p) for p in (ROOT / 'core', *packages)]}"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", *(ours if settings == "ours" else []), *packages],
        cwd=packages[0].parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Focal", "'Focal' cannot name a method: lower case, digits and hyphens, such as focal or two-view"),
        ("two_view", "'two_view' cannot name a method"),
        ("../focal", "'../focal' cannot name a method"),
        ("focal\n", "cannot name a method"),
        ("", "'' cannot name a method"),
        ("data", "data is a word of rrg's own; give the method another name"),
        ("core", "core is a word of rrg's own"),
        ("compose", "compose is a word of rrg's own"),
        ("lead", "lead is one of the methods that rrg knows"),
        ("vdgen", "vdgen is one of the methods that rrg knows"),
        ("tiny", "tiny is one of the hosts that rrg knows"),
        ("phantom", "phantom is one of the datasets that rrg knows"),
        ("dmsr", "dmsr is taken: it is short for dast.dmsr; give another name (rrg plugins lists those in use)"),
    ],
)
def test_a_name_that_cannot_be(name: str, problem: str, refused: Callable[[str], str]) -> None:
    assert problem in refused(name)


def test_the_name_of_an_installed_method(write: Callable[[str], Path], refused: Callable[[str], str]) -> None:
    write("loss")
    assert f"{NAME} is taken: it is the plugin {NAME} (rrg-{NAME}); give another name" in refused(NAME)


def test_the_name_of_a_broken_plugin(install: Install, refused: Callable[[str], str]) -> None:
    install("odd", "raise RuntimeError")
    assert "odd is taken: it is the plugin odd (odd-plugin)" in refused("odd")


def test_the_method_of_a_plugin_of_another_name(install: Install, refused: Callable[[str], str]) -> None:
    install("odd", "import rrg\n@rrg.hookimpl\ndef rrg_losses():\n    return [rrg.Piece('margin.loss', 'a:B', '')]")
    assert "margin is taken: it is the method of margin.loss" in refused("margin")


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rrg-focal").mkdir()
    (tmp_path / "rrg-focal" / "mine.py").write_text("kept", encoding="utf-8")
    assert main(["new", "focal", "--into", str(tmp_path)]) == 2
    assert "rrg-focal: already exists and is no empty folder" in capsys.readouterr().err
    assert files_of(tmp_path) == {"rrg-focal/mine.py": "kept"}


def test_a_disk_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Path.write_text

    def failing(path: Path, *args: str, **kwargs: str) -> int:
        if path.name == "loss.py":
            raise OSError("no space left on device")
        return write(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", failing)
    assert main(["new", "focal", "--into", str(tmp_path)]) == 1
    assert "no space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["new", "focal", "--kind", "losses"])
    assert ended.value.code == 2
    assert "invalid choice: 'losses'" in capsys.readouterr().err
