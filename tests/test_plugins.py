"""`rrg plugins`: every broken plugin is listed with its reason, and stops nothing else."""

# ruff: noqa: F811  (the fixture `install` is imported)

import json

import pytest

from fake_distributions import LOGITS, Install, install, piece  # noqa: F401  (install is a fixture)
from rrg import hookspecs
from rrg.cli import main
from rrg.composing.plugins import find
from rrg.errors import UsageError
from rrg.pieces import RESERVED, Piece

FOREIGN = "def rrg_losses():\n    return [rrg.Piece('odd.loss', 'odd:Odd', 'for a test')]"


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict]:
    """What `rrg plugins --json` says, by plugin; ours must be there and whole each time."""
    assert main(["plugins", "--json"]) == 0
    rows = {row["plugin"]: row for row in json.loads(capsys.readouterr().out)}
    ours = [rows[name] for name in ("core", "lead", "s2d-align", "vdgen", "dast")]
    assert all(row["pieces"] and row["problem"] is None for row in ours)
    assert all(p["problem"] is None for row in ours for p in row["pieces"])
    return rows


@pytest.mark.parametrize("hook", hookspecs.KINDS)
def test_hook_has_a_docstring(hook: str) -> None:
    assert len(getattr(hookspecs, hook).__doc__) > 30


def test_there_are_six_hooks_and_each_has_a_kind() -> None:
    marked = {name for name, value in vars(hookspecs).items() if hasattr(value, "rrg_spec")}
    assert marked == set(hookspecs.KINDS)
    assert len(marked) == 6


def test_plugin_that_raises_at_import(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("odd", "raise RuntimeError('no licence')")
    row = listed(capsys)["odd"]
    assert row["problem"] == "odd cannot be imported: RuntimeError: no licence"
    assert (row["distribution"], row["version"], row["pieces"]) == ("odd-plugin", "1.2", [])


def test_plugin_that_exits_at_import(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("odd", "import sys; sys.exit(3)")
    assert listed(capsys)["odd"]["problem"] == "odd cannot be imported: SystemExit: 3"


def test_plugin_with_a_misspelt_hook(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("odd", piece("rrg_loses", "odd.loss", "odd:Odd"))
    row = listed(capsys)["odd"]
    assert row["problem"] == "unknown hook rrg_loses: did you mean rrg_losses?"
    assert row["pieces"] == []


def test_plugin_without_a_hook(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("odd", "import rrg\n" + FOREIGN)
    assert listed(capsys)["odd"]["problem"].startswith("implements no hook: mark functions such as rrg_losses")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("None", "rrg_losses gave None, expected a list of rrg.Piece"),
        ("['odd.loss']", "rrg_losses gave ['odd.loss'], expected a list of rrg.Piece"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (
            "[rrg.Piece('Odd', 'odd:Odd', '')]",
            "piece name 'Odd': expected method.piece in lower case, such as lead.gate",
        ),
        ("[rrg.Piece('odd.a', 'odd.Odd', '')]", "piece odd.a: target 'odd.Odd', expected package.module:Class"),
        ("[rrg.Piece('odd.a', None, '')]", "TypeError: expected string or bytes-like object, got 'NoneType'"),
        (
            "[rrg.Piece('core.a', 'odd:Odd', '')]",
            "core.a: the method core is rrg's own; give the piece a method of its own",
        ),
    ],
)
def test_hook_that_returns_nonsense(
    answer: str, said: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("odd", f"import rrg\n\n@rrg.hookimpl\ndef rrg_losses():\n    return {answer}")
    assert listed(capsys)["odd"]["problem"] == said


def test_hook_that_exits(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("odd", "import rrg\n\n@rrg.hookimpl\ndef rrg_losses():\n    raise SystemExit(4)")
    assert listed(capsys)["odd"]["problem"] == "SystemExit: 4"


def test_hook_with_an_argument(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("odd", "import rrg\n\n@rrg.hookimpl\ndef rrg_losses(config):\n    return []")
    assert "config" in listed(capsys)["odd"]["problem"]


def test_two_plugins_with_one_piece_name_both_lose_it(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("one", piece("rrg_losses", "shared.loss", "one:Loss"))
    install("two", piece("rrg_losses", "shared.loss", "two:Loss"))
    rows = listed(capsys)
    assert rows["one"]["problem"] == "shared.loss is also given by two: neither can be used"
    assert rows["two"]["problem"] == "shared.loss is also given by one: neither can be used"
    assert main(["compose", "lead+shared"]) == 2
    assert "shared.loss is given by the plugins one and two; uninstall one of them" in capsys.readouterr().err


def test_plugin_that_gives_a_piece_twice(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    twice = "[rrg.Piece('odd.a', 'odd:A', ''), rrg.Piece('odd.a', 'odd:B', '')]"
    install("odd", f"import rrg\n\n@rrg.hookimpl\ndef rrg_losses():\n    return {twice}")
    assert listed(capsys)["odd"]["problem"] == "odd.a is also given by itself: neither can be used"


def test_two_distributions_with_one_plugin_name(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("lead", piece("rrg_losses", "other.loss", "lead:Loss"))
    assert main(["plugins", "--json"]) == 0
    rows = {row["plugin"]: row for row in json.loads(capsys.readouterr().out)}
    assert [p["name"] for p in rows["lead (lead-plugin)"]["pieces"]] == ["other.loss"]
    assert "lead.gate" in [p["name"] for p in rows["lead (rrg-compose)"]["pieces"]]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "absent_module:Heads",
            "absent_module:Heads cannot be loaded (ModuleNotFoundError: No module named 'absent_module')",
        ),
        ("odd:Heads", "odd:Heads cannot be loaded (AttributeError: module 'odd' has no attribute 'Heads')"),
        ("odd_exits:Heads", "odd_exits:Heads cannot be loaded (SystemExit: 5)"),
        ("odd:rrg_encoders", "odd:rrg_encoders is no subclass of torch.nn.Module"),
    ],
)
def test_piece_that_cannot_be_loaded(
    target: str, said: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("odd", piece("rrg_encoders", "odd.heads", target), odd_exits="raise SystemExit(5)")
    row = listed(capsys)["odd"]
    assert row["problem"] is None
    assert said in row["pieces"][0]["problem"]
    assert main(["compose", "odd"]) == 2
    assert said in capsys.readouterr().err
    assert main(["compose", "lead"]) == 0


def test_table_says_what_is_broken(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("odd", piece("rrg_encoders", "odd.heads", "absent_module:Heads"))
    install("worse", "raise RuntimeError('no licence')")
    assert main(["plugins"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "worse  (worse-plugin 1.2)" in lines
    assert "  broken: worse cannot be imported: RuntimeError: no licence" in lines
    [after] = [lines[i + 1] for i, line in enumerate(lines) if line.startswith("  odd.heads")]
    assert after.startswith("    broken: piece odd.heads of plugin odd: absent_module:Heads cannot be loaded")


def test_composing_a_broken_plugin_gives_its_reason(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("odd", "raise RuntimeError('no licence')")
    assert main(["compose", "odd"]) == 2
    assert "its plugin odd (odd-plugin 1.2) is broken: odd cannot be imported" in capsys.readouterr().err


def test_order_of_registration_decides_nothing(install: Install) -> None:
    install("aaa", piece("rrg_encoders", "aaa.heads", "heads_a:Heads"), heads_a=LOGITS)
    names = list(find().pieces)
    assert names.index("aaa.heads") > names.index("core.encoder")  # core, then by the name of the entry point
    assert names == list(find().pieces)


@pytest.mark.parametrize("method", RESERVED)
def test_words_of_settings_are_no_methods(method: str) -> None:
    with pytest.raises(UsageError, match="a word of rrg's own"):
        Piece(f"{method}.loss", "a:B", "")


def test_entry_points_that_cannot_be_read_are_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def malformed(group: str) -> None:
        raise ValueError(f"odd line in {group}")

    monkeypatch.setattr("rrg.composing.plugins.entry_points", malformed)
    assert main(["plugins"]) == 2
    assert "installed entry points cannot be read (odd line in rrg)" in capsys.readouterr().err
