"""Files that others wrote: predictions as CSV and JSON lines, labels by name; one clear error for each wrong one."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrg.data.label_files import LabelFile, read_labels
from rrg.errors import DataError
from rrg.evaluate import Prediction, read_predictions
from rrg.observations import OBSERVATIONS

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@SHARED
@given(st.dictionaries(TEXT.filter(str.strip), st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_a_csv_and_json_lines_of_the_same_records_read_alike(
    tmp_path: Path, content: dict[str, tuple[str, str]]
) -> None:
    void = {"nan", "<na>", "null", "none", "n/a"}
    rows = {k: v for k, v in content.items() if not void & {s.strip().lower() for s in (k, *v)}}
    if not rows:
        return
    lines = [json.dumps({"id": i, "report": r, "reference": f, "more": 1}) for i, (r, f) in rows.items()]
    table = ["reference,id,more,report", *(",".join(map(quoted, (f, i, "1", r))) for i, (r, f) in rows.items())]
    one = read_predictions(write(tmp_path / "a.jsonl", "\n".join(lines)))
    two = read_predictions(write(tmp_path / "a.CSV", "\r\n".join(table)))
    assert one == two == [Prediction(id=i, report=r, reference=f) for i, (r, f) in rows.items()]


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    record = '{"id": "a", "report": "x"}'
    assert len(read_predictions(write(tmp_path / "a.jsonl", f"\ufeff{record}\n\n  \n"))) == 1
    assert len(read_predictions(write(tmp_path / "a.csv", "\ufeffid,report\n\na,x\n\n"))) == 1


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", "id,report\na,x\nb,\n", "line 3: report is empty (if the model wrote nothing, add --allow-empty)"),
        ("a.jsonl", '{"id": "a", "report": " \\n"}', "line 1: report is empty (if the model wrote nothing, add --al"),
        ("a.csv", "id,report\na,nan\n", "line 2: report is nan, not text"),
        ("a.csv", "id,report\nNaN,x\n", "line 2: id is NaN, not text"),
        ("a.jsonl", '{"id": "a", "report": "None."}', "line 1: report is None., not text (if the model wrote"),
        ("a.jsonl", '{"id": "a", "report": NaN}', "line 1: report: Input should be a valid string"),
        ("a.jsonl", '{"id": "a", "report": 3}', "line 1: report: Input should be a valid string"),
        ("a.jsonl", '{"id": "a", "report": ["x", "y"]}', "line 1: report: Input should be a valid string"),
        ("a.jsonl", '{"id": "a", "report": "\\ud800"}', "line 1: report: Input should be a valid string"),
        ("a.jsonl", '{"id": "a"}\n{"id": "b", "report": "x"}', "line 1: report: Field required"),
        ("a.jsonl", '{"id": true, "report": "x"}', "line 1: id: Input should be a valid string"),
        ("a.jsonl", '{"id": "b", "report": "x"}\n{"id": "a", "id": "c"}', "line 2: not JSON ('id' is given twice in"),
        ("a.json", '[{"id": "a", "report": "x"},\n3]', "item 2: not an object but int"),
        ("a.json", '{"a": {"report": "x"},\n"b": {"report": 3}}', "b: report: Input should be a valid string"),
        ("a.jsonl", b'{"id": "a", "report": "caf\xe9"}', "line 1: not UTF-8 (byte 0xe9); save the file as UTF-8"),
        ("a.csv", "id,report\na,x\n\na,y\n", "line 4: id a was already given on line 2"),
        ("a.csv", 'id,report\na,"x\ny"\nb\n', "line 4: 1 cells under 2 columns"),
        ("a.csv", "id,report\na,x,y\n", "line 2: 3 cells under 2 columns"),
        ("a.csv", f"id,report\na,{'x ' * 40_000}\n", "line 2: report: String should have at most 65536 characters"),
    ],
)  # fmt: skip
def test_a_wrong_record_is_named_with_its_line(tmp_path: Path, name: str, content: str, problem: str) -> None:
    with pytest.raises(DataError, match="1 of its lines are not predictions") as error:
        read_predictions(write(tmp_path / name, content), allow_empty=False)
    assert [p[: len(problem)] for p in error.value.problems] == [problem]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "patient,findings_label\na,x\n",
            "no id or report among 'patient', 'findings_label'; expected id, report and perhaps reference",
        ),
        ("a.csv", "id,report,report\na,x,y\n", "columns given more than once: 'report'"),
        ("a.csv", "id,report\n", "holds no predictions"),
        ("a.csv", "", "holds no predictions"),
        ("a.csv", 'id,report\na,"x\n', "line 2: unexpected end of data: not predictions"),
        ("a.csv", b"id,report\na,x\nb,caf\xe9\n", r"not UTF-8 \(byte 0xe9 after line "),
        ("a.csv", "id,report\na,x\n".encode("utf-16"), "UTF-16, and predictions are read as UTF-8"),
        ("a.jsonl", '{"id": "a"}'.encode("utf-16"), "UTF-16, and predictions are read as UTF-8"),
        ("a.json", '[{"id": "a",\n"report": "x"}', "a.json: not JSON: "),
        ("a.json", '{"a": "x",\n"a": "y"}', "not JSON: 'a' is given twice in one object"),
        ("a.jsonl", '{"id": "a", "report": "x", "report": "y"}', "not JSON: 'report' is given twice in one object"),
        ("a.json", '{"train": [{"id": "a"}], "test": [{"id": "b"}]}', "holds the lists train, test; give a file"),
        ("a.json", '{"id": ["a", "b"], "report": ["x"]}', r"columns whose rows differ \(id 2, report 1\)"),
        ("a.csv", "id,report\na," + "x" * (5 << 20), "line 2: longer than 4 MiB: not predictions"),
        ("a.csv", 'id,report\na,"' + "x\n" * (3 << 20), "line 2: longer than 4 MiB: not predictions"),
    ],
)
def test_a_wrong_file_is_refused_at_once(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_predictions(write(tmp_path / name, content))


def made_by_others(path: Path, content: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    notes: list[str] = []
    found = read_predictions(write(path, content), notes=notes)
    return [(p.id, p.report, p.reference) for p in found], notes


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("study_id,report,reference", "id = 'study_id', report = 'report', reference = 'reference'"),
        ("StudyID,Generated Report,Ground Truth", "id = 'StudyID', report = 'Generated Report', reference = 'Ground"),
        ("image_id,prediction,gt", "id = 'image_id', report = 'prediction', reference = 'gt'"),
        ("uid,hypothesis,target_text", "id = 'uid', report = 'hypothesis', reference = 'target_text'"),
        ("dicom_id,pred_report,gtReport", "id = 'dicom_id', report = 'pred_report', reference = 'gtReport'"),
        ("case,model_output,radiologist_findings", "id = 'case', report = 'model_output', reference = 'radiologist_f"),
        ("id,generated,findings", "id = 'id', report = 'generated', reference = 'findings'"),
        ("filename,generated_findings,reference_findings", "id = 'filename', report = 'generated_findings', refer"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_names_that_say_one_thing_are_read_and_said(tmp_path: Path, header: str, said: str, separator: str) -> None:
    table = f"subject_id,{header},model\n7,1,a b.,c d.,v2\n7,23,e.,f.,v2\n".replace(",", separator)
    for name in ("mine.csv", "mine.tsv", "mine.txt"):
        found, (note,) = made_by_others(tmp_path / name, table)
        assert found == [("1", "a b.", "c d."), ("23", "e.", "f.")]
        assert note.startswith(f"in {name}, {said}")


def test_plain_names_need_no_word(tmp_path: Path) -> None:
    assert made_by_others(tmp_path / "a.csv", "id,report\na,x\n") == ([("a", "x", "")], [])


DOCUMENTS = {
    "array": '[{"study_id": 5, "pred": "x", "gt": "y"}, {"study_id": 7.0, "pred": "z", "gt": null}]',
    "wrapped": '{"model": "v2", "outputs": [{"id": 5, "pred": "x", "gt": ["y"]}, {"id": 7, "pred": "z"}]}',
    "by id": '{"5": {"model_prediction": "x", "section_findings": "y", "split": ""}, "7": {"model_prediction": "z"}}',
    "counted": '{"0": {"uid": 5, "pred": "x", "gt": "y"}, "1": {"uid": 7, "pred": "z", "gt": "nan"}}',
    "columns": '{"study_id": [5, 7], "generated": ["x", "z"], "truth": ["y", null], "time": 3.5}',
    "columns by row": '{"uid": {"0": 5, "1": 7}, "pred": {"0": "x", "1": "z"}, "ref": {"0": "y", "1": null}}',
    "captions": '{"res": {"5": ["x"], "7": ["z"]}, "gts": {"5": ["y"], "7": [""]}}',
}


@pytest.mark.parametrize("form", DOCUMENTS)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_documents_read_alike(tmp_path: Path, form: str, indent: int | None) -> None:
    content = json.dumps(json.loads(DOCUMENTS[form]), indent=indent)
    assert made_by_others(tmp_path / "a.json", content)[0] == [("5", "x", "y"), ("7", "z", "")]


def test_a_text_by_id_is_a_report(tmp_path: Path) -> None:
    found, notes = made_by_others(tmp_path / "a.json", '{"s1": ["x"], "s2": "y"}')
    assert found == [("s1", "x", ""), ("s2", "y", "")]
    assert notes == ["in a.json, id = its key, report = 'report', reference = none"]


def test_two_sections_are_joined_where_both_are_scored(tmp_path: Path) -> None:
    content = '{"9": {"model_prediction": "x", "findings": "a", "impression": "b"}}'
    (found,) = read_predictions(write(tmp_path / "a.json", content), section="findings+impression")
    assert (found.report, found.reference) == ("x", "a b")
    (found,) = read_predictions(tmp_path / "a.json", section="impression")
    assert found.reference == "b"


def test_ids_of_a_column_with_gaps_are_whole_numbers(tmp_path: Path) -> None:
    found, _ = made_by_others(tmp_path / "a.csv", "study_id,report\n5.0,x\n71.00,y\n")
    assert found == [("5", "x", ""), ("71", "y", "")]
    assert made_by_others(tmp_path / "b.csv", "id,report\n5.0,x\na,y\n")[0][0] == ("5.0", "x", "")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,report,prediction", "'prediction' or 'report' could be the generated report; name the one that is"),
        ("id,hyp,candidate", "'hyp' or 'candidate' could be the generated report"),
        ("id,report,gt,reference", "'gt' or 'reference' could be the reference; name the one that is 'reference'"),
        ("study_id,uid,report", "'study_id' or 'uid' could be the id; name the one that is 'id', and leave"),
        ("id,text,caption", "'text' or 'caption' could be the generated report"),
        ("Report,report,id", "'Report' or 'report' could be the generated report"),
    ],
)
def test_names_that_could_be_two_things_are_refused(tmp_path: Path, header: str, message: str) -> None:
    cells = ",".join("abcd"[: header.count(",") + 1])
    with pytest.raises(DataError, match=message):
        read_predictions(write(tmp_path / "a.csv", f"{header}\n{cells}\n"))


def test_a_field_that_holds_no_text_is_no_candidate(tmp_path: Path) -> None:
    content = '{"id": "a", "report": "x", "predicted": [0.1, 0.9], "truth": [0, 1], "reference": "y"}'
    assert made_by_others(tmp_path / "a.jsonl", content) == ([("a", "x", "y")], [])


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_report_of_100_mb_is_refused_without_being_read_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b"id,report\na," if name == "a.csv" else b'{"id": "a", "report": "')
        file.seek(100 << 20)
        file.write(b"\n" if name == "a.csv" else b'"}\n')
    with pytest.raises(DataError, match=r"line [12]: longer than 4 MiB: not predictions"):
        read_predictions(path)


def test_empty_reports_are_kept_where_they_are_the_models(tmp_path: Path) -> None:
    assert read_predictions(write(tmp_path / "a.jsonl", '{"id": "a", "report": ""}'))[0].report == ""


def labels_csv(path: Path, order: tuple[str, ...], id_column: str = "study_id", **cells: str) -> Path:
    row = [cells.get(name.replace(" ", "_"), "") for name in order]
    return write(path, f"subject_id,{id_column},{','.join(order)}\n7,s1,{','.join(row)}\n")


ORDERS = (OBSERVATIONS, tuple(sorted(OBSERVATIONS)), (OBSERVATIONS[-1], *OBSERVATIONS[:-1]))
"""CheXbert's, MIMIC-CXR-JPG's and CheXpert's."""


@pytest.mark.parametrize("order", [*ORDERS, tuple(random.Random(0).sample(OBSERVATIONS, 14))])
@pytest.mark.parametrize("id_column", ["id", "study_id", "uid", "Study_ID"])
def test_columns_are_read_by_name_in_any_order(tmp_path: Path, order: tuple[str, ...], id_column: str) -> None:
    path = labels_csv(tmp_path / "labels.csv", order, id_column, Edema="1.0", Fracture="-1", No_Finding="0.0")
    row = dict(zip(OBSERVATIONS, read_labels(path).rows(["s1"])[0].tolist(), strict=True))
    assert {name: v for name, v in row.items() if not np.isnan(v)} == {"Edema": 1, "Fracture": -1, "No Finding": 0}


def test_other_spellings_and_json_lines_mean_the_same(tmp_path: Path) -> None:
    names = {name.lower().replace(" ", "_"): None for name in OBSERVATIONS if name != "Lung Opacity"}
    flat = {"id": 3, **names, "Airspace Opacity": 1, "edema": -1}
    nested = {"id": "4", "reference": "a", "labels": {"Lung Opacity": 0}}
    found = read_labels(write(tmp_path / "labels.jsonl", f"{json.dumps(flat)}\n{json.dumps(nested)}\n"))
    place = OBSERVATIONS.index("Lung Opacity")
    assert found.rows(["4", "3"])[:, place].tolist() == [0, 1]
    assert found.rows(["3"])[0, OBSERVATIONS.index("Edema")] == -1
    assert found.name == "file labels.jsonl"
    assert found.covers(["3"])
    assert not found.covers(["3", "5"])


def test_labels_in_other_forms_are_the_same(tmp_path: Path) -> None:
    names = [name for name in OBSERVATIONS if name != "Edema"]
    table = "\t".join(["Dicom_ID", "Edema", *names]) + "\n7\t1" + "\t" * 13 + "\n21\t-1" + "\t" * 13 + "\n"
    by_id = {"7": {"Edema": 1, **dict.fromkeys(names)}, "21": {"labels": {"Edema": -1}}}
    columns = {"uid": [7, 21.0], "Edema": [1, -1], **{name: [None, None] for name in names}}
    write(tmp_path / "a.tsv", table)
    write(tmp_path / "b.json", json.dumps(by_id))
    write(tmp_path / "c.json", json.dumps(columns, indent=1))
    for name in ("a.tsv", "b.json", "c.json"):
        found = read_labels(tmp_path / name)
        assert found.rows(["21", "7"])[:, OBSERVATIONS.index("Edema")].tolist() == [-1, 1]
        assert np.isnan(found.rows(["7"])).sum() == 13


def _header(change: Callable[[list[str]], list[str]], row: str = "s1" + ",1" * 14) -> str:
    return f"{','.join(change(['id', *OBSERVATIONS]))}\n{row}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_header(lambda h: [*h, "Nodule"], "s1" + "," * 15), "line 2: unknown columns 'Nodule'; expected an id"),
        (_header(lambda h: [*h[:-1], "Normal"]), "unknown columns 'Normal'"),
        (_header(lambda h: h[:-1], "s1" + "," * 13), "no column for No Finding; labels need all 14"),
        (_header(lambda h: ["report", *h[1:]]), "no id; labels are matched by id, study_id, uid or a name"),
        (_header(lambda h: h[1:], ",".join("1" * 14)), "no id"),
        (
            _header(lambda h: h, "s1,2" + "," * 13),
            r"Enlarged Cardiomediastinum is '2', not 1, 0, -1 or blank \(2 and 3",
        ),
        (_header(lambda h: h, "s1,yes" + "," * 13), "is 'yes', not 1, 0, -1 or blank"),
        (_header(lambda h: h, "s1,0.5" + "," * 13), "is '0.5', not 1"),
        (_header(lambda h: h, "s1" + "," * 14 + "\ns1" + "," * 14), "line 3: id s1 was already given"),
        (_header(lambda h: h, "nan" + "," * 14), "line 2: the id is nan"),
        (_header(lambda h: h, "" + "," * 14), "line 2: the id is empty"),
        (_header(lambda h: h, "s1"), "1 cells under 15 columns"),
        ("id,Edema\n", "holds no labels"),
        (b"id,Edema\n\xe9,1\n", "not UTF-8"),
    ],
)
def test_other_label_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(write(tmp_path / "labels.csv", content))


def test_studies_without_labels_are_named() -> None:
    file = LabelFile(Path("labels.csv"), {"58242946": np.zeros(14, np.float32)})
    with pytest.raises(DataError, match="no labels for 1 of 2 studies, such as s58242946; its ids are like 58242946"):
        file.rows(["58242946", "s58242946"])
