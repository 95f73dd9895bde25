"""docs/hooks.md is what the code says, and pages of docs/ link to pages that the site has."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from rrg import hookspecs, signals
from rrg.composing.plugins import find

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_current(generate: ModuleType) -> None:
    current = generate.PAGE.read_text(encoding="utf-8") == generate.hooks_page()
    assert current, "docs/hooks.md is older than the code; renew it with: make docs-pages"


def test_a_changed_docstring_makes_the_page_stale(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hookspecs.rrg_losses, "__doc__", "Something else.")
    assert generate.hooks_page() != generate.PAGE.read_text(encoding="utf-8")


def test_a_new_signal_makes_the_page_stale(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(signals.SIGNALS, "depth", signals.Signal("batch height width", "a depth map", single=True))
    added = "| `depth` | Float | batch height width | a depth map | one piece |"
    assert added in generate.hooks_page()
    assert added not in generate.PAGE.read_text(encoding="utf-8")


def test_every_hook_has_its_heading_and_every_signal_and_axis_its_row(generate: ModuleType) -> None:
    page = generate.hooks_page()
    assert re.findall(r"^## (rrg_\w+)$", page, re.M) == list(hookspecs.KINDS)
    rows = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert rows == [*signals.SIGNALS, *signals.AXES]


def test_examples_are_installed_pieces_of_their_hook(generate: ModuleType) -> None:
    pieces = find().pieces
    kinds = {hook: pieces[name].kind for hook, (_, name) in generate.EXAMPLES.items()}
    assert kinds == hookspecs.KINDS


@pytest.mark.parametrize("hook", hookspecs.KINDS)
def test_examples_are_python_that_the_sources_hold(hook: str, generate: ModuleType) -> None:
    _, registration, definition = re.findall(r"```python\n(.*?)\n```", generate.hook_section(hook), re.S)
    piece = find().pieces[generate.EXAMPLES[hook][1]]
    source = Path(importlib.util.find_spec(piece.cls.__module__).origin).read_text(encoding="utf-8")
    ast.parse(registration)
    ast.parse(definition)
    assert piece.piece.target in registration
    assert [line for line in definition.splitlines() if line.removesuffix(" ...") not in source] == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_of_a_page_stay_within_the_site(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if not re.match(r"https?://|#", link)]
    assert [link for link in local if not (DOCS / link).is_file() or ".." in link] == []
