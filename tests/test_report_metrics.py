"""`rrg report`: which numbers it takes from metrics.json."""

import json
import re
from pathlib import Path

import pytest

from report_pages import page_of
from report_runs import change, every_case
from rrg.errors import DataError
from rrg.evaluate import read_predictions
from rrg.evaluate.scores import MODEL
from rrg.labels import get_labeler
from rrg.report.cases import cases_of
from rrg.report.page import read_studies
from rrg.report.scores import Cell, read_metrics


def test_an_interval_of_macro_f1_goes_with_it(scored: Path) -> None:
    rows = json.loads((scored / "metrics.json").read_text())["rows"]
    rows[MODEL]["intervals"] = {"f1_macro": [0.3, 0.4]}
    change(scored / "metrics.json", rows=rows)
    table = read_metrics(scored / "metrics.json").tables[""]
    assert table.cells[("clinical", "macro", "f1")][MODEL].interval == (0.3, 0.4)
    assert ("f1_macro",) not in table.cells


def test_intervals_are_shown(scored: Path) -> None:
    path = scored / "metrics.json"
    content = json.loads(path.read_text())
    content["rows"]["model"]["intervals"] = {"bleu_4": [0.1, 0.25]}
    path.write_text(json.dumps(content))
    cell = read_metrics(path).tables[""].cells[("bleu_4",)][MODEL]
    assert cell.interval == (0.1, 0.25)
    assert cell.value is not None
    page = page_of(scored)
    assert "0.100 – 0.250" in page.text
    assert "Intervals 95 %: percentile bootstrap, 1,000 resamples of whole patients, seed 0" in page.text


def test_presets_and_radgraph_are_folded_up(scored: Path) -> None:
    path = scored / "metrics.json"
    content = json.loads(path.read_text())
    for number, name in enumerate(content["rows"]):
        figure = {"precision": 0.5, "recall": 0.5, "f1": number + 0.125, "support": 3}
        content["rows"][name]["presets"] = {"promptmrg": {"example-14|uncertain->0": figure}}
    content |= {
        "presets": {"promptmrg": "reports:rules|paper:CheXbert"},
        "radgraph": {"all": {"simple": {"precision": 0.5, "recall": 0.5, "f1": 0.321}}, "abnormal": {}},
        "repeated": {"report": "the heart .", "count": 17},
    }
    path.write_text(json.dumps(content))
    metrics = read_metrics(path)
    way = ("presets", "promptmrg", "example-14|uncertain->0", "f1")
    assert metrics.tables[""].cells[way][MODEL] == Cell(0.125)
    assert way not in metrics.tables[""].metrics
    page = page_of(scored)
    assert len(page.all("details")) == 2
    assert "promptmrg, example-14|uncertain->0, f1 0.125 1.125 2.125 3.125" in page.text
    assert "presets promptmrg reports:rules|paper:CheXbert" in page.text
    assert "radgraph all simple f1 0.321" in page.text
    assert "17 times the most frequent report" in page.text


def test_labels_and_scores_of_each_report_are_those_of_the_metrics(scored: Path) -> None:
    labels = {"Edema": 1, "Cardiomegaly": -1, "No Finding": 0}
    [report] = [r for r in json.loads((scored / "metrics.json").read_text())["reports"] if r["id"] == "right"]
    report |= {"labels": labels, "reference_labels": {"Fracture": 1}, "bleu_4": 0.4321, "rouge_l": 0.5, "cider": 1.25}
    change(scored / "metrics.json", reports=[report])
    predictions, metrics = read_predictions(scored / "predictions.jsonl"), read_metrics(scored / "metrics.json")
    folder = read_studies(scored.parent / "data", predictions)
    reports = {report.id: report for report in metrics.scores.reports}
    cases = {case.id: case for case in cases_of(predictions, folder, get_labeler(), reports)}
    assert cases["right"].findings == {"Edema": "hallucinated", "Fracture": "missed"}
    assert cases["right"].scores == {"bleu_4": 0.4321, "rouge_l": 0.5, "cider": 1.25}
    assert cases["half"].findings == every_case(scored)["half"].findings
    assert "This report alone: BLEU-4 0.432, ROUGE-L 0.500, CIDEr 1.250" in page_of(scored).text


def test_numbers_that_are_none_or_nan_are_dashes(scored: Path) -> None:
    content = json.loads((scored / "metrics.json").read_text())
    content["rows"]["model"]["cider"] = float("nan")
    content["verbatim"] = None
    (scored / "metrics.json").write_text(json.dumps(content))
    text = page_of(scored).text
    assert re.search(r"METEOR – – – –", text)
    assert re.search(r"CIDEr – \d", text)
    assert "nan" not in text.replace("sources", "")


def test_metrics_of_other_predictions_are_said(scored: Path) -> None:
    change(scored / "metrics.json", n=9)
    assert "metrics.json scores 9 studies, predictions.jsonl has 6; score anew" in page_of(scored).text


def test_an_unknown_labeler_is_replaced_and_that_is_said(scored: Path) -> None:
    change(scored / "metrics.json", labeler="someone's")
    ours = get_labeler().name
    assert f"marked by the labeler {ours}, not by someone's, which made the scores" in page_of(scored).text


def test_a_metrics_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.json: no such file; `rrg evaluate .*` writes it"):
        read_metrics(tmp_path / "metrics.json")
