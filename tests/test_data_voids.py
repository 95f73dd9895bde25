"""Texts that programs write where there is none ("nan", "None", "N/A", "."): read as empty wherever a text is read."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chexpert_source
import mimic_source
from data_folders import clean, study, write_folder
from data_sources import item, kaggle, r2gen, report
from rrg.check import check_folder
from rrg.data.chexpert_plus import read as read_chexpert_plus
from rrg.data.importing import Entries
from rrg.data.iu_xray import read as read_iu_xray
from rrg.data.mimic_cxr import read as read_mimic_cxr
from rrg.data.sections import Sections, read_sections
from rrg.data.study import Study, StudyFolder
from rrg.data.voids import stated
from rrg.errors import DataError
from rrg.evaluate import evaluate, read_predictions

VOIDS = ["nan", "NaN", "None", "N/A", ".", "<NA>", "null", "#N/A", " -- ", "nan.", "None.", "NaN NaN", "-1.#IND", "___"]
WORDS = ["None of the ribs is broken.", "Unknown.", "No change", "Nanogram", "na\u00efve", "XXXX", "0", "A.", "NANNA"]
TEXTS = ("impression", "indication", "history", "comparison")


@pytest.mark.parametrize("text", ["", *VOIDS])
def test_a_void_states_nothing(text: str) -> None:
    assert stated(text) == ""


@pytest.mark.parametrize("text", [*WORDS, " clear "])
def test_words_are_stated_as_they_are(text: str) -> None:
    assert stated(text) == text


@given(st.text(max_size=20))
def test_whatever_has_a_word_of_its_own_is_stated(text: str) -> None:
    assert stated(f"{text} lungs") == f"{text} lungs"


@pytest.mark.parametrize(
    ("text", "kept"), [("None.", True), ("none", True), ("___", True), ("nan", False), (".", False)]
)
def test_no_comparison_is_an_answer(text: str, kept: bool) -> None:
    assert Study.model_validate(study("a", comparison=text)).comparison == (text if kept else "")


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", ["nan", "N/A", ".", None])
def test_no_text_of_a_study_is_a_void(name: str, text: str | None) -> None:
    assert getattr(Study.model_validate_json(json.dumps(study("a", **{name: text}))), name) == ""


def test_no_view_of_a_study_is_a_void() -> None:
    assert Study.model_validate(study("a", films=2, views=["nan", "frontal"])).views == ["", "frontal"]


def rejected(entries: Entries) -> list[tuple[str, str]]:
    return [(problem.kind, problem.where) for problem in entries.problems]


@pytest.mark.parametrize("text", VOIDS)
def test_a_void_in_kaggles_table_is_no_report(tmp_path: Path, text: str) -> None:
    src = kaggle(tmp_path / "src", [1, 2])
    path = src / "indiana_reports.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
    rows[0] |= {"findings": text}
    rows[1] |= {"impression": text, "indication": text}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    entries = read_iu_xray(src, 0, None).entries
    assert [kind for kind, _ in rejected(entries)] == ["no findings"]
    ((sound),) = entries.sound
    assert (sound.study.id, sound.study.impression, sound.study.indication) == ("CXR2", "", "")


@pytest.mark.parametrize("text", ["nan", "NONE", "."])
def test_a_void_in_open_is_xml_is_no_report(tmp_path: Path, text: str) -> None:
    report(tmp_path, 1, findings=text)
    report(tmp_path, 2)
    entries = read_iu_xray(tmp_path, 0, None).entries
    assert rejected(entries) == [("no findings", "ecgen-radiology/1.xml")]
    assert [entry.study.id for entry in entries.sound] == ["CXR2"]


@pytest.mark.parametrize("text", VOIDS)
def test_a_void_in_an_annotation_is_no_report(tmp_path: Path, text: str) -> None:
    items = [item(1, report=text), item(2, impression=text, indication=text)]
    entries = read_iu_xray(r2gen(tmp_path / "src", items), 0, None).entries
    assert rejected(entries) == [("no findings", "annotation.json train[0]")]
    assert [(entry.study.impression, entry.study.indication) for entry in entries.sound] == [("", "")]


@pytest.mark.parametrize("text", VOIDS)
def test_a_void_in_chexpert_plus_is_no_findings(tmp_path: Path, text: str) -> None:
    texts = dict.fromkeys(["section_impression", "section_history", "section_clinical_history"], text)
    rows = [chexpert_source.row(1, 1, findings=text), chexpert_source.row(2, 1, **texts)]
    found = read_chexpert_plus(chexpert_source.chexpert(tmp_path / "src", rows), 0, None)
    assert found.notes[0] == "1 studies without findings are left out, as published work does"
    ((sound),) = found.entries.sound
    assert (sound.study.patient, sound.study.impression, sound.study.history) == ("patient00002", "", "")


def test_of_two_histories_a_void_one_leaves_the_other(tmp_path: Path) -> None:
    rows = [chexpert_source.row(1, 1, section_clinical_history="nan", section_history="Cough.")]
    (sound,) = read_chexpert_plus(chexpert_source.chexpert(tmp_path / "src", rows), 0, None).entries.sound
    assert sound.study.history == "Cough."


@pytest.mark.parametrize("text", VOIDS)
def test_a_void_section_of_mimic_cxr_is_none(text: str) -> None:
    assert read_sections(f" INDICATION: {text}\n\n FINDINGS: {text}\n\n IMPRESSION: {text}\n") == Sections()


def test_a_void_section_does_not_replace_one_that_states_something() -> None:
    assert read_sections(" FINDINGS: Clear.\n\n FINDINGS: N/A\n\n IMPRESSION: .\n") == Sections("Clear.")


@pytest.mark.parametrize("text", ["nan", "N/A", "None."])
def test_a_void_in_mimics_annotation_is_no_report(tmp_path: Path, text: str) -> None:
    src = mimic_source.r2gen(tmp_path / "src")
    (path,) = src.rglob("*annotation.json")
    content = json.loads(path.read_text())
    content["train"][0]["report"] = text
    path.write_text(json.dumps(content))
    assert rejected(read_mimic_cxr(src, 0, None).entries) == [("no findings", f"{path.name} train[0]")]


@pytest.mark.parametrize("text", VOIDS)
def test_a_check_finds_void_reports(tmp_path: Path, text: str) -> None:
    studies = clean()
    studies[5]["findings"] = text
    (finding,) = (f for f in check_folder(write_folder(tmp_path, studies), progress=False).findings if f.key == "empty")
    assert (finding.level, finding.numbers) == ("error", {"reports": 1})
    assert finding.examples[0].startswith("study val1 (val): ")


def test_a_folder_with_a_void_report_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        StudyFolder.open(write_folder(tmp_path, [study("a"), study("b", findings="NaN")]))
    assert caught.value.problems == ["line 2: findings of study b state nothing: 'NaN'"]


def predictions(tmp_path: Path, form: str, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / f"p.{form}"
    with path.open("w", newline="") as file:
        if form == "csv":
            writer = csv.DictWriter(file, ["id", "report", "reference"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("text", VOIDS)
def test_a_void_prediction_is_an_empty_report_in_either_form(tmp_path: Path, form: str, text: str) -> None:
    path = predictions(tmp_path, form, [{"id": "a", "report": text, "reference": text}])
    (read,) = read_predictions(path)
    assert (read.report, read.reference) == ("", "")
    with pytest.raises(DataError) as caught:
        read_predictions(path, allow_empty=False)
    said = f"line {2 if form == 'csv' else 1}: report is {text.strip()}, not text (if the model wrote nothing, add "
    assert caught.value.problems[0].startswith(said)


def test_scores_say_how_many_reports_are_empty(tmp_path: Path) -> None:
    rows = [{"id": str(i), "report": text, "reference": "Clear lungs."} for i, text in enumerate(["Clear.", "nan", ""])]
    scores = evaluate(read_predictions(predictions(tmp_path, "jsonl", rows)), None, "raw")
    assert scores.notes[1] == "2 of 3 reports state nothing (empty, or such as 'nan') and count as empty"


def test_a_void_reference_is_none(tmp_path: Path) -> None:
    path = predictions(tmp_path, "csv", [{"id": "a", "report": "Clear.", "reference": "nan"}])
    with pytest.raises(DataError, match="1 of 1 predictions have no reference, such as a"):
        evaluate(read_predictions(path), None, "raw")
