"""Importing MIMIC-CXR from PhysioNet's layouts: pieces, tables, reports, R2Gen's file."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mimic_source as source
from data_sources import EdemaLabeler
from mimic_source import JPG, REPORTS, Case, beside, cases, jpg_source, r2gen
from rrg.data.importing import Import, Reading, import_collection
from rrg.data.mimic_cxr import _date, read
from rrg.data.study import Study
from rrg.errors import UsageError

IDS = ["56699142", "50414267", "53189527", "57375967", "54205396"]
"""The studies of `cases` that have findings, in order of patient and date."""


def run_import(src: Path, dest: Path, **options: Any) -> Import:
    return import_collection("mimic-cxr", src, dest, **{"labeler": "given", "progress": False, **options})


def studies(reading: Reading) -> list[Study]:
    assert reading.entries.problems == []
    return [entry.study for entry in reading.entries.sound]


def test_the_layout_that_wget_leaves(tmp_path: Path) -> None:
    done = run_import(jpg_source(tmp_path / "src"), tmp_path / "d")
    assert [study.id for study in done.folder.studies] == IDS
    assert [study.split for study in done.folder.studies] == ["train", "train", "train", "val", "test"]
    assert done.form == (
        f"JPG films in {JPG}/files; reports in {REPORTS}/mimic-cxr-reports.zip; "
        f"tables chexpert, metadata, negbio, split in {JPG}"
    )
    assert "1 studies without a findings section are left out" in done.notes[0]
    assert done.folder.card["left_out"] == {"no findings": 1}
    assert done.notes[1].startswith(
        "films of studies with findings: 5 train, 2 val, 2 test; R2Gen's selection has 270,790"
    )


def test_a_study_has_all_films_frontal_first_with_its_sections(tmp_path: Path) -> None:
    src = jpg_source(tmp_path / "src")
    case = cases()[0]
    study = studies(read(src, 0, ""))[1]
    assert study.file_names == [f"images/{case.folder}/{case.film(n)}.jpg" for n in (1, 0)]
    assert (study.views, study.positions) == (["PA", "LATERAL"], ["erect", "erect"])
    assert (study.patient, study.date) == ("10000032", "2180-05-06T21:30:14")
    assert study.findings == "Mild edema in film 50414267. Seen by ___."
    assert (study.impression, study.indication, study.comparison) == ("No acute process.", "___F with cough", "None.")
    done = run_import(src, tmp_path / "d")
    assert (
        done.folder.film_path(study).read_bytes()
        == (src / JPG / "files" / case.folder / f"{case.film(1)}.jpg").read_bytes()
    )


def test_films_of_a_view_keep_the_order_of_the_metadata(tmp_path: Path) -> None:
    case = Case("10000032", "50414267", [("LL", ""), ("AP", ""), ("PA", ""), ("AP", ""), ("", "")])
    [study] = studies(read(jpg_source(tmp_path / "src", [case]), 0, ""))
    assert [Path(name).stem for name in study.file_names] == [case.film(n) for n in (2, 1, 3, 0, 4)]
    assert study.views == ["PA", "AP", "AP", "LL", ""]
    assert study.positions == []


def unpacked(src: Path) -> None:
    """The reports' archive unpacked where it lay."""
    jpg_source(src)
    (src / REPORTS / "mimic-cxr-reports.zip").unlink()
    source.reports(src / REPORTS / "mimic-cxr-reports/files", cases())


@pytest.mark.parametrize("layout", [beside, unpacked])
def test_other_layouts_read_the_same(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    layout(tmp_path / "src")
    expected = studies(read(jpg_source(tmp_path / "wget"), 0, None))
    assert studies(read(tmp_path / "src", 0, None)) == expected


def test_the_search_does_not_enter_patients_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Case(f"1{n:07}", f"5{n:07}") for n in range(60)]
    seen, scan = [], os.scandir
    monkeypatch.setattr("rrg.data.mimic_layout.os.scandir", lambda path: (seen.append(path), scan(path))[1])
    assert len(studies(read(jpg_source(tmp_path / "src", many), 0, ""))) == 60
    assert len(seen) < 30


def test_labels_are_taken_by_name(tmp_path: Path) -> None:
    src = jpg_source(tmp_path / "src")
    for labeler, name in [("given", "chexpert"), ("given:negbio", "negbio")]:
        done = run_import(src, tmp_path / name, labeler=labeler)
        assert done.folder.card["labels"] == f"mimic-cxr-2.0.0-{name}.csv.gz of MIMIC-CXR-JPG"
        present = {key: value for key, value in done.folder.studies[0].labels.items() if value is not None}
        assert present == {"Lung Opacity": 1, "Fracture": -1, "Edema": 0}
    ours = run_import(src, tmp_path / "ours", labeler=EdemaLabeler()).folder
    assert (ours.card["labels"], ours.studies[0].labels["Edema"]) == ("edema", 1)


def test_studies_that_the_label_table_lacks_are_labelled_here(tmp_path: Path) -> None:
    src = jpg_source(tmp_path / "src")
    source.labels(src / JPG, cases()[1:])
    done = run_import(src, tmp_path / "d")
    assert "1 studies are not in mimic-cxr-2.0.0-chexpert.csv.gz and are labelled here" in done.notes
    assert done.folder.card["labels"].endswith("of MIMIC-CXR-JPG, else chexpert")


@pytest.mark.parametrize(("name", "message"), [("rad", "chexpert and negbio"), ("negbio", "no mimic-cxr-2.0.0-negbio")])
def test_labels_that_are_not_there_are_refused(tmp_path: Path, name: str, message: str) -> None:
    beside(tmp_path / "src")
    with pytest.raises(UsageError, match=message):
        run_import(tmp_path / "src", tmp_path / "d", labeler=f"given:{name}")
    assert read(tmp_path / "src", 0, "").labels is None


def test_without_a_split_table_one_is_drawn_and_said(tmp_path: Path) -> None:
    many = [Case(f"1{n // 2:07}", f"5{n:07}") for n in range(40)]
    src = jpg_source(tmp_path / "src", many)
    (src / JPG / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    drawn = [read(src, seed, None) for seed in (0, 0, 1)]
    splits = [[study.split for study in studies(reading)] for reading in drawn]
    assert splits[0] == splits[1] != splits[2]
    assert [splits[0].count(name) for name in ("train", "val", "test")] == [28, 4, 8]
    assert all(splits[0][n] == splits[0][n + 1] for n in range(0, 40, 2))
    assert "drawn here, 7:1:2 by patient, seed 0; not the published one" in drawn[0].split


def test_without_tables_the_films_folders_are_read(tmp_path: Path) -> None:
    source.films(tmp_path / "files", cases())
    source.reports(tmp_path / "files", cases())
    reading = read(tmp_path, 0, "")
    assert sorted(study.id for study in studies(reading)) == sorted(IDS)
    assert {len(study.file_names) for study in studies(reading)} == {1, 2}
    assert all(study.views == [] and study.date == "" for study in studies(reading))
    assert "no mimic-cxr-2.0.0-metadata.csv: views, positions and dates are not known" in reading.notes


@pytest.mark.parametrize(
    ("day", "time", "expected"),
    [
        ("21800506", "213014.531", "2180-05-06T21:30:14"),
        ("21800506", "92045.1", "2180-05-06T09:20:45"),
        ("21800506", "45.0", "2180-05-06T00:00:45"),
        ("21800506", "", "2180-05-06T00:00:00"),
        ("21800506", "996199", "2180-05-06"),
        ("21801306", "92045", ""),
        ("", "92045", ""),
    ],
)
def test_dates_and_times(day: str, time: str, expected: str) -> None:
    assert _date(day, time) == expected


@given(
    st.one_of(st.text(max_size=12), st.from_regex(r"\A2\d{7}\Z")),
    st.one_of(st.text(max_size=12), st.from_regex(r"\A\d{1,6}(\.\d*)?\Z")),
)
def test_whatever_stands_there_a_date_is_iso_or_empty(day: str, time: str) -> None:
    assert re.fullmatch(r"(\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d)?)?", _date(day, time), re.ASCII)


def test_with_r2gens_file_each_item_is_a_study_of_one_film(tmp_path: Path) -> None:
    reading = read(r2gen(tmp_path), 0, "")
    found = studies(reading)
    assert len(found) == sum(len(case.films) for case in cases())
    case = cases()[0]
    one = next(study for study in found if study.id == case.film(0))
    assert one.findings == "Lungs of\n 50414267 are clear."
    assert one.file_names == [f"images/{case.folder}/{case.film(0)}.jpg"]
    assert (one.patient, one.views, one.date) == ("10000032", ["LATERAL"], "2180-05-06T21:30:14")
    assert [study.date for study in found if study.patient == case.patient] == sorted(
        study.date for study in found if study.patient == case.patient
    )
    assert reading.split == "as given in mimic_annotation.json"
    published = "R2Gen's selection has 270,790 train, 2,130 val, 3,858 test"
    assert reading.notes == [f"items of mimic_annotation.json: 5 train, 2 val, 4 test; {published}"]


@pytest.mark.parametrize(
    "root", ["files/", "./files/", "mimic-cxr-jpg/2.0.0/files/", "/srv/mimic/files/", "D:\\mimic\\"]
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".dcm", ""])
def test_paths_of_r2gens_file_as_others_write_them(tmp_path: Path, root: str, suffix: str) -> None:
    case = cases()[0]
    path = f"{root}{case.folder}/{case.film(0)}{suffix}"
    changes = {"image_path": path, "study_id": f"s{case.study}", "subject_id": f"p{case.patient}"}
    reading = read(r2gen(tmp_path, **changes), 0, "")
    assert reading.entries.problems == []
    one = next(study for study in studies(reading) if study.id == case.film(0))
    assert one.file_names == [f"images/{case.folder}/{case.film(0)}.jpg"]


def test_other_names_of_r2gens_lists(tmp_path: Path) -> None:
    path = r2gen(tmp_path) / "mimic_annotation.json"
    lists = json.loads(path.read_text())
    path.unlink()
    (tmp_path / "mimic_annotation_all.json").write_text(json.dumps({"test": lists["test"], "validate": lists["val"]}))
    reading = read(tmp_path, 0, "")
    assert {study.split for study in studies(reading)} == {"val", "test"}
    assert reading.notes[0] == "in mimic_annotation_all.json, 'validate' = val, no list of train"


def test_counts_that_equal_the_published_ones_are_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrg.data.mimic_cxr.R2GEN", {"train": 5, "val": 2, "test": 4})
    assert read(r2gen(tmp_path), 0, "").notes == ["items of mimic_annotation.json: as R2Gen's"]


def test_labels_of_r2gens_items_are_their_studys(tmp_path: Path) -> None:
    r2gen(tmp_path)
    source.labels(tmp_path, cases())
    assert {study.labels["Lung Opacity"] for study in studies(read(tmp_path, 0, ""))} == {1}


def test_dicom_films_with_the_tables(tmp_path: Path) -> None:
    source.films(tmp_path / "files", cases(), ".dcm")
    source.reports(tmp_path / "files", cases())
    source.metadata(tmp_path, cases())
    source.split(tmp_path, cases())
    reading = read(tmp_path, 0, "")
    assert reading.form.startswith("DICOM films in files; ")
    assert [study.id for study in studies(reading)] == IDS
    assert {Path(name).suffix for study in studies(reading) for name in study.file_names} == {".dcm"}


def test_dicom_films_without_a_metadata_table(tmp_path: Path) -> None:
    source.films(tmp_path / "files", cases(), ".dcm")
    source.reports(tmp_path / "files", cases())
    found = {study.id: study for study in studies(read(tmp_path, 0, ""))}
    assert found.keys() == set(IDS)
    assert found["50414267"].views == ["PA", "LATERAL"]
    assert found["50414267"].date == "2180-05-06T21:30:14"
    assert found["53189527"].positions == ["recumbent"]
