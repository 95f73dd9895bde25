"""Importing CheXpert Plus: studies from films, copies of reports, splits, labels, films in folders and archives."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from chexpert_source import annotation, chexpert, labels, packed, row, table
from data_sources import EdemaLabeler
from rrg.data.archives import Member, read
from rrg.data.attach import attach_phrases
from rrg.data.chexpert_plus import read as read_source
from rrg.data.importing import Import, Reading, import_collection
from rrg.data.study import SPLITS, Study
from rrg.errors import DataError, UsageError


def imported(src: Path, labeler: Any = None, **options: Any) -> Import:
    labeler = labeler or EdemaLabeler()
    return import_collection("chexpert-plus", src, src.parent / "d", labeler=labeler, progress=False, **options)


def reading(src: Path, seed: int = 0, given: str | None = None) -> Reading:
    return read_source(src, seed, given)


def studies(found: Reading) -> dict[str, Study]:
    assert found.entries.problems == []
    return {entry.study.id: entry.study for entry in found.entries.sound}


def test_study_has_all_its_films_frontal_first(tmp_path: Path) -> None:
    rows = [row(42142, 5, "view2_lateral"), row(42142, 5, "view1_frontal"), row(42142, 5, "view3_frontal")]
    done = imported(chexpert(tmp_path / "src", rows))
    (study,) = done.folder.studies
    assert (study.id, study.patient, study.date) == ("patient42142_study5", "patient42142", "")
    names = ["view1_frontal", "view3_frontal", "view2_lateral"]
    assert study.file_names == [f"images/patient42142/study5/{name}.png" for name in names]
    assert study.views == ["frontal", "frontal", "lateral"]
    assert (study.findings, study.impression) == ("Clear lungs 42142-5.", "1. Normal. 2. No change.")
    assert (study.history, study.comparison) == ("Cough, fever.", "None.")


def test_copies_of_a_report_that_differ_are_counted_and_the_first_films_taken(tmp_path: Path) -> None:
    rows = [
        row(1, 1, "view2_lateral", findings="Effusion since 3/4/12."),
        row(1, 1, "view1_frontal", findings="Effusion since 5/6/11."),
        row(2, 1),
        row(2, 1, "view2_lateral"),
    ]
    found = reading(chexpert(tmp_path / "src", rows))
    assert studies(found)["patient00001_study1"].findings == "Effusion since 5/6/11."
    assert "1 studies have copies of their report that differ: the first film's is taken" in found.notes


def test_studies_without_findings_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        row(1, 1),
        row(1, 2, findings=" \n"),
        row(2, 1, findings=""),
        row(3, 1, findings=""),
        row(3, 1, "view2_lateral"),
    ]
    found = reading(chexpert(tmp_path / "src", rows))
    assert studies(found).keys() == {"patient00001_study1", "patient00003_study1"}
    assert "2 studies without findings are left out, as published work does" in found.notes


def test_studies_of_a_patient_stand_in_the_order_of_their_reports(tmp_path: Path) -> None:
    orders = {2: "10", 1: "9", 3: "2.0"}
    rows = [row(7, study, patient_report_date_order=order) for study, order in orders.items()] + [row(6, 4)]
    found = studies(reading(chexpert(tmp_path / "src", rows)))
    assert list(found) == ["patient00006_study4", *(f"patient00007_study{study}" for study in (3, 1, 2))]


def test_split_is_drawn_by_patient_and_seeded(tmp_path: Path) -> None:
    src = chexpert(tmp_path / "src", [row(patient, study) for patient in range(20) for study in (1, 2)])
    first, again, other = (reading(src, seed) for seed in (0, 0, 1))
    split = {name: study.split for name, study in studies(first).items()}
    assert [list(split.values()).count(name) for name in SPLITS] == [28, 4, 8]
    assert all(split[f"patient{n:05d}_study1"] == split[f"patient{n:05d}_study2"] for n in range(20))
    assert studies(first) == studies(again) != studies(other)
    assert first.split == "drawn here, 7:1:2 by patient, seed 0 (the collection has none; not CXPMRG-Bench's)"


def test_split_of_the_benchmark_is_taken_where_it_lies_beside(tmp_path: Path) -> None:
    rows = [
        row(1, 1),
        row(2, 1),
        row(2, 2),
        row(3, 1),
        row(4, 1),
        row(4, 1, "view2_lateral"),
        row(5, 1),
        row(6, 1, findings=""),
    ]
    src = chexpert(tmp_path / "src", rows)
    path = "train/patient0000{}/study{}/view{}.{}".format
    frontal, lateral = "1_frontal", "2_lateral"
    annotation(
        src,
        train=[path(1, 1, frontal, "png"), path(2, 1, frontal, "jpg"), path(4, 1, frontal, "png")],
        val=[f"PNG/{path(2, 2, frontal, 'png')}"],
        test=[path(3, 1, frontal, "png"), path(4, 1, lateral, "png"), path(6, 1, frontal, "png")],
    )
    found = reading(src)
    split = {name: study.split for name, study in studies(found).items()}
    assert list(split.values()) == ["train", "train", "val", "test", "test"]
    assert found.split == (
        "CXPMRG-Bench's, from annotation.json; 1 studies with findings outside its selection are left out"
    )
    for note in (
        "annotation.json lists 3/1/3 films, CXPMRG-Bench has 40,463/5,780/11,562",
        "1 studies that annotation.json lists have no findings in the table, and are left out",
        "1 studies have films in several of its splits: each is kept in test, else in val",
        "1 of 5 patients have studies in several of its splits",
    ):
        assert note in found.notes


@pytest.mark.parametrize("path", ["train/patient00009/study1/view1_frontal.png", "../../etc/passwd", ""])
def test_film_of_the_split_that_the_table_lacks_is_a_problem(tmp_path: Path, path: str) -> None:
    src = chexpert(tmp_path / "src", [row(1, 1)])
    annotation(src, train=["train/patient00001/study1/view1_frontal.png", path])
    (problem,) = reading(src).entries.problems
    assert str(problem).startswith("annotation.json train[1]: image_path ")


def test_labels_are_chexberts_on_the_findings_else_ours(tmp_path: Path) -> None:
    src = chexpert(tmp_path / "src", [row(1, 1), row(2, 1)])
    labels(src, "findings", {row(1, 1)["path_to_image"]: {"Edema": -1.0, "Fracture": 1.0}})
    labels(src, "impression", {row(1, 1)["path_to_image"]: {"Edema": 0.0}})
    done = imported(src, "given")
    first, second = done.folder.studies
    assert (first.labels["Edema"], first.labels["Fracture"], first.labels["Pneumonia"]) == (-1, 1, None)
    assert second.labels["Fracture"] is None
    assert done.folder.card["labels"] == "CheXbert's of CheXpert Plus, on the findings, else chexpert"
    assert studies(reading(src, given="impression"))["patient00001_study1"].labels["Edema"] == 0
    assert [entry.labelled for entry in reading(src, given=None).entries.sound] == [False, False]


def test_labels_that_are_not_there_are_a_wrong_usage(tmp_path: Path) -> None:
    src = chexpert(tmp_path / "src", [row(1, 1)])
    assert [entry.labelled for entry in reading(src, given="").entries.sound] == [False]
    labels(src, "impression", {})
    with pytest.raises(UsageError, match="no labels 'report'; chexbert_labels/ has impression"):
        reading(src, given="report")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path_to_image": "a"}', "line 2: no ['Atelectasis', "),
        ('{"path": "a"}', "line 2: no path_to_image"),
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not an object but list"),
    ],
)
def test_line_that_has_no_labels_is_refused(tmp_path: Path, line: str, message: str) -> None:
    src = chexpert(tmp_path / "src", [row(1, 1)])
    path = labels(src, "findings", {row(1, 1)["path_to_image"]: {}})
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match="are not CheXbert's labels") as caught:
        reading(src, given="")
    assert caught.value.problems[0].startswith(message)


@pytest.mark.parametrize(
    ("below", "suffix"),
    [("PNG", ".png"), ("PNG/PNG", ".png"), (".", ".jpg"), ("DICOM/Uncompressed", ".dcm"), ("chunk_0/PNG", ".png")],
)
def test_films_are_found_in_the_folders_of_the_release(tmp_path: Path, below: str, suffix: str) -> None:
    src = table(tmp_path / "src", [row(1, 1)]).parent
    path = src / below / f"train/patient00001/study1/view1_frontal{suffix}"
    path.parent.mkdir(parents=True)
    path.touch()
    (entry,) = reading(src).entries.sound
    assert entry.sources == (path,)
    assert entry.study.file_names == [f"images/patient00001/study1/view1_frontal{suffix}"]


def test_png_is_taken_before_dicom_and_before_archives(tmp_path: Path) -> None:
    src = chexpert(tmp_path / "src", [row(1, 1), row(2, 1)])
    (src / "DICOM/train/patient00001/study1").mkdir(parents=True)
    (src / "DICOM/train/patient00001/study1/view1_frontal.dcm").touch()
    packed(src, "png_chexpert_plus_chunk_0.zip")
    chexpert(src, [row(1, 1), row(2, 1)])
    assert all(isinstance(source, Path) for entry in reading(src).entries.sound for source in entry.sources)


def test_zip_chunks_are_read_as_they_are_downloaded(tmp_path: Path) -> None:
    rows = [row(1, 1), row(1, 1, "view2_lateral"), row(2, 1)]
    src = chexpert(tmp_path / "src", rows)
    paths = list((src / "PNG").rglob("*.png"))
    content = {path.relative_to(src).as_posix(): path.read_bytes() for path in paths}
    packed(src, "PNG/png_chexpert_plus_chunk_0.zip", "PNG/png_chexpert_plus_chunk_1.zip")
    found = reading(src)
    sources = [source for entry in found.entries.sound for source in entry.sources]
    assert len(studies(found)) == 2
    assert len({source.archive for source in sources if isinstance(source, Member)}) == 2
    assert {source.name: read(source) for source in sources if isinstance(source, Member)} == content


def test_labels_in_an_archive_are_read(tmp_path: Path) -> None:
    src = chexpert(tmp_path / "src", [row(1, 1)])
    path = labels(src, "findings", {row(1, 1)["path_to_image"]: {"Edema": 1.0}})
    with zipfile.ZipFile(src / "chexbert_labels.zip", "w") as archive:
        archive.write(path, "chexbert_labels/findings_fixed.json")
    path.unlink()
    assert studies(reading(src, given=""))["patient00001_study1"].labels["Edema"] == 1


PATH = row(2, 1)["path_to_image"]
BAD_ROWS: dict[str, tuple[dict[str, str], str]] = {
    "no film's path": (row(2, 1, path_to_image="a.jpg"), "is not like train/patient1/study1"),
    "path that climbs": (row(2, 1, path_to_image=f"../{PATH}"), "is not like train/patient1/study1"),
    "another's path": (row(2, 1, deid_patient_id="patient00003"), "is not of patient 'patient00003'"),
    "no order": (row(2, 1, patient_report_date_order="nan"), "patient_report_date_order 'nan' is no number"),
    "film again": (row(1, 1), "is already at df_chexpert_plus_240401.csv line 2"),
    "no such film": (row(2, 1, "view9_frontal"), "film train/patient00002/study1/view9_frontal is missing"),
    "absolute path": (row(2, 1, path_to_image=f"/{PATH}"), "is not like train/patient1/study1"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_listed_with_its_line(tmp_path: Path, name: str) -> None:
    entry, message = BAD_ROWS[name]
    src = chexpert(tmp_path / "src", [row(1, 1)])
    table(src, [row(1, 1), entry])
    with pytest.raises(DataError) as caught:
        imported(src)
    (problem,) = caught.value.problems
    assert message in problem
    assert problem.startswith("df_chexpert_plus_240401.csv line ")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_link_out_of_the_source_is_refused(tmp_path: Path) -> None:
    src = chexpert(tmp_path / "src", [row(1, 1)])
    path = src / "PNG/train/patient00001/study1/view1_frontal.png"
    path.rename(tmp_path / "outside.png")
    path.symlink_to(tmp_path / "outside.png")
    (problem,) = reading(src).entries.problems
    assert "leads out of" in problem.text
    (src / "PNG").rename(tmp_path / "PNG")
    (src / "PNG").symlink_to(tmp_path / "PNG")
    with pytest.raises(DataError, match="a link that leads out of"):
        reading(src)


def test_newest_table_is_read(tmp_path: Path) -> None:
    src = chexpert(tmp_path / "src", [row(1, 1)])
    table(src, [row(1, 1, findings="Older.")], "df_chexpert_plus_230101.csv")
    assert studies(reading(src))["patient00001_study1"].findings == "Clear lungs 1-1."


def test_source_without_a_table_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no df_chexpert_plus_\*\.csv in it"):
        reading(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        reading(tmp_path / "gone")
    (tmp_path / "df_chexpert_plus_240401.csv").write_text("path_to_image,report\n")
    with pytest.raises(DataError, match="no column deid_patient_id, patient_report_date_order, section_findings"):
        reading(tmp_path)


def test_radgraph_of_the_release_becomes_phrases(tmp_path: Path) -> None:
    """radgraph-XL-annotations/section_findings.json: a list, each {"0": annotation}, of the text in tokens."""
    src = chexpert(tmp_path / "src", [row(1, 1, findings="Left\neffusion, 3.5 cm."), row(2, 1)])
    folder = imported(src).folder
    entities = {
        "1": {"tokens": "effusion", "label": "Observation::definitely present", "start_ix": 1, "end_ix": 1},
        "2": {"tokens": "Left", "label": "Anatomy::definitely present", "start_ix": 0, "end_ix": 0},
    }
    entities["1"]["relations"], entities["2"]["relations"] = [["located_at", "2"]], []
    content = [{"0": {"text": "Left effusion , 3 . 5 cm .", "entities": entities}}]
    (tmp_path / "section_findings.json").write_text(json.dumps(content))
    counts = attach_phrases(folder, annotations=tmp_path / "section_findings.json")
    assert (counts["annotated"], counts["by rule"]) == (1, 1)
    first = Study.model_validate_json((folder.path / "metadata.jsonl").read_text().splitlines()[0])
    assert first.phrases == ["left effusion"]
