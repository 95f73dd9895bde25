"""`rrg bench`: tests first, then ratios of one interleaved run; the page says what was kept."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from rrg.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def runner() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    return importlib.import_module("runner")


@pytest.fixture
def cases(runner: Any) -> dict[str, Any]:
    return importlib.import_module("cases").CASES


def test_every_case_runs_at_its_smallest_size(cases: dict[str, Any], runner: Any) -> None:
    for case in cases.values():
        assert all((ROOT / "tests" / name).exists() for name in case.tests)
        blocks = [runner.measured(block, "cpu", seconds=0.0) for block in case.blocks("cpu", True)]
        assert blocks
        for block in blocks:
            assert block["rows"][block["floor"]]["over the floor"] == 1.0
            assert block["rows"][block["reference"]]["times the reference"] == 1.0
            assert all(row["seconds"] > 0 for row in block["rows"].values())


def test_failing_tests_measure_nothing(
    cases: dict[str, Any], runner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    class Done:
        returncode, stdout = 1, "1 failed"

    monkeypatch.setattr(runner.subprocess, "run", lambda words, **_: ran.append(words) or Done())
    monkeypatch.setattr(runner, "measured", lambda *a, **k: pytest.fail("measured all the same"))
    assert main(["bench", "gated-fusion", "--quick"]) == 1
    assert "its tests fail, so nothing was measured" in capsys.readouterr().err
    assert ran[0][-1].endswith("test_gated_fusion.py")


def test_the_command_prints_ratios_and_keeps_nothing_of_a_quick_run(
    runner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Done:
        returncode, stdout = 0, "1 passed"

    monkeypatch.setattr(runner.subprocess, "run", lambda words, **_: Done())
    monkeypatch.setattr(runner, "save", lambda result: pytest.fail("a quick run was kept"))
    monkeypatch.setattr(runner, "commit", lambda: None)
    assert main(["bench", "gated-fusion", "--quick", "--json"]) == 0
    [result] = json.loads(capsys.readouterr().out)
    assert result["machine"]["torch"] == torch.__version__
    both = next(block for block in result["blocks"] if block["what"].startswith("host 256, float32, forward and"))
    peak = {name: row["peak bytes"] for name, row in both["rows"].items()}
    hidden = 8 * 256 * 256 * 4  # bytes; the result and the gate stand while hidden's gradient is made
    assert 3 * hidden < peak["rrg"] < peak["split"] < peak["as printed"]
    assert "| as printed (reference) |" in runner.table(result)


@pytest.mark.parametrize(
    ("words", "hint"),
    [(["bench", "nothing"], "no case nothing; cases: gated-fusion"), (["bench", "--device", "cuda"], "no GPU")],
)
def test_what_is_not_there(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available() and "cuda" in words:
        pytest.skip("there is a GPU")
    assert main(words) == 2
    assert hint in capsys.readouterr().err


def test_the_page_is_current(generate: ModuleType) -> None:
    current = generate.PERFORMANCE.read_text(encoding="utf-8") == generate.performance_page()
    assert current, "docs/performance.md is older than benchmarks/results; renew it with: make docs-pages"
