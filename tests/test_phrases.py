"""Key phrases: by rules from reports, composed of RadGraph's annotations, read from files and refined."""

import csv
import json
import os
import re
import time
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrg.data import phrases
from rrg.data.phrases import REFINE, key_phrases, parse_refined, phrases_of_annotation, read_annotations
from rrg.errors import DataError
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
def test_time_stays_linear_in_a_degenerate_text(word: str) -> None:
    start = time.process_time()
    key_phrases(word * (65536 // len(word)))
    assert time.process_time() - start < 4


def annotation(text: str, *entities: tuple[Any, ...], long: bool = False) -> dict[str, Any]:
    """RadGraph's form of (words, label, *relations), each at the first place where the text has these words."""
    tokens, found = text.lower().split(), {}
    spell = {"OBS": "Observation", "ANAT": "Anatomy", "DP": "definitely present", "DA": "definitely absent"}
    spell |= {"U": "uncertain", "MEASURE": "measurement"}
    for number, (words, label, *relations) in enumerate(entities, 1):
        split = words.split()
        start = next(i for i in range(len(tokens)) if tokens[i : i + len(split)] == split)
        found[str(number)] = {
            "tokens": words,
            "label": "::".join(spell[part] for part in label.split("-")) if long else label,
            "start_ix": start,
            "end_ix": start + len(split) - 1,
            "relations": [list(relation) for relation in relations],
        }
    return {"text": text, "entities": found, "data_source": None, "data_split": "inference"}


EFFUSION = (
    "There is a small left pleural effusion .",
    ("small", "OBS-DP", ("modify", "4")),
    ("left", "ANAT-DP", ("modify", "3")),
    ("pleural", "ANAT-DP"),
    ("effusion", "OBS-DP", ("located_at", "3")),
)
ANNOTATIONS = [
    (EFFUSION, ["small left pleural effusion"]),
    (
        (
            "Patchy opacity is seen in the left lower lobe",
            ("patchy", "OBS-DP", ("modify", "2")),
            ("opacity", "OBS-DP", ("located_at", "5")),
            ("left", "ANAT-DP", ("modify", "5")),
            ("lower", "ANAT-DP", ("modify", "5")),
            ("lobe", "ANAT-DP"),
        ),
        ["patchy opacity in left lower lobe"],
    ),
    (
        (
            "The heart is mildly enlarged .",
            ("heart", "ANAT-DP"),
            ("mildly", "OBS-DP", ("modify", "3")),
            ("enlarged", "OBS-DP", ("located_at", "1")),
        ),
        ["mildly enlarged heart"],
    ),
    (("Lungs clear", ("lungs", "ANAT-DP"), ("clear", "OBS-DP", ("located_at", "1"))), ["clear lungs"]),
    (
        (
            "degenerative changes of the thoracic spine",
            ("degenerative", "OBS-DP", ("modify", "2")),
            ("changes", "OBS-DP", ("located_at", "4")),
            ("thoracic", "ANAT-DP", ("modify", "4")),
            ("spine", "ANAT-DP"),
        ),
        ["degenerative changes of thoracic spine"],
    ),
    (
        (
            "opacities in the upper and middle lobes may represent pneumonia",
            ("opacities", "OBS-DP", ("located_at", "4"), ("suggestive_of", "5")),
            ("upper", "ANAT-DP", ("modify", "4")),
            ("middle", "ANAT-DP", ("modify", "4")),
            ("lobes", "ANAT-DP"),
            ("pneumonia", "OBS-U"),
        ),
        ["opacities in upper and middle lobes"],
    ),
    (
        (
            "no effusion , acute or chronic , but a mass",
            ("effusion", "OBS-DA"),
            ("acute", "OBS-DP", ("modify", "1")),
            ("chronic", "OBS-DA", ("modify", "4")),
            ("mass", "OBS-DP"),
        ),
        ["mass"],
    ),
    (
        (
            "calcification of the tortuous thoracic aorta",
            ("calcification", "OBS-DP", ("located_at", "4")),
            ("tortuous", "OBS-DP", ("modify", "4")),
            ("thoracic", "ANAT-DP", ("modify", "4")),
            ("aorta", "ANAT-DP"),
        ),
        ["calcification of thoracic aorta", "tortuous thoracic aorta"],
    ),
    (
        ("prominent and wide hila", ("prominent", "OBS-DP", ("located_at", "2")), ("hila", "ANAT-DP")),
        ["prominent hila"],
    ),
    (("mild", ("mild", "OBS-DP")), []),
    (("a mass of tissue", ("mass", "OBS-DP", ("modify", "2")), ("tissue", "OBS-DP", ("modify", "1"))), []),
    (("",), []),
]


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(("given_", "expected"), ANNOTATIONS)
def test_an_annotation_gives_a_phrase_for_each_present_observation(
    given_: tuple[Any, ...], expected: list[str], long: bool
) -> None:
    assert phrases_of_annotation(annotation(*given_, long=long)) == expected


def test_a_measurement_qualifies_and_is_no_phrase() -> None:
    found = annotation(
        "et tube terminates 2 cm above the carina ; 9 x 4 mm",
        ("et tube", "OBS-DP", ("located_at", "2")),
        ("2 cm above", "ANAT-MEASURE-DP", ("modify", "3")),
        ("carina", "ANAT-DP"),
        ("9 x 4 mm", "OBS-MEASURE-DP"),
        long=True,
    )
    assert phrases_of_annotation(found) == ["et tube terminates 2 cm above carina"]


def test_without_the_text_later_anatomy_is_joined_by_in() -> None:
    found = annotation("mass of liver", ("mass", "OBS-DP", ("located_at", "2")), ("liver", "ANAT-DP"))
    del found["text"]
    assert phrases_of_annotation(found) == ["mass in liver"]


NAMES = ["1", "2", "3", "4", "5"]
ENTITIES = st.fixed_dictionaries(
    {
        "tokens": st.sampled_from(["Mass", "left lung", "enlarged", "mild", "", "tip"]),
        "label": st.sampled_from(["OBS-DP", "OBS-U", "ANAT-DP", "Anatomy::measurement::definitely present"]),
        "start_ix": st.integers(-2, 9),
        "end_ix": st.integers(-2, 9),
        "relations": st.lists(
            st.tuples(st.sampled_from(["modify", "located_at", "suggestive_of"]), st.sampled_from([*NAMES, "9"]))
        ),
    }
)


@settings(deadline=None)
@given(st.text(alphabet="ab ,ofin", max_size=40), st.dictionaries(st.sampled_from(NAMES), ENTITIES))
def test_any_graph_gives_phrases_of_its_own_words(text: str, entities: dict[str, Any]) -> None:
    words = {word for e in entities.values() if e["label"] != "OBS-U" for word in e["tokens"].lower().split()}
    found = phrases_of_annotation({"text": text, "entities": entities})
    assert {word for phrase in found for word in phrase.split()} <= words | {"in", "and", *text.split()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "OBS"}, r"entities\.1\.label"),
        ({"label": "CHAN-CON"}, r"entities\.1\.label"),
        ({"start_ix": "first"}, r"entities\.1\.start_ix"),
        ({"relations": [["modify"]]}, r"entities\.1\.relations"),
        ({"tokens": None}, r"entities\.1\.tokens"),
    ],
)
def test_an_entity_of_another_form_is_refused_by_name(change: Mapping[str, Any], message: str) -> None:
    found = annotation("mass", ("mass", "OBS-DP"))
    found["entities"]["1"] |= change
    with pytest.raises(DataError, match=message):
        phrases_of_annotation(found)


@pytest.mark.parametrize("found", [{}, {"entities": []}, {"text": 3, "entities": {}}, "mass", None])
def test_what_is_no_annotation_is_refused(found: Any) -> None:
    with pytest.raises(DataError, match="expected a RadGraph annotation"):
        phrases_of_annotation(found)


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "graphs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"p10/p10000032/s50414267.txt": annotation(*EFFUSION)}, ["s50414267"]),
        ({"0": annotation(*EFFUSION, long=True), "1.5": annotation(*EFFUSION)}, ["0", "1.5"]),
        ({"train": {"a/s1.txt": annotation(*EFFUSION)}, "test": {"s2.txt": annotation(*EFFUSION)}}, ["s1", "s2"]),
        ({"a/s1.txt": {"text": "", "labeler_1": annotation(*EFFUSION), "labeler_2": annotation("")}}, ["s1"]),
    ],
)
def test_a_file_gives_phrases_by_report(tmp_path: Path, content: Any, names: list[str]) -> None:
    assert read_annotations(written(tmp_path, content)) == {name: ["small left pleural effusion"] for name in names}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([], "expected an annotation, not list"),
        ({"s1": 3}, "report 's1': expected an annotation, not int"),
        ({"s1": {"text": "mass"}}, "report 'text': expected an annotation, not str"),
        ({"s1": {"entities": {"1": {}}}}, "report 's1': expected a RadGraph annotation"),
        ({"a/s1.txt": annotation(""), "b/s1.txt": annotation("")}, "two reports are named 's1'"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_annotations(written(tmp_path, content))


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no JSON file"):
        read_annotations(tmp_path / "absent.json")
    monkeypatch.setattr(phrases, "MAX_BYTES", 9)
    with pytest.raises(DataError, match="no JSON file"):
        read_annotations(written(tmp_path, {"0": annotation(*EFFUSION)}))


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
