"""The layout of core/rrg: what may stand at its top, what every package says of itself, and the page that shows it."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "core" / "rrg"
PAGE = ROOT / "docs" / "architecture.md"
# What a piece's author may import, or what everything stands on.
TOP = {
    *("__init__", "__main__", "_torchvision", "axes", "config", "contrast", "doctor", "errors", "hookspecs"),
    *("masked", "observations", "pieces", "signals", "targets", "views"),
}


def _drawing() -> Any:
    spec = importlib.util.spec_from_file_location("generate_architecture", ROOT / "docs" / "generate_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_top_holds_what_an_author_imports() -> None:
    assert {path.stem for path in CORE.glob("*.py")} <= TOP
    assert len(TOP) <= 15


@pytest.mark.parametrize("package", sorted(p.parent.name for p in CORE.glob("*/__init__.py")))
def test_every_package_says_what_is_in_it(package: str) -> None:
    assert ast.get_docstring(ast.parse((CORE / package / "__init__.py").read_text(encoding="utf-8")))


def test_no_family_of_hosts_is_named_outside_their_package() -> None:
    for path in CORE.rglob("*.py"):
        if (CORE / "model" / "hosts") not in path.parents:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            compared = [n for n in ast.walk(tree) if isinstance(n, ast.Compare)]
            texts = {c.value for n in compared for c in ast.walk(n) if isinstance(c, ast.Constant)}
            assert not texts & {"qwen3-vl", "qwen3_vl"}, path
            assert "Qwen3VLHost" not in {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}, path


def test_the_picture_is_drawn_from_the_contract() -> None:
    assert (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8") == _drawing().draw()


def test_every_file_and_function_of_the_page_exists() -> None:
    page = PAGE.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:\w+/)+[\w.]+|\w+\.py)`", page)
    assert len(paths) > 30
    for name in paths:
        assert any((base / name).exists() for base in (CORE, ROOT)), name
    steps = page.partition("## From a film")[2].partition("##")[0]
    for functions, files in re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \|$", steps, re.M)[1:]:
        code = "".join((CORE / name).read_text(encoding="utf-8") for name in re.findall(r"`([^`]+)`", files))
        for function in re.findall(r"`([^`]+)`", functions):
            assert re.search(rf"(def|class) {function.rpartition('.')[2]}\b", code), function
