"""MIMIC-CXR's importer on bad sources: a bad row, report, film or item is a problem; the rest is refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mimic_source as source
from mimic_source import JPG, REPORTS, Case, beside, cases, jpg_source, r2gen
from rrg.data.importing import import_collection
from rrg.data.mimic_cxr import read
from rrg.errors import DataError, UsageError


def refused(src: Path, dest: Path) -> str:
    with pytest.raises(DataError) as caught:
        import_collection("mimic-cxr", src, dest, progress=False)
    assert not dest.exists()
    return str(caught.value)


def without_report(src: Path) -> None:
    (src / "files" / f"{cases()[0].folder}.txt").unlink()


def report_of_latin_1(src: Path) -> None:
    (src / "files" / f"{cases()[0].folder}.txt").write_bytes(b" FINDINGS: \xe9")


def huge_report(src: Path) -> None:
    os.truncate(src / "files" / f"{cases()[0].folder}.txt", (1 << 20) + 1)


def report_linked_out(src: Path) -> None:
    path = src / "files" / f"{cases()[0].folder}.txt"
    shutil.move(path, src.parent / "outside.txt")
    path.symlink_to(src.parent / "outside.txt")


def report_is_a_pipe(src: Path) -> None:
    without_report(src)
    os.mkfifo(src / "files" / f"{cases()[0].folder}.txt")


def without_film(src: Path) -> None:
    (src / "files" / cases()[0].folder / f"{cases()[0].film(1)}.jpg").unlink()


def study_linked_out(src: Path) -> None:
    folder = src / "files" / cases()[0].folder
    shutil.move(folder, src.parent / "outside")
    folder.symlink_to(src.parent / "outside")


def table_line(src: Path, old: str, new: str, kind: str = "split") -> None:
    path = src / f"mimic-cxr-2.0.0-{kind}.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


FILM = cases()[0].film(0)
OTHERS = {"56699142", "53189527", "57375967", "54205396"}
BAD: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no report": (without_report, "missing report", "s50414267.txt is missing"),
    "report not UTF-8": (report_of_latin_1, "malformed entry", "not UTF-8 (byte 0xe9 at 11)"),
    "huge report": (huge_report, "malformed entry", "at most 1 MiB"),
    "report linked out": (report_linked_out, "unsafe path", "leads out of"),
    "report is a pipe": (report_is_a_pipe, "malformed entry", "no plain file"),
    "no film": (without_film, "missing film", f"{cases()[0].film(1)}.jpg is missing"),
    "study linked out": (study_linked_out, "unsafe path", "leads out of"),
    "hostile film id": (lambda src: table_line(src, FILM, "../../../etc/passwd"), "malformed entry", "are no ids"),
    "hostile study id": (lambda src: table_line(src, "50414267", "../50414267"), "malformed entry", "are no ids"),
    "foreign digits": (lambda src: table_line(src, "10000032", "1000003٢"), "malformed entry", "are no ids"),
    "unknown split": (lambda src: table_line(src, ",train", ",dev"), "malformed entry", "split 'dev' is none of"),
    "two splits": (lambda src: table_line(src, ",train", ",test"), "study in two splits", "is in test and in train"),
    "two patients": (lambda src: table_line(src, "10000032", "10000033"), "study of two patients", "10000033"),
    "cells": (lambda src: table_line(src, ",train", ",train,x"), "malformed entry", "5 cells under 4 columns"),
    "no split": (
        lambda src: source.split(src, cases()[1:], ".csv"), "no split", "study 50414267 is in no split",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_entry_is_a_problem_and_the_others_stay(tmp_path: Path, name: str) -> None:
    spoil, kind, message = BAD[name]
    beside(tmp_path / "src")
    spoil(tmp_path / "src")
    reading = read(tmp_path / "src", 0, "")
    [problem] = reading.entries.problems
    assert (problem.kind, message in problem.text) == (kind, True), problem
    assert {entry.study.id for entry in reading.entries.sound} >= OTHERS
    assert message in refused(tmp_path / "src", tmp_path / "d")


def bad_archive_member(src: Path) -> None:
    source.report_archive(src / REPORTS / "mimic-cxr-reports.zip", [*cases(), Case("10000032", "50414267", report="x")])


def nul_in_a_table(src: Path) -> None:
    source.table(src / JPG / "mimic-cxr-2.0.0-split.csv.gz", source.SPLIT, [["\0", "1", "1", "train"]])


def column_missing(src: Path) -> None:
    source.table(src / JPG / "mimic-cxr-2.0.0-metadata.csv.gz", source.METADATA[1:], [])


def no_films(src: Path) -> None:
    shutil.rmtree(src / JPG / "files")


def films_linked_out(src: Path) -> None:
    shutil.move(src / JPG / "files", src.parent / "outside")
    (src / JPG / "files").symlink_to(src.parent / "outside")


def no_reports(src: Path) -> None:
    (src / REPORTS / "mimic-cxr-reports.zip").unlink()


def cut_table(src: Path) -> None:
    path = src / JPG / "mimic-cxr-2.0.0-metadata.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])


UNREADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no films": (no_films, "films: files/p10/p10000032/s50414267"),
    "films linked out": (films_linked_out, "symbolic links are not followed"),
    "no reports": (no_reports, "reports: mimic-cxr-reports.zip"),
    "NUL byte": (nul_in_a_table, "a NUL byte"),
    "column missing": (column_missing, "no column dicom_id"),
    "cut table": (cut_table, "cannot be read"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_source_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    spoil, message = UNREADABLE[name]
    spoil(jpg_source(tmp_path / "src"))
    assert message in refused(tmp_path / "src", tmp_path / "d")


def test_a_member_that_stands_twice_in_the_reports_archive_is_refused(tmp_path: Path) -> None:
    src = jpg_source(tmp_path / "src")
    with pytest.warns(UserWarning, match="Duplicate name"):
        bad_archive_member(src)
    with pytest.raises(DataError, match="stands in it twice"):
        read(src, 0, "")


def test_a_report_that_the_archive_lacks_is_a_problem(tmp_path: Path) -> None:
    src = jpg_source(tmp_path / "src")
    source.report_archive(src / REPORTS / "mimic-cxr-reports.zip", cases()[1:])
    [problem] = read(src, 0, "").entries.problems
    assert (problem.kind, problem.where) == ("missing report", cases()[0].folder)


def test_a_study_folder_without_a_film_is_a_problem(tmp_path: Path) -> None:
    source.films(tmp_path / "files", cases()[1:])
    source.reports(tmp_path / "files", cases())
    (tmp_path / "files" / cases()[0].folder).mkdir()
    [problem] = read(tmp_path, 0, "").entries.problems
    assert (problem.kind, problem.where) == ("no film", cases()[0].folder)


def test_src_that_is_no_folder_or_holds_too_many_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="a file, not a folder"):
        read(tmp_path / "file", 0, "")
    monkeypatch.setattr("rrg.data.mimic_layout.MAX_FOLDERS", 3)
    with pytest.raises(DataError, match="more than 3 folders"):
        read(jpg_source(tmp_path / "src"), 0, "")


BAD_ITEMS: dict[str, tuple[dict[str, Any], str]] = {
    "no report": ({"report": " "}, "has an empty report"),
    "other split": ({"split": "test"}, "stands in train but says 'test'"),
    "traversal": ({"image_path": ["../../../etc/passwd"]}, "is no film of study 50414267"),
    "another's film": ({"image_path": [f"{cases()[1].folder}/{FILM}.jpg"]}, "is no film of study 50414267"),
    "missing film": ({"image_path": [f"{cases()[0].folder}/{cases()[1].film(0)}.jpg"]}, "is missing"),
    "no image": ({"image_path": []}, "at least 1 item"),
    "no film": ({"image_path": "a.jpg"}, "is no film of study 50414267"),
    "a number": ({"image_path": 3}, "image_path: Input should be a valid list"),
}


@pytest.mark.parametrize("name", BAD_ITEMS)
def test_a_bad_item_of_r2gens_file_is_a_problem(tmp_path: Path, name: str) -> None:
    changes, message = BAD_ITEMS[name]
    [problem] = read(r2gen(tmp_path, **changes), 0, "").entries.problems
    assert problem.where == "mimic_annotation.json train[0]"
    assert message in problem.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not JSON"),
        ("[]", "the lists train, val, test"),
        ('{"train": [{"id": "CXR1_IM-0001"}], "val": [], "test": []}', "not MIMIC-CXR's: none of its items"),
    ],
)
def test_an_annotation_file_that_is_not_r2gens_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (r2gen(tmp_path) / "mimic_annotation.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path, 0, "")
