"""Key phrases in a data folder: by rule, from RadGraph, refined; whole or not at all."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rrg.cli import main
from rrg.data.attach import CACHE, attach_phrases
from rrg.data.phrases import key_phrases
from rrg.data.study import METADATA, StudyFolder
from rrg.errors import DataError, UsageError
from rrg.generate.refine import host_refiner
from rrg.testing.data import noise_folder


@pytest.fixture
def studies(tmp_path: Path) -> StudyFolder:
    return noise_folder(tmp_path / "data", {"train": 3, "val": 1, "test": 1})


def annotation(tokens: str) -> dict[str, object]:
    entity = {"tokens": tokens, "label": "OBS-DP", "start_ix": 0, "end_ix": 0, "relations": []}
    return {"text": tokens, "entities": {"1": entity}}


def test_by_rule_every_study_has_its_phrases(studies: StudyFolder) -> None:
    counts = attach_phrases(studies)
    again = StudyFolder.open(studies.path)
    assert [s.phrases for s in again.studies] == [key_phrases(s.findings) for s in studies.studies]
    assert counts["by rule"] == 5
    assert counts["phrases"] == sum(len(s.phrases or ()) for s in again.studies) > 0
    assert {path.name for path in studies.path.iterdir()} == {"images", "README.md", "dataset.json", METADATA}


def test_radgraph_counts_before_the_rules(studies: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "radgraph.json").write_text(json.dumps({"train0": annotation("pacemaker")}))
    counts = attach_phrases(studies, annotations=tmp_path / "radgraph.json")
    assert counts["annotated"] == 1
    assert StudyFolder.open(studies.path).studies[0].phrases == ["pacemaker"]


def test_a_file_of_other_studies_changes_nothing(studies: StudyFolder, tmp_path: Path) -> None:
    before = (studies.path / METADATA).read_bytes()
    (tmp_path / "radgraph.json").write_text(json.dumps({"s50414267": annotation("pacemaker")}))
    with pytest.raises(DataError, match=r"such as 's50414267', are none of .*such as 'train0'"):
        attach_phrases(studies, annotations=tmp_path / "radgraph.json")
    assert (studies.path / METADATA).read_bytes() == before


def test_what_a_study_cannot_hold_is_left_out_and_the_folder_still_opens(studies: StudyFolder, tmp_path: Path) -> None:
    entities = {
        str(n): {"tokens": f"finding{n}", "label": "OBS-DP", "start_ix": n, "end_ix": n, "relations": []}
        for n in range(400)
    }
    entities["0"]["tokens"], entities["1"]["tokens"] = "x" * 5000, "odd\udc80one"
    text = " ".join(str(entity["tokens"]) for entity in entities.values())
    content = json.dumps({"train0": {"text": text, "entities": entities}})
    (tmp_path / "radgraph.json").write_text(content)
    attach_phrases(studies, annotations=tmp_path / "radgraph.json")
    [first, *_] = StudyFolder.open(studies.path).studies
    assert first.phrases == ["oddone", *(f"finding{n}" for n in range(2, 257))]


def test_another_models_unfinished_work_is_not_taken(studies: StudyFolder) -> None:
    def refine(given: Sequence[list[str]]) -> list[list[str]]:
        return [["refined"] for _ in given]

    line = ["other", "train0", key_phrases(studies.studies[0].findings), ["of the other"]]
    (studies.path / CACHE).write_text(json.dumps(line) + "\n")
    attach_phrases(studies, refine=refine, by="this")
    assert StudyFolder.open(studies.path).studies[0].phrases == ["refined"]


def test_an_interrupted_refinement_goes_on_where_it_stopped(studies: StudyFolder) -> None:
    asked: list[Sequence[list[str]]] = []

    def refine(given: Sequence[list[str]], fail_at: int = 3) -> list[list[str]]:
        asked.append(given)
        if len(asked) == fail_at:
            raise KeyboardInterrupt
        return [[phrase.upper() for phrase in phrases] for phrases in given]

    before = (studies.path / METADATA).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        attach_phrases(studies, refine=refine, batch=1)
    assert (studies.path / METADATA).read_bytes() == before
    with (studies.path / CACHE).open("a") as file:
        file.write('["train2", ["cut')
    attach_phrases(studies, refine=refine, batch=1)
    assert len(asked) == 3 + 2  # train and val are four studies, two were done
    for study in StudyFolder.open(studies.path).studies:
        plain = key_phrases(study.findings)
        assert study.phrases == (plain if study.split == "test" else [phrase.upper() for phrase in plain])
    assert not (studies.path / CACHE).exists()


def test_a_language_model_refines(
    studies: StudyFolder, language_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "phrases", str(studies.path), "--refine", str(language_model)]) == 0
    said = capsys.readouterr().out
    assert "train0: The heart is enlarged." in said
    assert "0 annotated, 5 by rule" in said
    with pytest.raises(UsageError, match="tiny is built at random"):
        host_refiner("tiny")


def test_a_folder_in_the_place_of_annotations_is_named(
    studies: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "phrases", str(studies.path), "--radgraph", str(tmp_path)]) == 1
    assert f"{tmp_path}: no JSON file of RadGraph annotations" in capsys.readouterr().err
    lines = (studies.path / METADATA).read_text().splitlines()
    (studies.path / METADATA).write_text("\n".join([json.dumps({**json.loads(lines[0]), "phrases": 3}), *lines[1:]]))
    assert main(["data", "phrases", str(studies.path)]) == 1
    assert "phrases: Input should be a valid array" in capsys.readouterr().err
