"""What the distribution holds: folders, entry points and the wheel's list agree; core knows no plugin."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rrg.composing.plugins import find
from rrg.composing.registry import registry

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists())


def test_every_plugin_folder_has_its_entry_point() -> None:
    points = PROJECT["project"]["entry-points"]["rrg"]
    assert FOLDERS
    assert points == {folder.removeprefix("rrg_").replace("_", "-"): folder for folder in FOLDERS}


def test_the_wheel_lists_every_package() -> None:
    listed = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(listed) == sorted(["core/rrg", *(f"plugins/{folder}" for folder in FOLDERS)])


def test_each_plugin_gives_pieces_of_its_own_method_only() -> None:
    for plugin in find().plugins:
        assert plugin.problem is None
        assert {r.piece.method for r in plugin.pieces} == {plugin.name}


@pytest.mark.parametrize("path", sorted((ROOT / "core").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT / "core")))
def test_core_imports_no_plugin(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    names = {name.partition(".")[0] for name in imported} | {text.partition(":")[0].partition(".")[0] for text in texts}
    assert not names & set(FOLDERS)


def test_the_registry_knows_every_bundled_method_and_makes_none() -> None:
    bundled = {folder.removeprefix("rrg_").replace("_", "-") for folder in FOLDERS}
    assert bundled <= set(registry()["methods"])
    assert all(set(method) == {"title", "install"} for method in registry()["methods"].values())


def test_every_known_host_has_its_configuration() -> None:
    configs = {path.stem for path in (ROOT / "core" / "rrg" / "composing" / "configs").glob("*.json")}
    assert {host["config"] for host in registry()["hosts"].values()} == configs
    assert {host["kind"] for host in registry()["hosts"].values()} == set(registry()["kinds"])


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_compiles_what_python_imports_where_images_forbid_it(tmp_path: Path) -> None:
    """PYTHONDONTWRITEBYTECODE would make each start take thrice as long."""
    (tmp_path / "probed").mkdir()
    (tmp_path / "probed" / "imported.py").write_text("")
    probe = (
        f"include {ROOT / 'Makefile'}\nprobe:\n\t@cd {tmp_path / 'probed'} && {sys.executable} -c 'import imported'\n"
    )
    (tmp_path / "Makefile").write_text(probe)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPYCACHEPREFIX", None)
    subprocess.run(["make", "-C", str(tmp_path), "probe"], env=environment, check=True, capture_output=True)
    assert list((tmp_path / "probed" / "__pycache__").glob("imported.*.pyc"))
