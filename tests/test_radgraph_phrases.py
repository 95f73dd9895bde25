"""Key phrases of RadGraph's annotations, and the files that hold them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrg.data import phrases
from rrg.data.phrases import phrases_of_annotation, read_annotations
from rrg.errors import DataError


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


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("3 . 5 cm", "3.5 cm"), ("1 . 5 - cm", "1.5-cm"), ("right - sided", "right-sided"), ("10 %", "10%"),
        ("4 - 5 mm", "4-5 mm"), ("patient ' s", "patient's"), ("3 x 4 cm", "3 x 4 cm"),
        ("2 , 5 cm", "2,5 cm"), ("peg - j - shaped", "peg-j-shaped"),
    ],
)  # fmt: skip
def test_marks_that_are_tokens_of_their_own_are_joined(tokens: str, expected: str) -> None:
    parts = [(tokens, "OBS-MEASURE-DP", ("modify", "2")), ("mass", "OBS-DP")]
    assert phrases_of_annotation(annotation(f"A {tokens} mass", *parts, long=True)) == [f"{expected} mass"]


def test_a_hyphen_between_the_entities_of_one_word_joins_them_and_a_dash_does_not() -> None:
    side = [("right", "ANAT-DP", ("modify", "3")), ("sided", "ANAT-DP", ("modify", "3")), ("mass", "OBS-DP")]
    assert phrases_of_annotation(annotation("right - sided mass", *side, long=True)) == ["right-sided mass"]
    dash = [("opacity", "OBS-DP"), ("small", "OBS-DP", ("modify", "1"))]
    assert phrases_of_annotation(annotation("opacity - small", *dash, long=True)) == ["opacity small"]


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
