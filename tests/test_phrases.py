"""Key phrases: by rules from reports, and refined by a language model."""

import csv
import json
import os
import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hangs import hang_guard
from rrg.data.phrases import REFINE, key_phrases, parse_refined
from rrg.labels.rules import sentences

IU_XRAY = Path(os.environ.get("RRG_IU_XRAY", Path(__file__).parents[2] / "shared/data/iu_xray"))
LEXICON = tomllib.loads((files("rrg.data") / "phrases.toml").read_text(encoding="utf-8"))
LEXICON = {name: table for name, table in LEXICON.items() if "letter" in table}

SENTENCES = {
    "There is a small left pleural effusion.": ["small left pleural effusion"],
    "The heart is again mildly enlarged.": ["mildly enlarged heart"],
    "Degenerative changes are present in the thoracic spine.": ["degenerative changes in thoracic spine"],
    "There is a right internal jugular catheter.": ["right internal jugular catheter"],
    "Hazy opacity of the left lower lobe is seen.": ["hazy opacity of left lower lobe"],
    "Heart size and hilar contours are within normal limits.": ["normal heart size", "normal hilar contours"],
    "The lungs are hyperinflated but clear.": ["hyperinflated lungs", "clear lungs"],
    "The aorta is normal in caliber and contour.": ["normal aorta caliber and contour"],
    "Clear right lung.": ["clear right lung"],
    "A 9 mm nodule projects over the right fifth rib.": ["9 mm nodule projects over right fifth rib"],
    "The endotracheal tube terminates 4 cm above the carina.": ["endotracheal tube terminates 4 cm above carina"],
    "Calcified granulomas in the right middle and lower lobes.": [
        "calcified granulomas in right middle and lower lobes"
    ],
    "Scarring is noted at both apices, and the ribs are intact.": ["scarring at apices", "intact ribs"],
    "Mild elevation left hemidiaphragm.": ["mild elevation left hemidiaphragm"],
    "Compression deformity of T8.": ["compression deformity of t8"],
    "There is no change in the large hiatal hernia.": ["large hiatal hernia"],
    "No focal consolidation, the trachea is midline.": ["midline trachea"],
    "Patchy bibasilar opacities that may represent aspiration or atelectasis.": ["patchy bibasilar opacities"],
    "Basal opacity, atelectasis rather than pneumonia.": ["basal opacity", "atelectasis"],
    "The ___ lead pacemaker and XXXX sternotomy wires.": ["pacemaker", "sternotomy wires"],
    "The heart and pulmonary XXXX are normal.": ["normal heart"],
    "Tube in the left chest XXXX.": ["tube"],
    "Heart size is normal, stable mediastinal contours.": ["normal heart size", "stable mediastinal contours"],
    "Heart size and hilar silhouette are normal in contour.": ["normal heart size", "normal hilar silhouette contour"],
    "Granuloma in the periphery of the left lung.": ["granuloma in periphery of left lung"],
    "The lungs are clear the heart is enlarged": ["clear lungs", "enlarged heart"],
    "Moderately-inflated lungs.": ["moderately-inflated lungs"],
    "Clear on the left as right basal opacity.": ["right basal opacity"],
}
NOTHING = [
    "No pneumothorax.",
    "There is no pleural effusion or focal consolidation.",
    "Lungs are free of focal airspace disease.",
    "The heart is not enlarged.",
    "The lungs are not clear.",
    "The chest tube has been removed.",
    "A pleural effusion is not seen.",
    "Negative for fracture.",
    "Possible right lower lobe pneumonia.",
    "The heart may be enlarged.",
    "Possibly the heart is enlarged.",
    "Parts of the left lung are clear.",
    "Size and position are normal.",
    "Satisfactory position.",
    "Small apical pneumothorax cannot be excluded.",
    "CT is recommended to evaluate for nodule.",
    "This opacity cannot be placed.",
    "Two views of the chest were obtained.",
    "There are no changes.",
    "Chest.",
    "",
    " \n\t ",
]
WORDS = [word for table in LEXICON.values() for word in table["words"]]
FINDINGS = LEXICON["finding"]["words"]
MODIFIERS = [word for word in LEXICON["modifier"]["words"] if word != "otherwise"]  # which ends what is negated
REPORTS = st.lists(st.sampled_from([*WORDS, ".", ". ", "no", "may", "or", "/", "with"])).map(" ".join)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_plain_sentence_gives_its_phrases(sentence: str) -> None:
    assert key_phrases(sentence) == SENTENCES[sentence]


@pytest.mark.parametrize(
    "measure",
    [
        "1.5-cm", "1.5 cm", "1.5cm", "3-4 mm", "1.5-2.0 cm", "1.5- to 2-cm", "5 to 6 mm", "1.5 x 2.0 cm", "1.5x2-cm",
        "2 cm x 3 cm", "1.2 by 3 cm", ".5 cm", "0,5 cm", "1.5-cm-thick", "10%", "2.5 %", "1.5-millimeter", "1/2-inch",
    ],
)  # fmt: skip
def test_a_measure_stays_whole(measure: str) -> None:
    assert key_phrases(f"A {measure} nodule in the left lung.") == [f"{measure} nodule in left lung"]
    assert key_phrases(f"There is no {measure} nodule.") == []


@pytest.mark.parametrize("sentence", NOTHING)
def test_what_is_absent_uncertain_or_no_finding_gives_nothing(sentence: str) -> None:
    assert key_phrases(sentence) == []


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(SENTENCES) + NOTHING)))
def test_phrases_come_in_the_order_of_the_text_each_once(chosen: list[str]) -> None:
    expected = [phrase for sentence in chosen for phrase in SENTENCES.get(sentence, [])]
    assert key_phrases("\n\n".join(chosen)) == list(dict.fromkeys(expected))


@settings(deadline=None)
@given(st.text() | REPORTS)
def test_a_phrase_holds_words_of_the_report_alone(report: str) -> None:
    found = key_phrases(report)
    words = set(re.findall(r"[\w'-]+|\S", " ".join(sentences(report)))) | set(re.findall(r"\d+\.\d+", report))
    assert {word for phrase in found for word in phrase.split()} <= words
    assert len(found) == len(set(found))
    assert all(found)


@settings(deadline=None)
@given(
    st.sampled_from(MODIFIERS),
    st.sampled_from(LEXICON["place adjective"]["words"]),
    st.sampled_from(FINDINGS),
    st.sampled_from(
        ["No {}.", "There is no evidence of {}.", "Clear, without {}.", "{} is not seen.", "Possible {}.", "May be {}."]
    ),
)
def test_no_finding_of_the_lexicon_escapes_a_negation_or_a_doubt(
    modifier: str, place: str, finding: str, sentence: str
) -> None:
    assert key_phrases(sentence.format(f"{modifier} {place} {finding}")) == []


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_of_the_lexicon_is_found(finding: str) -> None:
    assert key_phrases(f"There is mild {finding} in the left lung.") == [f"mild {finding} in left lung"]


def test_a_word_stands_in_one_table_and_every_table_has_its_own_letter() -> None:
    assert len(WORDS) == len(set(WORDS))
    letters = [table["letter"] for table in LEXICON.values()]
    assert len(letters) == len(set(letters))
    assert "X" not in letters


@pytest.mark.parametrize(
    "word",
    [
        "a",
        "heart ",
        "heart and ",
        "heart is ",
        "opacity of lung in ",
        "no opacity ",
        "normal and ",
        "left ",
        "é心İ ",
        "-",
    ],
)
def test_a_degenerate_text_comes_to_an_end(word: str) -> None:
    with hang_guard():
        key_phrases(word * (2**20 // len(word)))


def test_the_guard_stops_an_expression_that_backtracks() -> None:
    with pytest.raises(TimeoutError, match="still runs after 1 seconds"), hang_guard(1):
        re.match("(a|a)*b", "a" * 64)


GIVEN = ["small left pleural effusion", "enlarged heart", "opacity in left lower lobe"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            "1. Small left-sided pleural effusion.\n2) **Enlarged heart**\n- opacity of the left lower lobe",
            ["small left-sided pleural effusion", "enlarged heart", "opacity of the left lower lobe"],
        ),
        (
            "Here are the phrases:\n\n- effusion on the left\n\n- heart of large size\n\n- lobar opacity\n- mass",
            ["effusion on the left", "heart of large size", "lobar opacity"],
        ),
        ("small effusion\n\nlobe opacity", ["small effusion", "enlarged heart", "lobe opacity"]),
        ("1.\n2. cardiac pacemaker\n3. left fracture in the rib", GIVEN),
        ("no pleural effusion\npossibly enlarged heart\nopacity is not seen", GIVEN),
        ("effusion\neffusion", ["effusion", *GIVEN[1:]]),
        (
            "right pleural effusion\nenlarged left heart\nopacity in both lower lobes",
            [*GIVEN[:2], "opacity in both lower lobes"],
        ),
        ("3.5 cm effusion", ["3.5 cm effusion", *GIVEN[1:]]),
        ("", GIVEN),
    ],
)
def test_an_answer_refines_line_by_line_or_leaves_what_was_given(answer: str, expected: list[str]) -> None:
    assert parse_refined(answer, GIVEN) == expected


@settings(deadline=None)
@given(st.text() | REPORTS, st.lists(st.sampled_from(GIVEN), unique=True))
def test_no_answer_adds_phrases_or_is_refused(answer: str, given_: list[str]) -> None:
    found = parse_refined(answer, given_)
    assert len(found) <= len(given_)
    assert all(found)


def test_the_prompt_takes_phrases_of_any_text() -> None:
    assert "- a {b} phrase\nPhrases:\n" in REFINE.format(phrases="- a {b} phrase")


@pytest.fixture(scope="module")
def reports() -> list[str]:
    path = IU_XRAY / "annotation.json"
    if not path.is_file():
        pytest.skip("no IU X-Ray: set RRG_IU_XRAY")
    return [item["report"] for split in json.loads(path.read_text(encoding="utf-8")).values() for item in split]


def test_nearly_every_report_has_a_phrase(reports: list[str]) -> None:
    found = [key_phrases(report) for report in reports]
    assert sum(map(bool, found)) / len(found) >= 0.99
    assert sum(map(len, found)) / len(found) >= 3


@pytest.mark.parametrize(
    ("observation", "pattern", "recall"),
    [
        ("Pleural Effusion", "effusion", 0.75),
        ("Atelectasis", "atelecta", 0.9),
        ("Edema", "edema", 0.9),
        ("Fracture", "fractur", 0.5),
    ],
)
def test_phrases_agree_with_the_original_labeler(observation: str, pattern: str, recall: float) -> None:
    """It misreads some negations as present ("no displaced fracture"), which bounds the recall, not the precision."""
    path = IU_XRAY / "chexpert_labels_dev.csv"
    if not path.is_file():
        pytest.skip("no IU X-Ray labels: set RRG_IU_XRAY")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [any(pattern in phrase for phrase in key_phrases(row["report"])) for row in rows]
    wanted = [float(row[observation] or "nan") == 1 for row in rows]
    both = sum(f and w for f, w in zip(found, wanted, strict=True))
    assert both / sum(found) >= 0.95
    assert both / sum(wanted) >= recall
