"""The suite tested: every check fails a piece that breaks its promise, and that piece fails no other."""

from collections.abc import Iterator

import pytest

from broken_pieces import BROKEN, TAMPERED, Heads, Loss, Retriever, Shift
from rrg.composing.plugins import Plugin, find
from rrg.pieces import Piece, Registered
from rrg.testing import CHECKS, Case, due, run


@pytest.fixture(autouse=True)
def _rrg_as_it_is() -> Iterator[None]:
    """Undo what hostile pieces have done to rrg's own classes."""
    kept = [(cls, name, getattr(cls, name)) for cls, name in TAMPERED]
    yield
    for cls, name, method in kept:
        setattr(cls, name, method)


def case_of(cls: type, kind: str, name: str = "mine.piece", examples: int = 6) -> Case:
    """A case of a class as if a plugin had registered it."""
    registered = Registered(Piece(name, "mine:Piece", ""), kind, "mine")
    registered.__dict__["cls"] = cls  # what importing the target would give
    plugins = find()
    plugins.pieces[name] = registered
    plugins.plugins.append(Plugin("mine", "mine-plugin", "1.0", [registered]))
    return Case(registered, plugins, examples)


def failures(case: Case) -> dict[str, str]:
    return {check.name: result.message for check in due(case) if (result := run(case, check)).message}


def test_every_check_has_a_piece_that_breaks_it() -> None:
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize("check", BROKEN)
def test_a_broken_piece_fails_its_check_and_no_other(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, cls = BROKEN[check]
    case = case_of(cls, kind)
    monkeypatch.setattr("rrg.model.model.find", lambda: case.plugins)  # a stage's training looks for itself
    found = failures(case)
    assert list(found) == [check], found
    assert found[check].startswith(f"mine.piece: {check}: ")


@pytest.mark.parametrize(
    ("cls", "kind"), [(Heads, "encoder"), (Loss, "loss"), (Shift, "injector"), (Retriever, "retriever")]
)
def test_what_the_broken_pieces_are_made_of_is_sound(cls: type, kind: str) -> None:
    assert failures(case_of(cls, kind)) == {}
