"""Importing IU X-Ray from Open-i's XML reports: sections, films, splits, and every kind of bad report."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data_sources import film, item, refused, report, run_import
from rrg.data.iu_xray import FORMS
from rrg.data.study import SPLITS


def test_open_i_form(tmp_path: Path) -> None:
    src = tmp_path / "src"
    report(src, 1, findings="Mild\n   edema &amp; effusion.")
    done = run_import(src, tmp_path / "d")
    study = done.folder.studies[0]
    assert done.form == FORMS["open-i"]
    assert (study.id, study.patient, study.indication, study.impression) == ("CXR1", "CXR1", "Cough", "Normal chest.")
    assert study.findings == "Mild edema & effusion."
    assert study.file_names == ["images/CXR1_IM-0001-1001.png", "images/CXR1_IM-0001-2001.png"]
    assert study.views == []


@pytest.mark.parametrize("folder", [".", "NLMCXR_reports"])
def test_open_i_reports_may_lie_in_another_folder(tmp_path: Path, folder: str) -> None:
    src = tmp_path / "src"
    path = report(src, 1)
    (src / folder).mkdir(exist_ok=True)
    path.rename(src / folder / "1.xml")
    assert [study.id for study in run_import(src, tmp_path / "d").folder.studies] == ["CXR1"]


def test_open_i_split_is_seven_one_two_and_seeded(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for number in range(20):
        report(src, number, films=["1001"])
    first, again, other = (run_import(src, tmp_path / f"d{i}", seed=seed) for i, seed in enumerate([0, 0, 1]))
    assert {split: first.folder.card["counts"][split] for split in SPLITS} == {"train": 14, "val": 2, "test": 4}
    assert first.folder.studies == again.folder.studies
    assert first.folder.studies != other.folder.studies
    assert "seed 0" in first.folder.card["split"]


def test_open_i_takes_r2gens_split_where_it_lies_beside(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for number in (1, 2, 3):
        report(src, number)
    lists = {"train": [item(2)], "val": [], "test": [item(1, "test")]}
    (src / "annotation.json").write_text(json.dumps(lists))
    done = run_import(src, tmp_path / "d")
    assert done.form == FORMS["open-i"]
    assert {study.id: study.split for study in done.folder.studies} == {"CXR1": "test", "CXR2": "train"}
    assert "1 studies outside its selection are left out" in done.split


def test_incomplete_report_outside_r2gens_selection_is_no_problem(tmp_path: Path) -> None:
    src = tmp_path / "src"
    report(src, 1)
    report(src, 2, findings="", films=[])
    (src / "annotation.json").write_text(json.dumps({"train": [item(1)], "val": [], "test": []}))
    assert run_import(src, tmp_path / "d").problems == []


def test_study_that_r2gen_lists_without_a_report_is_listed(tmp_path: Path) -> None:
    src = tmp_path / "src"
    report(src, 1)
    (src / "annotation.json").write_text(json.dumps({"train": [item(1), item(2)], "val": [], "test": []}))
    assert refused(src, tmp_path / "d") == ["annotation.json train[1]: study 'CXR2' has no report in this source"]


def no_findings(src: Path) -> None:
    report(src, 2, findings=" ")


def no_film(src: Path) -> None:
    report(src, 2, films=[])


def film_absent(src: Path) -> None:
    (src / "CXR2_IM-0002-1001.png").unlink()


def not_xml(src: Path) -> None:
    (src / "ecgen-radiology/2.xml").write_text("<eCitation><uId")


def foreign_uid(src: Path) -> None:
    path = src / "ecgen-radiology/2.xml"
    path.write_text(path.read_text().replace('"CXR2"', '"../../x"'))


def same_uid(src: Path) -> None:
    path = src / "ecgen-radiology/2.xml"
    path.write_text(path.read_text().replace('"CXR2"', '"CXR1"'))


def film_outside(src: Path) -> None:
    film(src.parent / "outside.png")
    film_absent(src)
    (src / "CXR2_IM-0002-1001.png").symlink_to(src.parent / "outside.png")


def entity_bomb(src: Path, encoding: str = "utf-8") -> None:
    path = src / "ecgen-radiology/2.xml"
    entities = '<!ENTITY a "lol">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefghi", "bcdefghij", strict=True)
    )
    text = path.read_text().removeprefix('<?xml version="1.0" encoding="utf-8"?>').replace("Clear.", "&j;")
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [{entities}]>{text}'.encode(encoding))


def entity_bomb_utf16(src: Path) -> None:
    entity_bomb(src, "utf-16")


def outside_entity(src: Path) -> None:
    path = src / "ecgen-radiology/2.xml"
    head, body = path.read_text().split("?>", 1)
    dtd = '?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    path.write_text(head + dtd + body.replace("Clear.", "&e;"))


def huge_xml(src: Path) -> None:
    os.truncate(src / "ecgen-radiology/2.xml", (1 << 20) + 1)


BAD_REPORTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no findings": (no_findings, "study CXR2 has no findings"),
    "no film": (no_film, "study CXR2 names no film"),
    "film absent": (film_absent, "film CXR2_IM-0002-1001 is missing"),
    "film outside": (film_outside, "leads out of"),
    "not XML": (not_xml, "not XML"),
    "foreign uid": (foreign_uid, "no <uId"),
    "same uid": (same_uid, "already at ecgen-radiology/1.xml"),
    "entity bomb": (entity_bomb, "declares a DTD or entities"),
    "entity bomb in UTF-16": (entity_bomb_utf16, "declares a DTD or entities"),
    "outside entity": (outside_entity, "declares a DTD or entities"),
    "huge": (huge_xml, "larger than 1 MiB"),
}


@pytest.mark.parametrize("name", BAD_REPORTS)
def test_bad_report_is_listed_with_its_file(tmp_path: Path, name: str) -> None:
    spoil, message = BAD_REPORTS[name]
    src = tmp_path / "src"
    report(src, 1)
    report(src, 2)
    spoil(src)
    (problem,) = refused(src, tmp_path / "d")
    assert problem.startswith("ecgen-radiology/2.xml: ")
    assert message in problem
