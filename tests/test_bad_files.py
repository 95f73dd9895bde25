"""`rrg evaluate`, `compare`, `report` and `bench` on files that are none, or of something else: one error each."""

import gzip
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from rrg.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # its start takes longer than all the rest


def said(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    assert main([str(word) for word in words]) == code
    [line, *_] = error = capsys.readouterr().err.splitlines()
    assert line.startswith("rrg: ")
    assert all(more.startswith("  - ") for more in error[1:])
    return "\n".join(error)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("command", "what"),
    [(["evaluate"], "an evaluation's metrics"), (["report", "--no-internals"], "a page of rrg")],
)
@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("run", "could not be written: Is a directory"),
        ("", "could not be written: Is a directory"),
        ("none/x", "could not be written: no folder "),
        ("run/run.json/x", "could not be written: no folder "),
        ("pipe", "could not be written: a pipe or a device"),
        ("x" * 250, "could not be written: File name too long"),
        ("run/predictions.jsonl", "is there, and is not {}: it stays"),
        ("run/run.json", "is there, and is not {}: it stays"),
        ("data/metadata.jsonl", "is there, and is not {}: it stays"),
        ("data/images/missed-0.png", "is there, and is not {}: it stays"),
    ],
)
def test_what_cannot_be_written_over_stays(
    scored: Path, capsys: pytest.CaptureFixture[str], command: list[str], what: str, output: str, message: str
) -> None:
    os.mkfifo(scored.parent / "pipe")
    before = contents(scored.parent)
    found = said(capsys, 1, *command, scored, "-o", scored.parent / output if output else "")
    assert message.format(what) in found
    assert "; name another file" in found or "make it, or name another file" in found
    assert contents(scored.parent) == before


@pytest.mark.parametrize("name", ["new", "old", "empty"])
def test_what_a_command_wrote_before_is_written_over(scored: Path, name: str) -> None:
    page, metrics = (scored.parent / f"{name}.{suffix}" for suffix in ("html", "json"))
    if name == "empty":
        page.touch()
        metrics.touch()
    for _ in range(2 if name == "old" else 1):
        assert main(["evaluate", str(scored), "-o", str(metrics)]) == 0
        assert main(["report", str(scored), "--no-internals", "-o", str(page)]) == 0
    assert json.loads(metrics.read_text())["n"] == 6
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pipe, "predictions.jsonl: a pipe or a device, which can't be read twice; save it as a file"),
        (loop, "predictions.jsonl: cannot be read: Too many levels of symbolic links"),
        (lambda path: path.write_bytes(path.read_text().encode("utf-16")), "UTF-16, and predictions are read as UTF-8"),
        (
            lambda path: path.write_text('{"id": "right", "report": "x", "probabilities": {"Edema": NaN}}'),
            "line 1: probabilities.Edema: ",
        ),
    ],
)
@pytest.mark.parametrize("command", [["evaluate"], ["report", "--no-internals"], ["compare", "."]])
def test_predictions_that_are_no_file_of_text(
    scored: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    monkeypatch.chdir(copytree(scored, scored.parent / "other"))
    spoil(scored / "predictions.jsonl")
    assert message in said(capsys, 1, *command, scored)
    assert not (scored / "report.html").exists()


def test_a_loop_of_links_in_a_runs_place(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scored.parent / "l").symlink_to(scored.parent / "l")
    assert "Too many levels of symbolic links" in said(capsys, 1, "compare", scored, scored.parent / "l")


def test_a_gzipped_csv_is_read_as_strictly_as_a_plain_one(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, write in (("p.csv", open), ("p.csv.gz", gzip.open)):
        with write(scored.parent / name, "wt") as file:
            file.write("id,report,reference\na,nan,x\n")
        found = said(capsys, 1, "evaluate", scored.parent / name, "--protocol", "raw")
        assert "line 2: report is nan, not text" in found


def test_labels_from_a_pipe(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(scored.parent / "labels.csv")
    found = said(capsys, 1, "evaluate", scored, "--labels", scored.parent / "labels.csv")
    assert "labels.csv: a pipe or a device" in found


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_a_negative_seed(scored: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    runs = [scored] if command == "evaluate" else [scored, copytree(scored, scored.parent / "other")]
    assert said(capsys, 2, command, *runs, "--seed", "-1") == "rrg: seed -1: expected 0 or more"


def test_more_permutations_than_anyone_waits_for(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copytree(scored, scored.parent / "other")
    found = said(capsys, 2, "compare", scored, other, "--permutations", 10**12)
    assert found.endswith("give at least 1 of each, and at most 10,000,000")


def test_a_section_that_no_training_study_has(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, 1, "evaluate", scored, "--section", "impression")
    assert "no training studies with impression" in found


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset.json", b"[]", "no data folder of rrg: dataset.json holds no object"),
        ("dataset.json", b"\xff", "no data folder of rrg: dataset.json: 'utf-8' codec"),
        ("metadata.jsonl", b"\n", "no data folder of rrg: metadata.jsonl, line 1: Invalid JSON"),
        ("metadata.jsonl", b'{"id": 3}\n', "no data folder of rrg: metadata.jsonl, line 1: id: "),
    ],
)
def test_a_page_of_data_that_are_something_else(
    scored: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (scored.parent / "data" / name).write_bytes(content)
    found = said(capsys, 1, "report", scored, "--no-internals")
    assert message in found
    assert found.endswith("give the run's with --data")


def test_results_that_could_not_be_kept_are_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    runner: Any = importlib.import_module("runner")
    (tmp_path / "results").write_text("a file")
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(runner, "run", lambda *a, **k: pytest.fail("measured all the same"))
    found = said(capsys, 2, "bench", "gated-fusion")
    assert "results: results cannot be kept there: File exists; mend that, or measure with --quick" in found
    if os.geteuid():  # root may write anywhere
        (tmp_path / "results").unlink()
        (tmp_path / "results").mkdir(mode=0o500)
        assert "cannot be kept there: Permission denied" in said(capsys, 2, "bench", "gated-fusion")
