"""`rrg data check` as a command, and on IU X-Ray itself."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_folders import clean, study, write_folder
from rrg.check import Check, check_folder
from rrg.cli import data as cli
from rrg.data.importing import import_collection

IU_XRAY = Path(os.environ.get("RRG_IU_XRAY", Path(__file__).parents[2] / "shared/data/iu_xray"))
KEYS = {"key", "title", "level", "text", "advice", "examples", "films", "numbers"}


def run_cli(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add(parser.add_subparsers())
    args = parser.parse_args(["data", "check", *map(str, arguments)])
    return int(args.run(args))


@pytest.fixture
def warned(tmp_path: Path) -> Path:
    """A folder with a warning: a test report stands in train."""
    studies = clean()
    studies[0]["findings"] = studies[-1]["findings"]
    return write_folder(tmp_path / "warned", studies)


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """A folder with an error whose texts mean harm to a terminal."""
    studies = [
        *clean(),
        *(study(f"s{split}", split, patient="\x1b[2J\u202e" + "p" * 200) for split in ("train", "test")),
    ]
    return write_folder(tmp_path / "leaky", studies)


def test_the_exit_code_is_that_of_errors(tmp_path: Path, warned: Path, leaky: Path) -> None:
    assert run_cli(write_folder(tmp_path / "clean", clean()), "--strict") == 0
    assert run_cli(warned) == 0
    assert run_cli(warned, "--strict") == 1
    assert run_cli(leaky) == run_cli(leaky, "--quick") == 1


def test_the_table_keeps_to_100_columns_and_prints_no_control_characters(
    leaky: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cli(leaky)
    out = capsys.readouterr().out
    lines = out.removesuffix("\n").split("\n")
    assert max(map(len, lines)) <= 100
    assert all(line.isprintable() for line in lines)
    assert "\\x1b[2J\\u202e" in out
    assert next(line.split() for line in lines if line.startswith("studies")) == ["studies", "5", "4", "5"]
    assert next(line for line in lines if line.startswith("error")).split()[1:5] == ["patients", "1", "patient", "in"]
    assert lines[-1] == "17 ok, 0 notes, 0 warnings, 1 error"


def test_examples_are_cut_and_the_rest_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = [study(f"{split}-{i}", split, patient=f"p{i}") for split in ("train", "test") for i in range(5)]
    path = write_folder(tmp_path / "d", same)
    run_cli(path, "--examples", 2)
    out = capsys.readouterr().out
    assert "- patient p1: train-1 (train), test-1 (test)" in out
    assert "patient p2" not in out
    assert "… and 3 more" in out
    run_cli(path, "--examples", 0)
    assert "- patient" not in capsys.readouterr().out


def test_json_has_every_finding_and_every_example(leaky: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(leaky, "--json", "--examples", 0) == 1
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"path", "name", "opened", "levels", "splits", "findings"}
    assert printed["levels"] == {"ok": 17, "note": 0, "warning": 0, "error": 1}
    assert all(set(finding) == KEYS for finding in printed["findings"])
    found = {finding["key"]: finding for finding in printed["findings"]}
    assert list(found) == [
        "lines", "counts", "patients", "same_time", "manifest", "unreadable", "constant", "shapes", "bytes_between",
        "bytes_within", "pixels_between", "pixels_within", "empty", "reports_in_train", "reports_repeated",
        "prevalence", "views", "lateral_first",
    ]  # fmt: skip
    assert len(found["patients"]["examples"]) == 1
    assert set(printed["splits"]) == {"train", "val", "test"}


@pytest.mark.parametrize("arguments", [[], ["DIR", "--examples", "-1"], ["DIR", "--workers", "x"]])
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_cli(*arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.fixture(scope="module")
def iu_xray(tmp_path_factory: pytest.TempPathFactory) -> Check:
    if not IU_XRAY.is_dir():
        pytest.skip("no copy of IU X-Ray here")
    path = tmp_path_factory.mktemp("iu") / "iu-xray"
    import_collection("iu-xray", IU_XRAY, path, progress=False)
    return check_folder(path, progress=False)


def finding(check: Check, key: str) -> Any:
    return next(finding for finding in check.findings if finding.key == key)


def test_iu_xray_has_the_published_counts_and_no_error(iu_xray: Check) -> None:
    assert finding(iu_xray, "counts").level == "ok"
    assert iu_xray.levels["error"] == 0


def test_iu_xray_has_46_to_47_percent_of_its_test_reports_in_train(iu_xray: Check) -> None:
    """46.4 % as they are written, 46.9 % as the protocol cleans them."""
    numbers = finding(iu_xray, "reports_in_train").numbers["test"]
    assert (numbers["reports"], numbers["as_is"], numbers["cleaned"]) == (590, 274, 277)


def test_iu_xray_has_one_film_twice_in_study_3245(iu_xray: Check) -> None:
    (group,) = finding(iu_xray, "bytes_within").films
    assert [film.study.patient for film in group] == ["CXR3245", "CXR3245"]
    assert [finding(iu_xray, key).level for key in ("bytes_between", "pixels_between", "pixels_within")] == ["ok"] * 3
