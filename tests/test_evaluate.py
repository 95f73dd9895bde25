"""`evaluate` and `rrg evaluate`: rows, subsets, clinical efficacy, notes, files and errors; figures on IU X-Ray."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluations import EFFUSION, NORMAL, copies, no_java, study_folder
from rrg.cli import main
from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, RRGError, UsageError
from rrg.evaluate import Exemplar, Prediction, Scores, evaluate, evaluation, read_predictions
from rrg.evaluate.clinical import clinical
from rrg.evaluate.protocol import RULES, Protocol
from rrg.evaluate.scores import write_scores
from rrg.labels import get_labeler
from rrg.observations import OBSERVATIONS

IU_XRAY = Path(os.environ.get("RRG_IU_XRAY", Path(__file__).parents[2] / "shared/data/iu_xray"))


@pytest.fixture(autouse=True)
def _no_java(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR's start takes seconds; tests that ask for it are marked by their name."""
    if "meteor" not in request.node.name:
        monkeypatch.setattr(evaluation, "meteor_statistics", no_java)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return study_folder(tmp_path / "data")


def test_a_perfect_model_is_scored_as_one(folder: StudyFolder) -> None:
    row = evaluate(copies(folder), folder).rows["model"]
    assert (row.bleu_4, row.rouge_l, row.clinical.micro.f1) == (pytest.approx(1), pytest.approx(1), 1)
    assert row.clinical.macro.f1 == pytest.approx(3 / 14)


def test_every_table_has_its_null_baselines(folder: StudyFolder) -> None:
    exemplar = Exemplar(id="s0", report=NORMAL)
    scores = evaluate(copies(folder, exemplar=exemplar), folder)
    assert list(scores.rows) == ["model", "best constant", "random train report", "copy the retrieved"]
    assert list(scores.abnormal.rows) == list(scores.rows)
    assert scores.rows["copy the retrieved"] == scores.rows["best constant"]


def test_the_best_constant_is_chosen_on_validation(folder: StudyFolder) -> None:
    scores = evaluate(copies(folder), folder)
    assert scores.constant == "the heart is normal in size . the lungs are clear . no pneumothorax ."
    studies = [s.model_copy(update={"findings": EFFUSION}) if s.split == "val" else s for s in folder.studies]
    other = evaluate(copies(folder), StudyFolder(folder.path, folder.card, studies))
    assert other.constant == "there is a small left pleural effusion . the heart is enlarged ."


def test_the_random_report_depends_on_seed_and_study_alone(folder: StudyFolder) -> None:
    predictions = copies(folder)
    first, again = (evaluate(p, folder, seed=3).rows["random train report"] for p in (predictions, predictions[::-1]))
    assert first.bleu_4 == pytest.approx(again.bleu_4)
    rows = {evaluate(predictions, folder, seed=seed).rows["random train report"].bleu_1 for seed in range(9)}
    assert len(rows) > 1


def test_exemplars_of_some_predictions_only_make_no_row(folder: StudyFolder) -> None:
    predictions = copies(folder)
    predictions[1] = predictions[1].model_copy(update={"exemplar": Exemplar(id="s0", report=NORMAL)})
    scores = evaluate(predictions, folder)
    assert "copy the retrieved" not in scores.rows
    assert any("only 1 predictions have an exemplar" in note for note in scores.notes)


def test_abnormal_studies_are_those_without_no_finding(folder: StudyFolder) -> None:
    predictions = [p.model_copy(update={"report": NORMAL}) for p in copies(folder)]
    scores = evaluate(predictions, folder)
    assert (scores.n, scores.abnormal.n) == (5, 2)
    assert scores.abnormal.rows["model"].bleu_1 < scores.rows["model"].bleu_1
    assert scores.abnormal.rows["model"].clinical.micro.support == 4


def test_without_abnormal_studies_the_subset_is_empty(folder: StudyFolder) -> None:
    scores = evaluate(copies(folder)[:3], folder)
    assert scores.abnormal.n == 0
    assert scores.abnormal.rows == {}
    assert "n = 0\nnone" in scores.table()


def test_exact_labels_are_used_where_the_card_has_them(folder: StudyFolder) -> None:
    wrong = [s.model_copy(update={"labels": dict.fromkeys(OBSERVATIONS)}) for s in folder.studies]
    exact = evaluate(copies(folder), StudyFolder(folder.path, folder.card, wrong))
    assert exact.reference_labels == "exact"
    assert exact.rows["model"].clinical.micro.support == 0
    read = evaluate(copies(folder), StudyFolder(folder.path, {**folder.card, "labels": "chexpert"}, wrong))
    assert read.reference_labels == f"by {get_labeler().name} on the reference reports"
    assert read.rows["model"].clinical.micro.support == 7


def test_uncertain_and_absent_count_as_nothing_and_zero_division_as_zero() -> None:
    predicted, reference = np.zeros((3, 14), bool), np.zeros((3, 14), bool)
    edema = OBSERVATIONS.index("Edema")
    predicted[:2, edema], reference[1:, edema] = True, True
    result = clinical(predicted, reference)
    assert (result.observations["Edema"].precision, result.observations["Edema"].recall) == (0.5, 0.5)
    assert (result.observations["Fracture"].f1, result.observations["Fracture"].support) == (0, 0)
    assert (result.macro.f1, result.micro.f1, result.macro.support) == (pytest.approx(0.5 / 14), 0.5, 2)


def test_distinct_and_copied_reports_are_counted(folder: StudyFolder) -> None:
    predictions = copies(folder)
    predictions[0] = predictions[0].model_copy(update={"report": "Something else."})
    scores = evaluate(predictions, folder)
    assert (scores.distinct, scores.verbatim) == (3, 0.8)
    assert (scores.repeated.report, scores.repeated.count) == (scores.reports[1].hypothesis, 2)


def test_missing_predictions_and_other_references_are_said(folder: StudyFolder) -> None:
    predictions = [p.model_copy(update={"reference": "Other."}) for p in copies(folder)[:3]]
    scores = evaluate(predictions, folder)
    assert "only 3 of the split's 5 studies have a prediction and are scored" in scores.notes
    assert "3 predictions carry another reference than the data's findings, which count" in scores.notes


def test_meteor_is_never_made_up(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    scores = evaluate(copies(folder), folder)
    assert scores.rows["model"].meteor is None
    assert "METEOR not computed: no java" in scores.notes
    assert json.loads(scores.to_json())["rows"]["model"]["meteor"] is None


def test_the_table_says_how_it_was_made(folder: StudyFolder) -> None:
    table = evaluate(copies(folder), folder).table()
    for part in (
        "phantom, split test, n = 5 of 5",
        "r2gen|clean:iu",
        f"reports by {get_labeler().name}, of references exact",
    ):
        assert part in table
    for part in ("uncertain->0, macro-14", "Distinct reports: 2 of 5. Word for word in train: 100.0%", "F1 micro"):
        assert part in table


def test_ids_that_do_not_fit_are_listed(folder: StudyFolder) -> None:
    predictions = [*copies(folder), Prediction(id="s0", report="a"), Prediction(id="ghost", report="a")]
    with pytest.raises(DataError, match="2 of 7 predictions do not fit split test") as error:
        evaluate(predictions, folder)
    assert error.value.problems == ["ghost is not in the data", "s0 is of split train"]


def test_ids_given_twice_are_refused(folder: StudyFolder) -> None:
    with pytest.raises(DataError, match="s10 is given more than once"):
        evaluate([*copies(folder), copies(folder)[0]], folder)


def test_an_unknown_protocol_is_refused(folder: StudyFolder) -> None:
    with pytest.raises(UsageError, match="'r2gn'; there are: r2gen, r2gengpt, raw"):
        evaluate(copies(folder), folder, "r2gn")
    with pytest.raises(UsageError, match="no section 'history'; there are: findings, impression"):
        evaluate(copies(folder), folder, section="history")


def test_a_split_without_training_studies_is_refused(folder: StudyFolder) -> None:
    with pytest.raises(DataError, match="no training studies"):
        evaluate(copies(folder), StudyFolder(folder.path, folder.card, folder.split("test")))


def test_problems_of_a_predictions_file_are_listed_with_their_lines(tmp_path: Path) -> None:
    good = '{"id": "a", "report": "x", "reference": "y", "exemplar": null, "probabilities": null}'
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(f'{good}\n{{"id": 3}}\nnot json\n[]\n{good}\n'.encode() + b"\xff\xfe\n")
    with pytest.raises(DataError, match="5 of its lines are not predictions") as error:
        read_predictions(path)
    starts = [
        "line 2: report: Field required",
        "line 3: not JSON",
        "line 4: not an object but list",
        "line 5: id a was already",
        "line 6: not",
    ]
    assert [p[: len(s)] for p, s in zip(error.value.problems, starts, strict=True)] == starts


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), ("", "holds no predictions")])
def test_missing_and_empty_files_are_told_apart(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "predictions.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_a_metrics_file_that_cannot_be_written_leaves_the_old_one(
    folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, path = evaluate(copies(folder), folder), tmp_path / "metrics.json"
    write_scores(scores, path)
    before = path.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RRGError, match="No space left"):
        write_scores(scores, path)
    assert path.read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "metrics.json"]


@pytest.fixture
def run(folder: StudyFolder, tmp_path: Path) -> Path:
    """A run folder with predictions."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"data": str(folder.path), "split": "test", "more": 1}))
    (path / "predictions.jsonl").write_text("".join(p.model_dump_json() + "\n" for p in copies(folder)))
    return path


def test_the_command_prints_the_table_and_writes_metrics(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    assert "best constant" in capsys.readouterr().out
    assert json.loads((run / "metrics.json").read_text())["rows"]["model"]["bleu_4"] == pytest.approx(1)


def test_the_command_prints_json_for_a_file_alone(
    run: Path, folder: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shutil.copy(run / "predictions.jsonl", tmp_path / "else.jsonl")
    out = tmp_path / "m.json"
    assert main(["evaluate", str(file), "--data", str(folder.path), "--json", "-o", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (lambda run: (run / "run.json").unlink(), 2, "add --data DIR"),
        (lambda run: (run / "run.json").write_text("{"), 1, "cannot be read as JSON"),
        (lambda run: (run / "run.json").write_text('{"data": 3}'), 1, "both strings"),
        (lambda run: (run / "run.json").write_text('{"data": "gone"}'), 1, "gone"),
        (lambda run: (run / "predictions.jsonl").unlink(), 1, "no such file"),
    ],
)
def test_the_command_says_what_is_wrong(
    run: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], code: int, message: str
) -> None:
    spoil(run)
    assert main(["evaluate", str(run)]) == code
    assert message in capsys.readouterr().err
    assert not (run / "metrics.json").exists()


@pytest.fixture(scope="module")
def iu_xray() -> StudyFolder:
    if not (IU_XRAY / "annotation.json").is_file():
        pytest.skip("no IU X-Ray folder: set RRG_IU_XRAY")
    annotation = json.loads((IU_XRAY / "annotation.json").read_text(encoding="utf-8"))
    labels: dict[str, float | None] = dict.fromkeys(OBSERVATIONS)
    studies = [
        Study(
            id=x["id"], patient=x["uid"], split=split, file_names=x["image_path"], findings=x["report"], labels=labels
        )
        for split, items in annotation.items()
        for x in items
    ]
    return StudyFolder(IU_XRAY, {"name": "iu-xray", "labels": "chexpert"}, studies)


def test_iu_vocabulary_is_the_published_one(iu_xray: StudyFolder) -> None:
    assert len(Protocol.of((s.findings for s in iu_xray.split("train")), RULES["iu"]).vocabulary) == 760


def constant_figures(iu_xray: StudyFolder) -> Scores:
    return evaluate(copies(iu_xray), iu_xray)


def test_iu_best_constant_has_the_published_figures(iu_xray: StudyFolder) -> None:
    row = constant_figures(iu_xray).rows["best constant"]
    figures = [row.bleu_1, row.bleu_2, row.bleu_3, row.bleu_4, row.rouge_l, row.cider]
    assert [round(x, 3) for x in figures] == [0.5, 0.338, 0.24, 0.172, 0.363, 0.285]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs java")
def test_iu_best_constant_has_the_published_meteor(iu_xray: StudyFolder) -> None:
    meteor = constant_figures(iu_xray).rows["best constant"].meteor
    assert meteor is not None
    assert round(meteor, 3) == 0.224
