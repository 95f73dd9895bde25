"""`rrg evaluate` on anyone's reports: without a run, without data, by every protocol, with labels of other tools."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluations import EFFUSION, NORMAL, copies, no_java, study, study_folder
from rrg.cli import main
from rrg.data.label_files import LabelFile
from rrg.data.study import StudyFolder
from rrg.errors import DataError, UsageError
from rrg.evaluate import Exemplar, Prediction, evaluate, evaluation
from rrg.evaluate.clinical import PRESETS
from rrg.evaluate.radgraph import Annotation
from rrg.evaluate.repetition import repeats
from rrg.observations import OBSERVATIONS

EDEMA = OBSERVATIONS.index("Edema")


@pytest.fixture(autouse=True)
def _no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "meteor_statistics", no_java)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return study_folder(tmp_path / "data")


def label_file(labels: dict[str, float], name: str = "labels.csv") -> LabelFile:
    """Edema alone, by study."""
    rows = {}
    for i, value in labels.items():
        rows[i] = np.full(14, np.nan, np.float32)
        rows[i][EDEMA] = value
    return LabelFile(Path(name), rows)


def test_without_data_the_references_of_the_file_count(folder: StudyFolder) -> None:
    scores = evaluate(copies(folder), None, rules="iu")
    assert list(scores.rows) == ["model"]
    assert scores.rows["model"].bleu_4 == pytest.approx(1)
    assert "vocab:none,no-train|refs:clean,cut59|" in scores.signature
    assert "|target:reference|" in scores.signature
    assert (scores.split, scores.n_split, scores.verbatim, scores.constant) == (None, None, None, None)
    assert "null baselines and the share found word for word in train are left out" in scores.notes[0]
    assert "Word for word" not in scores.table()
    assert json.loads(scores.to_json())["data"] == "the predictions' own references"


def test_without_data_every_prediction_needs_its_reference(folder: StudyFolder) -> None:
    predictions = [*copies(folder), Prediction(id="x", report="Clear.")]
    with pytest.raises(DataError, match="1 of 6 predictions have no reference, such as x; add --data DIR"):
        evaluate(predictions, None, "raw")
    with pytest.raises(DataError, match="1 ids are given more than once, such as s10"):
        evaluate([*copies(folder), copies(folder)[0]], None, "raw")
    with pytest.raises(UsageError, match="add --data DIR, or --rules iu or --rules mimic"):
        evaluate(copies(folder), None)


@pytest.mark.parametrize("protocol", ["r2gen", "r2gengpt", "raw"])
def test_every_protocol_has_its_baselines_and_signature(folder: StudyFolder, protocol: str) -> None:
    scores = evaluate(copies(folder), folder, protocol)
    assert list(scores.rows) == ["model", "best constant", "random train report"]
    assert scores.signature.startswith(f"{protocol}|clean:")
    assert scores.rows["model"].bleu_4 == pytest.approx(1)
    assert scores.verbatim == 1
    assert scores.constant is not None
    assert scores.constant[0] == ("T" if protocol == "raw" else "t")


def test_protocols_differ_where_reports_are_raw(folder: StudyFolder) -> None:
    predictions = [p.model_copy(update={"report": p.report.upper()}) for p in copies(folder)]
    assert evaluate(predictions, folder, "raw").rows["model"].bleu_1 < 0.1
    assert evaluate(predictions, folder).rows["model"].bleu_1 == pytest.approx(1)


def test_another_section_is_scored_where_every_study_has_it(folder: StudyFolder) -> None:
    with pytest.raises(DataError, match="no training studies"):
        evaluate(copies(folder), folder, section="impression")
    studies = [s.model_copy(update={"impression": f"Seen: {s.findings}"}) for s in folder.studies]
    whole = StudyFolder(folder.path, folder.card, studies)
    predictions = [p.model_copy(update={"report": f"{p.report} Seen: {p.report}"}) for p in copies(folder)]
    scores = evaluate(predictions, whole, section="findings+impression")
    assert scores.rows["model"].bleu_4 == pytest.approx(1)
    assert "|target:findings+impression|" in scores.signature
    lacking = StudyFolder(folder.path, folder.card, [*studies[:-1], folder.studies[-1]])
    with pytest.raises(DataError, match="1 studies have no impression, such as s14"):
        evaluate(predictions, lacking, section="impression")


def test_all_presets_are_scored_in_one_pass_and_signed(folder: StudyFolder) -> None:
    scores = evaluate(copies(folder), folder)
    assert list(scores.rows["model"].presets) == list(scores.presets) == list(PRESETS)
    assert all(f"reports:{scores.labeler}|references:exact|paper:" in text for text in scores.presets.values())
    table = scores.table().splitlines()
    for name, preset in PRESETS.items():
        for figure in preset.figures:
            line = next(line for line in table if line.startswith(f"{name} ") and str(figure) in line)
            assert line.endswith(f"  {preset.labeler or 'not stated'}")


def test_labels_of_another_tool_replace_the_labelers(folder: StudyFolder) -> None:
    ids = [s.id for s in folder.split("test")]
    generated, reference = label_file(dict.fromkeys(ids, 1.0)), label_file(dict.fromkeys(ids, -1.0), "truth.csv")
    scores = evaluate(copies(folder), folder, labels=generated, reference_labels=reference)
    assert (scores.labeler, scores.reference_labels) == ("file labels.csv", "file truth.csv")
    assert scores.rows["model"].presets["radeval"]["micro-5|uncertain->1"].f1 == 1
    assert scores.rows["model"].presets["r2gen"]["micro-14|uncertain->0"].support == 0
    assert scores.reports[0].labels == {"Edema": 1}
    assert scores.reports[0].reference_labels == {"Edema": -1}
    assert any("labels of best constant, random train report are by" in note for note in scores.notes)


def test_baselines_take_their_labels_from_a_file_of_the_whole_data_set(folder: StudyFolder) -> None:
    every = label_file({s.id: 1.0 for s in folder.studies})
    scores = evaluate(copies(folder), folder, labels=every, reference_labels=every)
    assert [row.presets["r2gen"]["micro-14|uncertain->0"].f1 for row in scores.rows.values()] == [1, 1, 1]
    assert not any("labels of" in note for note in scores.notes)


def test_labels_that_lack_a_study_are_refused(folder: StudyFolder) -> None:
    with pytest.raises(DataError, match="no labels for 4 of 5 studies, such as s11"):
        evaluate(copies(folder), folder, labels=label_file({"s10": 1.0}))


def test_each_report_has_its_scores_and_labels(folder: StudyFolder) -> None:
    predictions = [p.model_copy(update={"report": NORMAL}) for p in copies(folder)]
    scores = evaluate(predictions, folder)
    row, reports = scores.rows["model"], scores.reports
    assert [r.id for r in reports] == [p.id for p in predictions]
    assert np.mean([r.rouge_l for r in reports]) == pytest.approx(row.rouge_l)
    assert np.mean([r.cider for r in reports]) == pytest.approx(row.cider)
    assert reports[-1].bleu_4 < reports[0].bleu_4 == pytest.approx(1)
    assert reports[-1].reference_labels == {"Cardiomegaly": 1, "Pleural Effusion": 1}
    assert reports[-1].labels["No Finding"] == 1
    assert reports[-1].patient == "p14"
    assert reports[-1].radgraph_f1 is None


def test_radgraph_is_scored_on_all_and_on_abnormal_studies(folder: StudyFolder) -> None:
    def annotated(tokens: str) -> Annotation:
        entity = {"tokens": tokens, "label": "Observation::definitely present", "relations": []}
        return Annotation.model_validate({"entities": {"1": entity}})

    ids = [s.id for s in folder.split("test")]
    reference = {i: annotated("effusion") for i in ids}
    generated = {i: annotated("effusion" if i == "s14" else "edema") for i in ids}
    scores = evaluate(copies(folder), folder, radgraph=(generated, reference))
    assert scores.radgraph is not None
    assert (scores.radgraph.all["simple"].f1, scores.radgraph.abnormal["complete"].f1) == (0.2, 0.5)
    assert [r.radgraph_f1["partial"] for r in scores.reports if r.radgraph_f1] == [0, 0, 0, 0, 1]
    assert "complete, abnormal" in scores.table()


def test_an_empty_report_scores_nothing(folder: StudyFolder) -> None:
    predictions = [p.model_copy(update={"report": " "}) for p in copies(folder)]
    scores = evaluate(predictions, folder)
    assert (scores.rows["model"].bleu_1, scores.rows["model"].rouge_l) == (pytest.approx(0, abs=1e-9), 0)
    assert scores.reports[0].hypothesis == ""
    assert scores.reports[0].labels == {}


STUTTERS = {
    "Clear lungs. No free air. No free air.": ["no free air"],
    "Clear lungs .\nno free air\n- No free air": ["no free air"],
    "Heart is large views views views. No effusion.": ["views"],
    "No edema, no mass, no edema, no mass, no edema, no mass.": ["no edema no mass"],
    "A 3.5 cm mass. 1. Clear. 2. Edema. Effusion of 3.5 cm.": [],
    "No effusion is seen. No edema is seen. No, no mass.": [],
}


@pytest.mark.parametrize("report", STUTTERS)
def test_what_a_report_says_again_is_found(report: str) -> None:
    assert repeats(report) == STUTTERS[report]


def test_a_sentence_said_eight_times_is_visible(folder: StudyFolder) -> None:
    """F1 does not see it: a finding counts once."""
    once = evaluate(copies(folder), folder)
    predictions = copies(folder)
    predictions[-1] = predictions[-1].model_copy(update={"report": EFFUSION + " The heart is enlarged." * 7})
    scores = evaluate(predictions, folder)
    assert scores.rows["model"].clinical == once.rows["model"].clinical
    assert (once.repetition.reports, once.repetition.sentences, scores.reference_repetition.reports) == (0, 0, 0)
    assert (scores.repetition.reports, scores.repetition.sentences) == (1, 8 / 20)
    line = "Said more than once within a report: 40.0% of sentences, in 1 of 5 reports (references: 0.0%, 0)."
    assert line in scores.table()
    assert [r["repeats"] for r in json.loads(scores.to_json())["reports"]] == [[]] * 4 + [["the heart is enlarged"]]


def test_cider_without_weights_is_none_and_said(folder: StudyFolder) -> None:
    """All but one of its references alike, then one abnormal reference."""
    alone = evaluate([p for p in copies(folder) if p.id != "s13"], folder)
    assert alone.rows["model"].cider is not None
    assert alone.abnormal.rows["model"].cider is None
    assert alone.notes.count(
        "CIDEr not computed: it weighs words by how few references have them, and there is one abnormal reference"
    ) == 1  # fmt: skip
    normal = evaluate(copies(folder)[:3], folder)
    assert normal.rows["best constant"].cider is None
    assert "cider" not in normal.rows["model"].intervals
    assert any(note.endswith("and all references are alike") for note in normal.notes)
    assert {report.cider for report in normal.reports} == {None}
    row = next(line for line in normal.table().splitlines() if line.startswith("model "))
    assert row.split()[5:8] == ["—", "1.000", "—"]


def test_the_most_frequent_report_is_shown_short(folder: StudyFolder) -> None:
    text = "lungs are clear . " * 30
    predictions = [p.model_copy(update={"report": text}) for p in copies(folder)]
    predictions[0] = predictions[0].model_copy(update={"exemplar": Exemplar(id="s0", report=NORMAL)})
    scores = evaluate(predictions, folder)
    assert (scores.repeated.report, scores.repeated.count) == (text.strip(), 5)
    line = next(line for line in scores.table().splitlines() if line.startswith("Most frequent report: 5 times: lungs"))
    assert len(line) < 140


@pytest.fixture
def table(folder: StudyFolder, tmp_path: Path) -> Path:
    """Test studies' findings as someone's CSV."""
    path = tmp_path / "mine.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "report", "reference"], *((p.id, p.report, p.reference) for p in copies(folder))])
    return path


def test_the_command_scores_a_csv_beside_itself(
    table: Path, folder: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    other = table.with_name("metrics.json")
    other.write_text("someone else's")
    assert main(["evaluate", str(table), "--data", str(folder.path), "--protocol", "r2gengpt", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found == json.loads(table.with_name("mine.metrics.json").read_text())
    assert other.read_text() == "someone else's"
    assert found["rows"]["model"]["presets"]["rgrg"]["micro-5|uncertain->1"]["support"] == 4
    assert found["reports"][0]["hypothesis"].startswith("the heart is normal")


def test_the_command_needs_no_data(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(table), "--protocol", "raw"]) == 0
    out = capsys.readouterr().out
    assert "the predictions' own references, n = 5\n" in out
    assert "1,000 resamples of reports, seed 0" in out


def test_the_command_says_what_it_took_for_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "theirs.tsv").write_text(f"study_id\tprediction\tgt\n1\t{NORMAL}\t{NORMAL}\n22\t{EFFUSION}\t{NORMAL}\n")
    command = ["evaluate", str(tmp_path / "theirs.tsv"), "--protocol", "raw"]
    said = "in theirs.tsv, id = 'study_id', report = 'prediction', reference = 'gt'"
    assert main(command) == 0
    assert f"Note: {said}.\n" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notes"][0] == said
    assert [r["id"] for r in found["reports"]] == ["1", "22"]


def test_the_command_reads_labels_and_annotations(
    table: Path, folder: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [s.id for s in folder.split("test")]
    labels, graphs = tmp_path / "labels.csv", tmp_path / "graphs.json"
    labels.write_text("\n".join([",".join(["id", *OBSERVATIONS]), *(f"{i}{',1' * 14}" for i in ids)]))
    entity = {"tokens": "effusion", "label": "Observation::definitely present", "relations": []}
    graphs.write_text(json.dumps({i: {"entities": {"1": entity}} for i in ids}))
    command = ["evaluate", str(table), "--data", str(folder.path), "--labels", str(labels), "--reference-labels"]
    assert main([*command, str(labels), "--radgraph", str(graphs), str(graphs)]) == 0
    out = capsys.readouterr().out
    assert "labels of reports by file labels.csv, of references file labels.csv" in out
    assert "simple, all" in out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--labeler", "chexbart"], 2, "no labeler is named 'chexbart'; there are: chexbert, "),
        (["--checkpoint", "x.pth"], 2, "add --labeler chexbert"),
        (["--labeler", "chexbert", "--checkpoint", "absent.pth"], 1, "absent.pth: no such checkpoint"),
        (["--labels", "absent.csv"], 1, "absent.csv: no such file"),
        (["--radgraph", "absent.json", "absent.json"], 1, "absent.json: no such file"),
        (["--protocol", "raw", "--rules", "iu"], 2, "protocol raw cleans nothing: leave --rules out"),
        (["--protocol", "coco"], 2, "no protocol is named 'coco'; there are: r2gen, r2gengpt, raw"),
        (["--section", "history"], 2, "no section 'history'"),
    ],
)
def test_wrong_options_are_said_in_one_line(
    table: Path,
    folder: StudyFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(table.parent)
    assert main(["evaluate", table.name, "--data", "data", *options]) == code
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not table.with_name("mine.metrics.json").exists()


def test_empty_reports_of_a_file_are_refused_unless_allowed(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.write_text(f"id,report,reference\na,,{NORMAL}\nb,{EFFUSION},{EFFUSION}\n")
    assert main(["evaluate", str(table), "--protocol", "raw"]) == 1
    assert "line 2: report is empty" in capsys.readouterr().err
    assert main(["evaluate", str(table), "--protocol", "raw", "--allow-empty"]) == 0


def test_ids_of_another_data_set_are_listed(table: Path, folder: StudyFolder) -> None:
    other = StudyFolder(folder.path, folder.card, [study(i, s.split, s.findings) for i, s in enumerate(folder.studies)])
    with pytest.raises(DataError, match="1 of 1 predictions do not fit split test"):
        evaluate([Prediction(id="s99", report="a")], other)
