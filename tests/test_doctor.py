"""`rrg doctor`: every check says what it found, says what to do about a problem, and none stops the others."""

# ruff: noqa: F811  (the fixture `install` is imported)

import json
import os
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from fake_distributions import Install, install, piece  # noqa: F401  (install is a fixture)
from rrg import doctor
from rrg.cli import main
from rrg.data.phantom import make_phantom
from rrg.data.study import count

Rows = list[dict[str, str]]


def only(monkeypatch: pytest.MonkeyPatch, *checks: Any) -> None:
    """Run these checks alone, so that the state of this machine decides nothing."""
    monkeypatch.setattr(doctor, "CHECKS", checks)


def examined(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Rows]:
    code = main(["doctor", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def editable(folder: Path, info: Path, points: str) -> Path:
    """Make an installed distribution an editable install of `folder`, whose pyproject.toml declares `points`."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(f'[project]\nname = "odd-plugin"\n{points}', encoding="utf-8")
    url = {"dir_info": {"editable": True}, "url": folder.as_uri()}
    (info / "direct_url.json").write_text(json.dumps(url), encoding="utf-8")
    return folder


@pytest.fixture
def odd(install: Install, tmp_path: Path) -> Path:
    """The metadata folder of a plugin `odd`."""
    install("odd", piece("rrg_losses", "odd.loss", "odd:Odd"))
    return tmp_path / "site-packages" / "odd_plugin-1.2.dist-info"


def about_odd(rows: Rows) -> Rows:
    return [row for row in rows if row["text"].startswith("odd-plugin")]


def test_every_check_reports_and_its_findings_decide_the_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, rows = examined(capsys)
    assert {row["check"] for row in rows} == {check.__name__ for check in doctor.CHECKS}
    assert {row["mark"] for row in rows} <= {"ok", "note", "problem"}
    assert not [row for row in rows if "this check failed" in row["text"]]
    assert code == int(any(row["mark"] == "problem" for row in rows))


def test_versions_are_those_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)  # away from data/
    only(monkeypatch, doctor.versions)
    assert f"torch {torch.__version__}" in examined(capsys)[1][-1]["text"]


def test_a_requirement_that_is_too_old_or_absent_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rrg:
        version = "0.1.0"
        requires = ("torch>=999", "no-such-package>=1", "pluggy>=1", "never>=1; extra == 'test'")

    monkeypatch.setattr(doctor, "distribution", lambda name: Rrg())
    problems = [row for row in doctor.versions() if row[0] == "problem"]
    assert [row[2] for row in problems] == ["pip install 'torch>=999'", "pip install 'no-such-package>=1'"]
    assert "rrg needs torch>=999" in problems[0][1]
    assert problems[1][1].startswith("no-such-package is not installed")


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ('[project.entry-points."rrg"]\nodd = "odd"\nnew = "odd_new"', "odd-plugin: new missing"),
        ("", "odd-plugin: odd stale"),
        ('[project.entry-points."rrg"]\nodd = "odd_moved"', "odd-plugin: odd stale"),
        ('[project.entry-points."rrg"]\nnew = "odd"', "odd-plugin: new missing; odd stale"),
    ],
)
def test_entry_points_older_than_the_pyproject(
    points: str, said: str, odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = editable(tmp_path / "an odd plugin", odd, points)
    code, rows = examined(capsys)
    [row] = about_odd(rows)
    assert code == 1
    assert (row["check"], row["mark"], row["cure"]) == (
        "entry_points",
        "problem",
        f"pip install -e {quote(str(folder))}",
    )
    assert row["text"].startswith(f"{said}: ")


@pytest.mark.parametrize("points", ['[project.entry-points."rrg"]\nodd = "odd"', 'dynamic = ["entry-points"]'])
def test_entry_points_as_the_pyproject_has_them(points: str, odd: Path, tmp_path: Path) -> None:
    editable(tmp_path / "odd_plugin", odd, points)
    assert "problem" not in [row[0] for row in doctor.entry_points() if "odd-plugin" in row[1]]


def test_a_pyproject_without_a_project_table_declares_nothing(odd: Path, tmp_path: Path) -> None:
    folder = editable(tmp_path / "odd_plugin", odd, "")
    (folder / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools"]\n', encoding="utf-8")
    assert [row for row in doctor.entry_points() if "odd-plugin" in row[1]] == []


def test_an_editable_install_whose_folder_is_gone_is_left_to_the_plugin_check(odd: Path, tmp_path: Path) -> None:
    folder = editable(tmp_path / "odd_plugin", odd, "")
    (folder / "pyproject.toml").unlink()
    assert [row for row in doctor.entry_points() if "odd-plugin" in row[1]] == []


def test_plugins_are_listed_with_what_they_provide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only(monkeypatch, doctor.plugins)
    monkeypatch.chdir(tmp_path)
    code, rows = examined(capsys)
    assert code == 0
    [lead] = [row["text"] for row in rows if row["text"].startswith("lead ")]
    assert "injector lead.gate" in lead


def test_a_broken_plugin_is_a_problem_on_one_line(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, doctor.plugins)
    install("odd", "raise RuntimeError('no\\nlicence')")
    assert main(["doctor"]) == 1
    said = "odd (odd-plugin 1.2): odd cannot be imported: RuntimeError: no licence"
    assert f"problem  plugins  {said}; mend it, or pip uninstall odd-plugin" in capsys.readouterr().out.splitlines()


def test_a_piece_that_cannot_be_loaded_is_a_problem(
    odd: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, doctor.plugins)
    code, rows = examined(capsys)
    [row] = [row for row in rows if row["mark"] == "problem"]
    assert code == 1
    assert "piece odd.loss of plugin odd: odd:Odd cannot be loaded" in row["text"]


def test_a_check_that_fails_is_a_problem_and_stops_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken() -> Iterator[tuple[str, ...]]:
        yield "ok", "found before"
        raise SystemExit("driver went away")

    monkeypatch.chdir(tmp_path)
    only(monkeypatch, broken, doctor.plugins)
    code, rows = examined(capsys)
    assert code == 1
    assert [row["text"] for row in rows[:2]] == ["found before", "this check failed: SystemExit: driver went away"]
    assert rows[2]["check"] == "plugins"


def java(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The finding on a `java` that does what `script` says."""
    (folder / "java").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return list(doctor.optional())[-1]


def test_java_says_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo Picked up JAVA_TOOL_OPTIONS >&2; echo 'openjdk version \"21.0.2\"' >&2"
    assert java(tmp_path, script, monkeypatch) == ("ok", 'openjdk version "21.0.2": METEOR')


def test_java_that_fails_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, text, _ = java(tmp_path, "echo no runtime present >&2; exit 1", monkeypatch)
    assert (mark, text) == ("problem", "java fails: no runtime present\n")


def test_no_java_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    mark, text = list(doctor.optional())[-1]
    assert mark == "note"
    assert text.startswith("no java: optional")


def test_an_optional_backend_is_a_note_until_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OPTIONAL", {"quick-scan": "scans"})
    assert next(doctor.optional()) == ("note", "no quick-scan: optional, for scans")
    info = tmp_path / "quick_scan-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quick-scan\nVersion: 2.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert next(doctor.optional()) == ("ok", "quick-scan 2.0: scans")


def test_the_kernels_that_are_taken_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from rrg.ops.selective_scan import cpu

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert next(doctor.kernels()) == ("ok", "on cpu: selective scan by cpu, gated fusion in bfloat16 by torch")
    monkeypatch.setattr(cpu, "AVAILABLE", False)
    assert next(doctor.kernels())[1].startswith("on cpu: selective scan by chunked")


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Device:
        name, total_memory, major, minor = "NVIDIA Z1", 24 << 30, 9, 1

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Device)
    assert list(doctor.gpu()) == [("ok", "NVIDIA Z1, 24 GiB, capability 9.1")]


@pytest.mark.parametrize(("declared", "mark"), [(None, "ok"), (object(), "note")])
def test_torchvision_says_whether_the_repair_is_active(
    declared: object, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rrg import _torchvision

    monkeypatch.setattr(_torchvision, "declared", declared)
    [row] = doctor.torchvision()
    assert row[0] == mark
    assert ("repair is active" in row[1]) == (mark == "note")


def test_data_folders_are_counted_by_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch)
    monkeypatch.chdir(tmp_path)
    found = count(make_phantom(Path("data/few"), studies=5, seed=1, workers=1).studies)
    make_phantom(Path("elsewhere"), studies=4, seed=2, workers=1)
    code, rows = examined(capsys, "--data", "elsewhere")
    assert code == 0
    texts = [row["text"] for row in rows if row["mark"] == "ok"]
    assert [text.partition(":")[0] for text in texts] == ["elsewhere (phantom)", "data/few (phantom)"]
    assert f": train {found['train']}, val {found['val']}, test {found['test']}, " in texts[1]


def test_a_data_folder_that_cannot_be_opened_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_phantom(Path("data/torn"), studies=6, seed=1, workers=1)
    for film in Path("data/torn/images").iterdir():
        film.unlink()
    code, rows = examined(capsys, "--data", "absent")
    assert code == 1
    assert [row["mark"] for row in rows] == ["problem", "problem"]
    assert rows[0]["text"].startswith("absent: no such data folder")
    assert " is missing" in rows[1]["text"]
    assert rows[1]["text"].endswith(" more")
