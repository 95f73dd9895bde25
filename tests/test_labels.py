"""The rule-based labeler: single sentences, aggregation, and agreement with the original labels on real reports."""

import csv
import hashlib
import os
import time
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from rrg.errors import UsageError
from rrg.labels import get_labeler
from rrg.labels.rules import RuleLabeler, aggregate, sentences
from rrg.observations import OBSERVATIONS

IU_XRAY = Path(os.environ.get("RRG_IU_XRAY", Path(__file__).parents[2] / "shared/data/iu_xray"))

SENTENCES = {
    "There is a small left pleural effusion.": {"Pleural Effusion": 1},
    "No pneumothorax.": {"Pneumothorax": 0},
    "Possible right lower lobe consolidation.": {"Consolidation": -1},
    "A right-sided chest tube is in place.": {"Support Devices": 1},
    "A pacemaker is in place.": {"Support Devices": 1},
    "A central venous catheter is in place.": {"Support Devices": 1},
    "The chest tube has been removed.": {"Support Devices": 0},
    "The heart is enlarged.": {"Cardiomegaly": 1},
    "The heart is not significantly enlarged.": {"Cardiomegaly": 0},
    "The heart may be enlarged.": {"Cardiomegaly": -1},
    "Heart size is within normal limits.": {"Cardiomegaly": 0},
    "There is an acute fracture of the left sixth rib.": {"Fracture": 1},
    "There is a 9 mm nodule in the right upper lobe.": {"Lung Lesion": 1},
    "There is a 9 mm nodule, not seen on prior exams.": {"Lung Lesion": 1},
    "There is a widened mediastinum.": {"Enlarged Cardiomediastinum": 1},
    "Mediastinal contours are stable.": {"Enlarged Cardiomediastinum": -1},
    "There is questionable widening of the mediastinum.": {"Enlarged Cardiomediastinum": -1},
    "Bibasilar atelectasis.": {"Atelectasis": 1},
    "Right apical pleural thickening.": {"Pleural Other": 1},
    "Cannot exclude pneumonia.": {"Pneumonia": -1},
    "Pneumonia cannot be excluded.": {"Pneumonia": -1},
    "There is mild interstitial edema.": {"Edema": 1},
    "Mild pulmonary vascular congestion.": {"Edema": -1},
    "Pulmonary edema is possible.": {"Edema": -1},
    "The left pleural effusion has resolved.": {"Pleural Effusion": 0},
    "Pleural effusion is not seen.": {"Pleural Effusion": 0},
    "There is no change in the small left pleural effusion.": {"Pleural Effusion": 1},
    "No pleural effusion, but there is left basilar atelectasis.": {"Pleural Effusion": 0, "Atelectasis": 1},
    "No focal consolidation, pleural effusion, or pneumothorax.": {
        "Consolidation": 0,
        "Pleural Effusion": 0,
        "Pneumothorax": 0,
    },
    "Heart size normal, stable mediastinal contours.": {"Cardiomegaly": 0, "Enlarged Cardiomediastinum": -1},
    "There are no XXXX of a pleural effusion.": {"Pleural Effusion": 0},
}


@pytest.fixture(scope="module")
def labeler() -> RuleLabeler:
    return RuleLabeler()


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_plain_sentence_is_read(labeler: RuleLabeler, sentence: str) -> None:
    found = {name: value for name, value in labeler.label(sentence).items() if name != "No Finding"}
    assert found == SENTENCES[sentence]


@pytest.mark.parametrize(("values", "label"), [([0, -1], -1), ([0, 1], 1), ([-1, 1, 0], 1), ([0, 0], 0), ([-1], -1)])
def test_mentions_are_aggregated_as_chexpert_does(values: list[int], label: int) -> None:
    assert aggregate(values) == label


@pytest.mark.parametrize(
    "report",
    ["The lungs are clear.", "No pneumothorax. A pacemaker is in place.", "Normal chest."],
)
def test_no_finding_holds_where_nothing_but_a_device_is_present(labeler: RuleLabeler, report: str) -> None:
    assert labeler.label(report)["No Finding"] == 1


@pytest.mark.parametrize(
    "report",
    ["Small pleural effusion.", "Possible pneumonia.", "Calcified granuloma in the left lung.", "", " \n ", ".. ."],
)
def test_no_finding_is_blank_otherwise(labeler: RuleLabeler, report: str) -> None:
    assert "No Finding" not in labeler.label(report)


def test_rows_are_reports_and_columns_observations() -> None:
    labels = get_labeler()(["Small left pneumothorax.", "", "No fracture."])
    assert labels.shape == (3, 14)
    assert labels.dtype == np.float32
    expected = np.full((3, 14), np.nan)
    expected[0, OBSERVATIONS.index("Pneumothorax")] = 1
    expected[2, [OBSERVATIONS.index("Fracture"), OBSERVATIONS.index("No Finding")]] = 0, 1
    np.testing.assert_array_equal(labels, expected)


def test_no_reports_give_no_rows() -> None:
    assert get_labeler()([]).shape == (0, 14)


def test_sentences_end_at_full_stops_but_not_within_numbers() -> None:
    report = "1. A 3.5 cm\nmass.  Heart/lungs stable.No effusion!"
    assert sentences(report) == ["1. a 3.5 cm mass", "heart or lungs stable", "no effusion"]


def test_what_the_original_misreads_is_repeated_by_rules_alone() -> None:
    report = "No displaced rib fractures."
    assert get_labeler("rules").label(report)["Fracture"] == 1
    assert get_labeler("rules-plain").label(report)["Fracture"] == 0


def test_an_unknown_labeler_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match="'chexbart'; there are: rules, rules-plain"):
        get_labeler("chexbart")


@pytest.mark.parametrize("table", ["mentions.toml", "slips.toml"])
def test_tables_name_observations_only(table: str) -> None:
    data = tomllib.loads((files("rrg.labels") / table).read_text(encoding="utf-8"))
    names = set(data) if table == "mentions.toml" else {slip["observation"] for slip in data["slip"]}
    assert names
    assert names <= set(OBSERVATIONS)


@pytest.mark.parametrize(
    "text", ["opacity no " * 3000, "no displaced " * 3000, "a/" * 20000, ". " * 20000, "previously a nodule " * 2000]
)
def test_time_stays_linear_in_a_degenerate_text(labeler: RuleLabeler, text: str) -> None:
    start = time.process_time()
    labeler.label(text)
    assert time.process_time() - start < 2


def _held_out() -> list[dict[str, str]]:
    """The half of the development file, by a hash of the study's name, whose reports were not read for the rules."""
    path = IU_XRAY / "chexpert_labels_dev.csv"
    if not path.is_file():
        pytest.skip("no IU X-Ray labels: set RRG_IU_XRAY")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if int(hashlib.sha256(row["uid"].encode()).hexdigest(), 16) % 2]


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray, np.ndarray, float]:
    """Labels found, labels wanted (reports, 14), and seconds of one core."""
    rows = _held_out()
    labeler, start = get_labeler(), time.process_time()
    found = labeler([row["report"] for row in rows])
    seconds = time.process_time() - start
    wanted = np.array([[float(row[name] or "nan") for name in OBSERVATIONS] for row in rows])
    return found, wanted, seconds


def test_positives_agree_with_the_original_labeler(held_out: tuple[np.ndarray, np.ndarray, float]) -> None:
    found, wanted, _ = held_out
    both = ((found == 1) & (wanted == 1)).sum(0)
    f1 = 2 * both / ((found == 1).sum(0) + (wanted == 1).sum(0))
    assert f1.mean() >= 0.85


def test_all_four_classes_agree_with_the_original_labeler(held_out: tuple[np.ndarray, np.ndarray, float]) -> None:
    found, wanted, _ = held_out
    assert ((found == wanted) | (np.isnan(found) & np.isnan(wanted))).mean() >= 0.98


def test_a_thousand_reports_take_a_second(held_out: tuple[np.ndarray, np.ndarray, float]) -> None:
    found, _, seconds = held_out
    assert len(found) / seconds >= 1000
