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


def test_a_floor_of_two_needs_is_the_slower_by_its_quickest_way(runner: Any) -> None:
    block = runner.Measurement("", {}, (("slow way", "quick way"), ("bytes",)), "naive")
    for bytes_, expected in ((2.0, "quick way"), (4.0, "bytes")):
        times = {"slow way": 9.0, "quick way": 3.0, "bytes": bytes_, "rrg": 5.0}
        assert runner.floor_of(block, times) == expected


def test_no_way_to_do_the_work_is_its_own_floor(cases: dict[str, Any]) -> None:
    for block in cases["selective-scan"].blocks("cpu", True):
        rows = {name for ways in block.floor for name in ways}
        assert rows == {"exponentials, torch", "exponentials, compiled", "bytes"}
        assert rows < block.rows.keys()


@pytest.mark.parametrize("turns", [1, 5])
def test_the_floors_exponentials_are_taken(runner: Any, turns: int) -> None:
    floors = importlib.import_module("floors")
    take, found = floors.exponentials(turns * floors.BLOCK + 7)
    before = torch.get_num_threads()
    assert len(found) == floors.BLOCK
    take()
    expected = torch.exp(torch.linspace(-1, 1, floors.BLOCK).double()[:, None] * torch.arange(float(turns)))
    close = ((found.double()[:, None] / expected - 1).abs() < 1e-6).all(dim=0)
    assert close.any()  # the turn that the first thread took last
    assert torch.get_num_threads() == before


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
