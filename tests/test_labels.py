"""The rule-based labeler: single sentences, aggregation, the two modes, degenerate text."""

import tomllib
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hangs import hang_guard
from rrg.errors import UsageError
from rrg.labels import get_labeler
from rrg.labels.rules import RuleLabeler, aggregate, sentences
from rrg.observations import OBSERVATIONS

MODES = ("chexpert", "strict")
LABELERS = {mode: RuleLabeler(mode) for mode in MODES}
ALIKE = {
    "There is a small left pleural effusion.": {"Pleural Effusion": 1},
    "No pneumothorax.": {"Pneumothorax": 0},
    "Possible right lower lobe consolidation.": {"Consolidation": -1},
    "A right-sided chest tube is in place.": {"Support Devices": 1},
    "A pacemaker is in place.": {"Support Devices": 1},
    "A central venous catheter is in place.": {"Support Devices": 1},
    "The chest tube has been removed.": {"Support Devices": 0},
    "Interval removal of the tracheostomy tube and subclavian catheter.": {"Support Devices": 0},
    "The heart is enlarged.": {"Cardiomegaly": 1},
    "The heart is not significantly enlarged.": {"Cardiomegaly": 0},
    "The heart may be enlarged.": {"Cardiomegaly": -1},
    "Heart size is within normal limits.": {"Cardiomegaly": 0},
    "There is an acute fracture of the left sixth rib.": {"Fracture": 1},
    "There is a 9 mm nodule in the right upper lobe.": {"Lung Lesion": 1},
    "There is a 9 mm nodule, not seen on prior exams.": {"Lung Lesion": 1},
    "Density not seen on the previous exam, healed rib fracture noted.": {"Fracture": 1},
    "The mediastinum is widened.": {"Enlarged Cardiomediastinum": 1},
    "Mild mediastinal widening.": {"Enlarged Cardiomediastinum": 1},
    "The mediastinum is not widened.": {"Enlarged Cardiomediastinum": 0},
    "Bibasilar atelectasis.": {"Atelectasis": 1},
    "Scarring or atelectasis in the left base.": {"Lung Opacity": -1, "Atelectasis": -1},
    "Acute or subacute fracture.": {"Fracture": 1},
    "Right apical pleural thickening.": {"Pleural Other": 1},
    "Cannot exclude pneumonia.": {"Pneumonia": -1},
    "Pneumonia cannot be excluded.": {"Pneumonia": -1},
    "Atelectasis versus pneumonia.": {"Atelectasis": -1, "Pneumonia": -1},
    "Hazy densities may represent pneumonia.": {"Pneumonia": -1},
    "There is mild interstitial edema.": {"Edema": 1},
    "Mild pulmonary vascular congestion.": {"Edema": -1},
    "No pulmonary vascular congestion.": {"Edema": 0},
    "Pulmonary edema is possible.": {"Edema": -1},
    "The left pleural effusion has resolved.": {"Pleural Effusion": 0},
    "The pleural effusion is no longer seen.": {"Pleural Effusion": 0},
    "Negative for pneumothorax.": {"Pneumothorax": 0},
    "The lungs are free of consolidation.": {"Consolidation": 0},
    "There is no change in the small left pleural effusion.": {"Pleural Effusion": 1},
    "No pleural effusion, but there is left basilar atelectasis.": {"Pleural Effusion": 0, "Atelectasis": 1},
    "No focal consolidation, pleural effusion, or pneumothorax.": {
        "Consolidation": 0,
        "Pleural Effusion": 0,
        "Pneumothorax": 0,
    },
    "There are no XXXX of a pleural effusion.": {"Pleural Effusion": 0},
    "No acute changes of congestive heart failure.": {"Edema": 0},
    "Without acute changes of edema.": {"Edema": 0},
    "No change of the pleural effusion.": {"Pleural Effusion": 1},
    # Phrases that are no mention of what they seem to name.
    "Small pericardial effusion.": {},
    "Massive cervical spondylosis.": {},
}
DIFFERENT = {  # sentence: labels in mode `chexpert`, in mode `strict`
    "The cardiomediastinal silhouette is unchanged.": ({"Enlarged Cardiomediastinum": -1}, {}),
    "Mediastinal contours are stable.": ({"Enlarged Cardiomediastinum": -1}, {}),
    "Heart size normal, stable mediastinal contours.": (
        {"Cardiomegaly": 0, "Enlarged Cardiomediastinum": -1},
        {"Cardiomegaly": 0},
    ),
    "The heart size is enlarged but stable.": ({"Cardiomegaly": -1}, {"Cardiomegaly": 1}),
    "Clips overlie the mediastinum.": ({"Enlarged Cardiomediastinum": 1}, {}),
    "The heart size and vascularity appear within normal limits.": ({"Cardiomegaly": 1}, {"Cardiomegaly": 0}),
    "Heart size is upper limits of normal.": ({"Cardiomegaly": 1}, {"Cardiomegaly": 0}),
    "Heart size is mildly enlarged, pulmonary vascularity within normal limits.": (
        {"Cardiomegaly": 0},
        {"Cardiomegaly": 1},
    ),
    "Heart is enlarged, bony structures within limits.": ({"Cardiomegaly": 0}, {"Cardiomegaly": 1}),
    "Stable cardiomediastinal silhouette with normal heart size.": (
        {"Enlarged Cardiomediastinum": -1, "Cardiomegaly": 0},
        {"Cardiomegaly": 0},
    ),
    "Congestive heart failure.": ({"Edema": 1, "Cardiomegaly": -1}, {"Edema": 1}),
    "No heart failure.": ({"Edema": 0}, {"Edema": 0}),
    "No displaced rib fractures.": ({"Fracture": 1}, {"Fracture": 0}),
    "No new opacity.": ({"Lung Opacity": -1}, {"Lung Opacity": 0}),
    "No findings to suggest pleural effusion.": ({"Pleural Effusion": 1}, {"Pleural Effusion": 0}),
    "Pleural effusion is not seen.": ({"Pleural Effusion": 1}, {"Pleural Effusion": 0}),
    "Prior lumpectomy.": ({"Lung Lesion": 1}, {}),
    "Degenerative endplate changes.": ({"Support Devices": 1}, {}),
    "Calcified nodule.": ({}, {"Lung Lesion": 1}),
    "Opacity suggesting pneumonia.": ({"Lung Opacity": 1, "Pneumonia": 1}, {"Lung Opacity": 1, "Pneumonia": -1}),
}


def found(mode: str, report: str) -> dict[str, int]:
    return {name: value for name, value in LABELERS[mode].label(report).items() if name != "No Finding"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sentence", ALIKE)
def test_a_plain_sentence_is_read_alike_in_both_modes(mode: str, sentence: str) -> None:
    assert found(mode, sentence) == ALIKE[sentence]


@pytest.mark.parametrize("sentence", DIFFERENT)
def test_the_modes_differ_where_the_original_misreads(sentence: str) -> None:
    assert (found("chexpert", sentence), found("strict", sentence)) == DIFFERENT[sentence]


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ([0], 0),
        ([-1], -1),
        ([1], 1),
        ([0, 0], 0),
        ([0, -1], -1),
        ([-1, 0], -1),
        ([0, 1], 1),
        ([-1, 1], 1),
        ([0, -1, 1], -1),
        ([1, -1, 0, 1], -1),
    ],
)
def test_mentions_are_aggregated_as_chexpert_does(values: list[int], label: int) -> None:
    assert aggregate(values) == label


def test_the_mentions_of_a_report_are_aggregated_over_its_sentences() -> None:
    told = ["No opacity in the apex.", "Possible opacity in the base.", "Opacity in the lingula."]
    assert found("chexpert", " ".join(told[:2])) == {"Lung Opacity": -1}
    assert found("chexpert", " ".join(told[1:])) == {"Lung Opacity": 1}
    assert found("chexpert", " ".join(told)) == {"Lung Opacity": -1}


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([*ALIKE, *DIFFERENT]), min_size=2, max_size=6).flatmap(
        lambda told: st.tuples(st.just(told), st.permutations(told))
    ),
    st.sampled_from(MODES),
)
def test_the_order_of_sentences_is_no_matter(told: tuple[list[str], list[str]], mode: str) -> None:
    one, other = map(" ".join, told)
    assert LABELERS[mode].label(one) == LABELERS[mode].label(other)


@settings(max_examples=50)
@given(st.text(), st.sampled_from(MODES))
def test_any_text_has_labels_of_the_four_classes(text: str, mode: str) -> None:
    labels = LABELERS[mode].label(text)
    assert set(labels) <= set(OBSERVATIONS)
    assert set(labels.values()) <= {1, 0, -1}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "report",
    ["The lungs are clear.", "No pneumothorax. A pacemaker is in place.", "Normal chest."],
)
def test_no_finding_holds_where_nothing_but_a_device_is_present(mode: str, report: str) -> None:
    assert LABELERS[mode].label(report)["No Finding"] == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "report",
    ["Small pleural effusion.", "Possible pneumonia.", "Calcified granuloma in the left lung.", "", " \n ", ".. ."],
)
def test_no_finding_is_blank_otherwise(mode: str, report: str) -> None:
    assert "No Finding" not in LABELERS[mode].label(report)


def test_rows_are_reports_and_columns_observations_by_name() -> None:
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


@pytest.mark.parametrize("mode", MODES)
def test_a_labeler_bears_its_mode_as_name(mode: str) -> None:
    assert get_labeler(mode).name == mode
    assert get_labeler().name == "chexpert"


def test_an_unknown_labeler_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match="'chexbart'; there are: chexpert, strict"):
        get_labeler("chexbart")


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_has_phrases_for_each_observation_and_readings_of_observations_only(mode: str) -> None:
    data = tomllib.loads((files("rrg.labels") / f"{mode}.toml").read_text(encoding="utf-8"))
    assert set(data["mention"]) == set(OBSERVATIONS)
    assert {reading["observation"] for reading in data.get("reading", [])} <= set(OBSERVATIONS) - {"No Finding"}
    assert {reading["label"] for reading in data.get("reading", [])} <= {1, 0, -1}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "phrase",
    [
        "no ", "no no, ", "opacity no ", "no displaced ", "a/", ". ", "previously a nodule ", "a-", "or a to ", "-",
        "no new ", "removal of a ", "the heart size ", "mediastinum and stable ", "may mass or ", "no mass. ",
        "x", "not be ", "\u2028no\u0130 mass ", "\n \n",
        "no\n", "no mass,\n", "mass: - ", "no mass, ", "mass? ", "no change of a ", "1. ", "w/ mass (", "and mass is ",
    ],
)  # fmt: skip
def test_a_degenerate_text_comes_to_an_end(mode: str, phrase: str) -> None:
    with hang_guard():
        LABELERS[mode].label(phrase * (2**19 // len(phrase)))


def test_what_a_very_long_report_says_is_found_at_its_end() -> None:
    report = "The lungs are clear. " * 5000 + "Small left pleural effusion."
    assert found("chexpert", report) == {"Pleural Effusion": 1}
