"""Importing IU X-Ray from Open-i's XML reports: sections, films, splits, and every kind of bad report."""

import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

from data_sources import film, item, nlm, refused, report, run_import
from rrg.data.archives import Member, read
from rrg.data.importing import Entries
from rrg.data.iu_xray import FORMS
from rrg.data.iu_xray import read as read_source
from rrg.data.listing import listing
from rrg.data.open_i import read_reports, report_files
from rrg.data.study import SPLITS
from rrg.errors import DataError

IU_XRAY = Path(os.environ.get("RRG_IU_XRAY", Path(__file__).parents[2] / "shared/data/iu_xray"))


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


def test_an_import_of_nlms_form_says_that_the_first_film_may_be_the_lateral(tmp_path: Path) -> None:
    report(tmp_path / "src", 1)
    (note,) = run_import(tmp_path / "src", tmp_path / "d").notes
    assert note.startswith("1 studies do not say which film is the lateral")
    assert "image.views=1 takes the first" in note


def labelled(src: Path, *texts: tuple[str, str]) -> Path:
    """A report whose abstract has these labels and texts."""
    path = report(src, 1)
    abstract = "".join(f'<AbstractText Label="{label}">{text}</AbstractText>' for label, text in texts)
    whole = re.sub(r"<Abstract>.*</Abstract>", f"<Abstract>{abstract}</Abstract>", path.read_text(), flags=re.DOTALL)
    path.write_text(whole)
    return src


@pytest.mark.parametrize(
    ("texts", "findings"),
    [
        (["Clear lungs.", ""], "Clear lungs."),
        (["", "Clear lungs."], "Clear lungs."),
        (["Clear lungs.", "Normal heart."], "Clear lungs. Normal heart."),
        (["Clear lungs.", "nan", "Clear  lungs."], "Clear lungs."),
    ],
)
def test_a_label_that_stands_twice_loses_no_text(tmp_path: Path, texts: list[str], findings: str) -> None:
    labels = ["FINDINGS", "Findings:", "FINDINGS "]
    src = labelled(tmp_path / "src", *zip(labels, texts, strict=False), ("IMPRESSION", "Normal."))
    (entry,) = read_source(src, 0, None).entries.sound
    assert (entry.study.findings, entry.study.impression) == (findings, "Normal.")


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


NLM = {
    "NLM's PNG": ("", ".png"),
    "others' PNG": ("images/", ".dcm.png"),
    "NLM's DICOM": ("1/", ".dcm"),
}


@pytest.mark.parametrize("name", NLM)
def test_nlms_archives_are_read_as_they_are_downloaded(tmp_path: Path, name: str) -> None:
    src = tmp_path / "src"
    for number in (1, 2):
        report(src, number)
    contents = [(src / f"CXR1_IM-0001-{film}.png").read_bytes() for film in ("1001", "2001")]
    nlm(src, *NLM[name])
    found = read_source(src, 0, None)
    assert found.entries.problems == []
    assert found.form == FORMS["open-i"]
    first, second = found.entries.sound
    assert (first.where, second.where) == tuple(f"NLMCXR_reports.tgz/ecgen-radiology/{n}.xml" for n in (1, 2))
    for source, content, file_name in zip(first.sources, contents, first.study.file_names, strict=True):
        assert isinstance(source, Member)
        assert read(source) == content
        assert file_name == f"images/{source.name.rpartition('/')[2]}"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-3001.png"),
        ("CXR1_1_IM-0001-3001", "1_IM-0001-3001.dcm.png"),
        ("CXR10_IM-0002-1001", "10_IM-0002-1001.jpg"),
        ("CXR10_IM-0002-1001", "CXR10_IM-0002-1001.JPEG"),
        ("CXR10_IM-0002-1001-0001", "films/10/10_IM-0002-1001-0001.dcm"),
    ],
)
def test_film_is_found_by_its_id(tmp_path: Path, name: str, file: str) -> None:
    path = report(tmp_path, 1, films=[])
    path.write_text(path.read_text().replace("</eCitation>", f'<parentImage id="{name}"/></eCitation>'))
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    (entry,) = read_source(tmp_path, 0, None).entries.sound
    assert entry.sources == (tmp_path / file,)


def test_films_are_those_that_annotation_json_lists_by_id(tmp_path: Path) -> None:
    src = tmp_path / "src"
    report(src, 1, films=["2001", "1001", "1002"])
    (src / "CXR1_IM-0001-1002.png").unlink()
    listed = item(1, image_path=["1_IM-0001-1001.jpg", "1_IM-0001-2001.jpg"], views=["Frontal", "Lateral"])
    (src / "annotation.json").write_text(json.dumps({"train": [listed], "val": [], "test": []}))
    (study,) = run_import(src, tmp_path / "d").folder.studies
    assert study.file_names == ["images/CXR1_IM-0001-1001.png", "images/CXR1_IM-0001-2001.png"]
    assert study.views == ["frontal", "lateral"]


def test_unpacked_reports_and_films_come_before_packed_ones(tmp_path: Path) -> None:
    src = tmp_path / "src"
    report(src, 1)
    nlm(src)
    report(src, 1)
    (entry,) = read_source(src, 0, None).entries.sound
    assert entry.where == "ecgen-radiology/1.xml"
    assert all(isinstance(source, Path) for source in entry.sources)


def test_hostile_xml_in_an_archive_is_a_problem_of_its_report(tmp_path: Path) -> None:
    src = tmp_path / "src"
    report(src, 1)
    report(src, 2)
    entity_bomb(src)
    nlm(src)
    (problem,) = read_source(src, 0, None).entries.problems
    assert str(problem).startswith("NLMCXR_reports.tgz/ecgen-radiology/2.xml: the XML declares a DTD or entities")


def test_huge_xml_in_an_archive_refuses_it(tmp_path: Path) -> None:
    src = tmp_path / "src"
    report(src, 1)
    report(src, 2)
    huge_xml(src)
    nlm(src)
    with pytest.raises(DataError, match=r"NLMCXR_reports\.tgz: member ecgen-radiology/2\.xml has 1,048,577 bytes"):
        run_import(src, tmp_path / "d")
    assert list(tmp_path.iterdir()) == [src]


def test_hostile_archive_beside_sound_files_refuses_the_source(tmp_path: Path) -> None:
    src = tmp_path / "src"
    report(src, 1)
    with tarfile.open(src / "NLMCXR_png.tgz", "w:gz") as archive:
        archive.add(src / "CXR1_IM-0001-1001.png", "../../CXR1_IM-0001-1001.png")
    with pytest.raises(DataError, match="would lie outside the folder"):
        run_import(src, tmp_path / "d", skip_bad=True)
    assert list(tmp_path.iterdir()) == [src]


@pytest.mark.parametrize("name", ["films", "NLMCXR_png.tgz", "annotation.json"])
def test_link_out_of_the_source_refuses_it(tmp_path: Path, name: str) -> None:
    src, outside = tmp_path / "src", tmp_path / "outside"
    report(src, 1)
    if name == "films":
        outside.mkdir()
    else:
        outside.write_text('{"train": [], "val": [], "test": []}')
    (src / name).symlink_to(outside)
    with pytest.raises(DataError, match=f"{name}: a link that leads out of"):
        run_import(src, tmp_path / "d", skip_bad=True)
    assert {path.name for path in tmp_path.iterdir()} == {"src", "outside"}


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


def packaged_reports() -> Path | None:
    """The collection's reports as torchxrayvision ships them: a file of the distribution, which is never imported."""
    try:
        found = [file for file in files("torchxrayvision") or () if file.name == "NLMCXR_reports.tgz"]
    except PackageNotFoundError:
        return None
    return Path(str(found[0].locate())) if found else None


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of the whole collection, R2Gen's split, and its films' names on empty files."""
    reports = packaged_reports()
    if reports is None or not IU_XRAY.is_dir():
        pytest.skip("needs torchxrayvision installed, and the IU X-Ray folder: set RRG_IU_XRAY")
    src = tmp_path_factory.mktemp("real")
    shutil.copy(reports, src)
    shutil.copy(IU_XRAY / "annotation.json", src)
    (src / "films").mkdir()
    for path in (IU_XRAY / "images").iterdir():
        (src / "films" / path.name).touch()
    return src


def test_the_collection_has_3955_reports(real: Path) -> None:
    entries, found = Entries(), report_files(listing(real))
    reports = read_reports(real, found, entries)
    assert len(reports) == len({report.uid for report in reports}) == 3955
    assert entries.problems == []
    assert sum(len(report.films) for report in reports) == 7470


def test_the_2955_findings_are_those_of_annotation_json(real: Path) -> None:
    found = read_source(real, 0, None)
    assert found.entries.problems == []
    assert found.split == "R2Gen's, from annotation.json; 1000 studies outside its selection are left out"
    annotation = json.loads((real / "annotation.json").read_text())
    expected = {item["uid"]: item for split in SPLITS for item in annotation[split]}
    assert len(found.entries.sound) == len(expected) == 2955
    exact = 0
    for entry in found.entries.sound:
        item = expected[entry.study.id]
        assert entry.study.findings == " ".join(item["report"].split())
        exact += entry.study.findings == item["report"]
        assert entry.study.split == item["split"]
        assert entry.study.views == [view.lower() for view in item["views"]]
        assert entry.study.file_names == [f"images/{name}" for name in item["image_path"]]
    assert exact == 2954  # CXR1600 has two runs of two spaces


def test_studies_of_the_collection_import(real: Path, tmp_path: Path) -> None:
    src = tmp_path / "src"
    (src / "films").mkdir(parents=True)
    shutil.copy(real / "NLMCXR_reports.tgz", src)
    lists = json.loads((real / "annotation.json").read_text())
    few = {split: lists[split][:4] for split in SPLITS}
    (src / "annotation.json").write_text(json.dumps(few))
    chosen = [entry for split in SPLITS for entry in few[split]]
    for entry in chosen:
        for name in entry["image_path"]:
            shutil.copy(IU_XRAY / "images" / name, src / "films")
    done = run_import(src, tmp_path / "d")
    assert done.folder.card["counts"] == {"train": 4, "val": 4, "test": 4, "films": 24, "patients": 12}
    reports = {entry["uid"]: entry["report"] for entry in chosen}
    assert {study.id: study.findings for study in done.folder.studies} == reports
