"""RadGraph F1 from annotation files: the three levels by hand, files and errors."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrg.errors import DataError
from rrg.evaluate.radgraph import LEVELS, Annotation, Overlap, mean, overlap, radgraph_scores, read_annotations


def entity(tokens: str, label: str = "Observation::definitely present", *relations: list[str]) -> dict[str, Any]:
    return {"tokens": tokens, "label": label, "start_ix": 3, "end_ix": 3, "relations": list(relations)}


ANATOMY = "Anatomy::definitely present"
REFERENCE = {
    "text": "small left effusion , Clear right lung",
    "entities": {
        "1": entity("small", "Observation::definitely present", ["modify", "3"]),
        "2": entity("left", ANATOMY),
        "3": entity("effusion", "Observation::definitely present", ["located_at", "2"]),
        "4": entity("lung", ANATOMY),
    },
}
GENERATED = {
    "entities": {
        "1": entity("Small", "Observation::definitely present", ["modify", "2"]),
        "2": entity("effusion", "Observation::definitely present", ["located_at", "3"]),
        "3": entity("right", ANATOMY),
        "4": entity("lung", ANATOMY),
    },
}


def annotation(content: dict[str, Any]) -> Annotation:
    return Annotation.model_validate(content)


def test_the_three_levels_by_hand() -> None:
    """Simple: effusion and lung of 4 and 4 (`Small` is not `small`). Partial: the same, each with its relation.
    Complete: `small modifies effusion` in lower case, and lung; the effusion lies elsewhere."""
    made, there = annotation(GENERATED), annotation(REFERENCE)
    for level in LEVELS:
        assert overlap(made, there, level) == Overlap(0.5, 0.5, 0.5)
    without = annotation({"entities": {**GENERATED["entities"], "2": entity("effusion")}})
    assert overlap(without, there, "simple") == Overlap(0.5, 0.5, 0.5)
    assert overlap(without, there, "partial") == Overlap(0.25, 0.25, 0.25)
    assert overlap(without, there, "complete") == Overlap(0.5, 0.5, 0.5)


def test_complete_counts_every_relation_and_partial_each_entity_once() -> None:
    twice = annotation(
        {"entities": {"1": entity("a", "O", ["modify", "2"], ["modify", "3"]), "2": entity("b"), "3": entity("c")}}
    )
    once = annotation({"entities": {"1": entity("a", "O", ["modify", "2"]), "2": entity("b")}})
    assert overlap(once, twice, "partial") == Overlap(1.0, 2 / 3, 0.8)
    assert overlap(once, twice, "complete") == Overlap(1.0, 0.5, 2 / 3)


def test_repeated_entities_count_once() -> None:
    many = annotation({"entities": {str(i): entity("effusion") for i in range(5)}})
    assert overlap(many, annotation({"entities": {"1": entity("effusion")}}), "simple") == Overlap(1.0, 1.0, 1.0)


def test_a_report_without_entities_scores_nothing() -> None:
    empty, full = annotation({"entities": {}}), annotation(REFERENCE)
    for pair in ((empty, full), (full, empty), (empty, empty)):
        assert overlap(*pair, "simple") == Overlap(0.0, 0.0, 0.0)
    both = radgraph_scores(["a", "b"], {"a": full, "b": empty}, {"a": full, "b": full})
    assert mean(both) == dict.fromkeys(LEVELS, Overlap(0.5, 0.5, 0.5))


ENTITIES = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.booleans()), min_size=1, max_size=6)


@given(ENTITIES, ENTITIES)
def test_levels_are_symmetric_and_a_report_equals_itself(first: list[Any], second: list[Any]) -> None:
    made, there = (
        annotation(
            {"entities": {str(i): entity(t, o, *([["modify", "0"]] if r else [])) for i, (t, o, r) in enumerate(e)}}
        )
        for e in (first, second)
    )
    for level in LEVELS:
        forth, back = overlap(made, there, level), overlap(there, made, level)
        assert (forth.precision, forth.recall, forth.f1) == (back.recall, back.precision, back.f1)
        assert overlap(made, made, level) == Overlap(1.0, 1.0, 1.0)


def test_a_file_as_radgraph_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"s1": {**REFERENCE, "data_source": None, "data_split": "inference"}}))
    assert read_annotations(path) == {"s1": annotation(REFERENCE)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"{", "not JSON in UTF-8"),
        (b"\xff\xfe{}", "not JSON in UTF-8"),
        (b"[1]", "no RadGraph annotations"),
        (b'{"s1": {"text": "a"}}', "s1.entities: Field required; expected an object of study id"),
        (b'{"s1": {"entities": {"1": {"tokens": 3, "label": "O"}}}}', "s1.entities.1.tokens"),
        (b'{"s1": {"entities": {"1": {"tokens": "a", "label": "O", "relations": [["modify", "9"]]}}}}', "to 9, which"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "annotations.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_annotations(path)


def test_annotations_are_matched_by_id_never_by_place() -> None:
    full = annotation(REFERENCE)
    with pytest.raises(DataError, match=r"of the generated reports: none for 2 of 2 .* \(found: 0, 1\)"):
        radgraph_scores(["s1", "s2"], {"0": full, "1": full}, {"s1": full, "s2": full})
