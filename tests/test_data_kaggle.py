"""Importing IU X-Ray from Kaggle's tables: sections, views, the archive as downloaded, and every kind of bad line."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_sources import film, kaggle, kaggle_films, refused, run_import
from rrg.data.archives import Member, read
from rrg.data.iu_xray import FORMS
from rrg.data.iu_xray import read as read_source
from rrg.data.study import SPLITS
from rrg.errors import DataError, UsageError


def test_kaggle_form(tmp_path: Path) -> None:
    done = run_import(kaggle(tmp_path / "src", [1, 2]), tmp_path / "d")
    first, _ = done.folder.studies
    assert done.form == FORMS["kaggle"]
    assert (first.id, first.patient) == ("CXR1", "CXR1")
    assert (first.findings, first.impression) == ("Clear, lungs 1.", "Normal.")
    assert (first.indication, first.comparison) == ("Cough", "None.")
    assert first.file_names == ["images/1_IM-0001-1001.dcm.png", "images/1_IM-0001-2001.dcm.png"]
    assert first.views == ["frontal", "lateral"]
    assert "not R2Gen's" in done.split


@pytest.mark.parametrize("itself", [True, False])
def test_archive_as_downloaded(tmp_path: Path, itself: bool) -> None:
    src = kaggle(tmp_path / "src", range(1, 9))
    content = (src / "images/images_normalized/1_IM-0001-1001.dcm.png").read_bytes()
    (tmp_path / "download").mkdir()
    path = tmp_path / "download/archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(src.rglob("*.*")):
            archive.write(file, file.relative_to(src))
    found = read_source(path if itself else path.parent, 0, None)
    assert found.entries.problems == []
    assert [sum(entry.study.split == split for entry in found.entries.sound) for split in SPLITS] == [6, 0, 2]
    source = found.entries.sound[0].sources[0]
    assert source == Member(path, "images/images_normalized/1_IM-0001-1001.dcm.png")
    assert isinstance(source, Member)
    assert read(source) == content


def change(src: Path, old: str, new: str, table: str = "reports") -> None:
    path = src / f"indiana_{table}.csv"
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no findings": (lambda src: change(src, "Clear, \nlungs 2.", " "), "study CXR2 has no findings"),
    "no film": (lambda src: change(src, "2,2_", "3,2_", "projections"), "study CXR2 names no film"),
    "film absent": (
        lambda src: (src / "images/images_normalized" / kaggle_films(2)[0][1]).unlink(),
        "film 2_IM-0002-2001.dcm.png is missing",
    ),
    "same uid": (lambda src: change(src, "\n2,normal", "\n1,normal"), "is already at indiana_reports.csv line 2"),
    "uid is no number": (lambda src: change(src, "\n2,normal", "\n../2,normal"), "uid '../2' is no number"),
    "too few cells": (lambda src: change(src, "2,normal,", "2,"), "7 cells under 8 columns"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_line_is_listed(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    src = kaggle(tmp_path / "src", [1, 2])
    spoil(src)
    (problem,) = refused(src, tmp_path / "d")
    assert problem.startswith("indiana_reports.csv line 4: ")
    assert message in problem


def nul_byte(src: Path) -> None:
    change(src, "Cough", "Co\0ugh")


def long_line(src: Path) -> None:
    os.truncate(src / "indiana_reports.csv", 1 << 30)


def lost_column(src: Path) -> None:
    change(src, ",findings,", ",text,")


def linked(src: Path) -> None:
    path = src / "indiana_projections.csv"
    path.rename(src.parent / "outside.csv")
    path.symlink_to(src.parent / "outside.csv")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nul_byte, "line 2: a NUL byte"),
        (long_line, "line 6: longer than 4 MiB"),
        (lost_column, "no column findings"),
        (linked, "a link that leads out of"),
    ],
)
def test_hostile_table_refuses_the_source(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    src = kaggle(tmp_path / "src", [1, 2])
    spoil(src)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=message):
        run_import(src, tmp_path / "d", skip_bad=True)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_one_table_alone_is_no_known_form(tmp_path: Path) -> None:
    src = kaggle(tmp_path / "src", [1])
    (src / "indiana_projections.csv").unlink()
    with pytest.raises(DataError, match="not a known form"):
        run_import(src, tmp_path / "d")


def test_file_that_is_no_archive_is_a_wrong_usage(tmp_path: Path) -> None:
    film(tmp_path / "a.png")
    with pytest.raises(UsageError, match="no folder and no archive"):
        run_import(tmp_path / "a.png", tmp_path / "d")
