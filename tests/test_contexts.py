"""What training alone shows: reference reports, key phrases, and that a resumed run shows the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rrg.composing.composition import compose
from rrg.config import StageConfig
from rrg.data.study import Study, StudyFolder
from rrg.errors import UsageError
from rrg.feed.batch import Item
from rrg.feed.texts import Reference, Texts, phrases_of
from rrg.generate.predictions import write_predictions
from rrg.generate.reporter import load
from rrg.model.model import RRGModel
from rrg.observations import OBSERVATIONS
from rrg.retrieve.references import NEAREST, PATIENT, choose_references
from rrg.testing.compositions import SMALL
from rrg.testing.data import items, noise_folder
from rrg.train.training import train
from tiny_runs import Killed, weights_of

Composed = Callable[..., RRGModel]
PHRASES = [f"phrase {n}" for n in range(9)]


def study(name: str, split: str = "train", phrases: list[str] | None = None) -> Study:
    return Study(
        id=name, patient=name, split=split, file_names=["f.png"], findings=f"Findings of {name}.",
        labels=dict.fromkeys(OBSERVATIONS), phrases=PHRASES if phrases is None else phrases,
    )  # fmt: skip


def texts(seed: int = 0, wanted: tuple[str, ...] = ("report", "reference", "phrase"), **stage: Any) -> Texts:
    chosen = StageConfig(contexts=["reference", "phrase"], **stage)
    references = {"a": Reference("b", PATIENT, "Findings of b.")}
    return Texts(
        wanted, lambda found: (torch.tensor([[len(t)] for t in found]), torch.ones(1)), chosen, references, seed
    )


def test_a_study_is_shown_its_reference_and_some_of_its_phrases_in_their_order() -> None:
    shown = texts(phrases=3).of(study("a"))
    assert shown["report"] == "Findings of a."
    assert shown["reference"] == "Findings of b."
    chosen = shown["phrase"].split(". ")
    assert len(chosen) == 3
    assert chosen == sorted(set(chosen))
    assert texts().of(study("none"))["reference"] == ""
    assert texts(phrases=99).of(study("a"))["phrase"].split(". ") == PHRASES


def test_draws_depend_on_seed_epoch_and_study_alone_and_not_on_the_epoch_for_validation() -> None:
    def drawn(epoch: int = 0, seed: int = 0, split: str = "train", name: str = "a") -> str:
        source = texts(seed)
        source.epoch = epoch
        return source.of(study(name, split))["phrase"]

    assert drawn() == drawn()
    assert len({drawn(epoch) for epoch in range(20)}) > 5
    assert len({drawn(seed=seed) for seed in range(20)}) > 5
    assert len({drawn(name=f"s{n}") for n in range(20)}) > 5
    assert len({drawn(epoch, split="val") for epoch in range(20)}) == 1


def test_a_joint_stage_shows_each_study_none_the_first_or_all() -> None:
    source, seen = texts(joint=True), set()
    for epoch in range(60):
        source.epoch = epoch
        shown = source.of(study("a"))
        seen.add((bool(shown["reference"]), bool(shown["phrase"])))
    assert seen == {(False, False), (True, False), (True, True)}


def test_phrases_come_from_the_folder_else_from_the_findings() -> None:
    assert phrases_of(study("a", phrases=[])) == []
    assert phrases_of(study("a")) == PHRASES
    bare = study("a").model_copy(update={"phrases": None, "findings": "There is a small left pleural effusion."})
    assert phrases_of(bare) == ["small left pleural effusion"]


def test_a_batch_has_one_row_a_study() -> None:
    [one, two] = items([1, 1])
    batch = texts()([Item(study("a"), one.films), Item(study("c", phrases=[]), two.films)])
    assert {name: tuple(tensor.shape) for name, tensor in batch.items() if name.endswith("ids")} == {
        "report_ids": (2, 1), "reference_ids": (2, 1), "phrase_ids": (2, 1)
    }  # fmt: skip
    assert batch["phrase_ids"][1] == 0


def test_references_are_the_patients_own_else_the_nearest_of_another_patient(
    composed: Composed, folder: StudyFolder
) -> None:
    model = composed("s2d-align")
    model.begin("s2d-align.pag-2")
    chosen = choose_references(model, folder)
    known = {s.id: s for s in folder.studies}
    assert chosen.keys() == {s.id for s in folder.studies if s.split != "test"}
    for name, reference in chosen.items():
        own, other = known[name], known[reference.study]
        assert other.id != own.id
        assert other.findings == reference.report
        siblings = [s for s in folder.split(own.split) if s.patient == own.patient and s.id != own.id]
        assert (reference.why == PATIENT) == bool(siblings)
        assert other in siblings if siblings else other.patient != own.patient
        assert other.split == (own.split if siblings else "train")
    assert {r.why for r in chosen.values()} == {PATIENT, NEAREST}


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        (["2180-03-01", "2180-01-01T09:00:00", "2180-02-01"], {0: 2, 1: 2, 2: 1}),
        (["2180-01-01T09:00:00", "2180-01-01T10:30:00"], {0: 1, 1: 0}),
        (["2180-01-01", "2180-01-01", "2180-02-01"], {0: 2, 1: 2, 2: 1}),
        (["2180-03-01", "", "2180-01-01"], {0: 1, 1: 0, 2: 1}),
    ],
)
def test_a_patients_reference_is_the_newest_study_before_by_date(
    composed: Composed, folder: StudyFolder, dates: list[str], expected: dict[int, int]
) -> None:
    model = composed("s2d-align")
    model.begin("s2d-align.pag-2")
    films = folder.split("train")
    studies = [s.model_copy(update={"patient": "p", "date": d}) for s, d in zip(films, dates, strict=False)]
    chosen = choose_references(model, StudyFolder(folder.path, folder.card, studies))
    ids = [s.id for s in studies]
    assert {ids.index(name): ids.index(reference.study) for name, reference in chosen.items()} == expected
    assert {reference.why for reference in chosen.values()} == {PATIENT}


def test_studies_of_one_patient_at_one_time_do_not_stand_for_each_other(
    composed: Composed, folder: StudyFolder
) -> None:
    model = composed("s2d-align")
    model.begin("s2d-align.pag-2")
    dated = [s.model_copy(update={"patient": "p", "date": "2180-01-01"}) for s in folder.split("train")[:2]]
    other = folder.split("train")[2].model_copy(update={"patient": "q"})
    chosen = choose_references(model, StudyFolder(folder.path, folder.card, [*dated, other]))
    assert {name: (chosen[name].study, chosen[name].why) for name in (s.id for s in dated)} == {
        s.id: (other.id, NEAREST) for s in dated
    }


@pytest.fixture(scope="module")
def recipe() -> Any:
    settings = {**SMALL, "stages.batch_size": 2, "stages.epochs": 2, "core.text.width": 16, "image.augment": 0.3}
    return compose("s2d-align", settings=settings)


@pytest.fixture(scope="module")
def whole(recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, Path]:
    place = tmp_path_factory.mktemp("s2d")
    studies = noise_folder(place / "data", {"train": 7, "val": 2, "test": 2})
    train(recipe, studies, place / "run", save_steps=1)
    return studies, place / "run"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_stopped_within_a_stage_with_texts_ends_the_same(
    recipe: Any, whole: tuple[StudyFolder, Path], tmp_path: Path, kill_at_step: Callable[[int], None], workers: int
) -> None:
    studies, run = whole
    kill_at_step(8 * 2 + 6)  # 4 steps an epoch: the second of the last stage's second epoch
    with pytest.raises(Killed):
        train(recipe, studies, tmp_path / "run", save_steps=1, workers=workers)
    kill_at_step(0)
    train(recipe, studies, tmp_path / "run", resume=True, save_steps=1, workers=workers)
    assert weights_of(tmp_path / "run") == weights_of(run)


def test_a_stage_says_whose_reports_it_showed(whole: tuple[StudyFolder, Path]) -> None:
    studies, run = whole
    for stage in ("02-s2d-align.pag-2", "03-s2d-align.pag-3"):
        lines = [json.loads(line) for line in (run / "stages" / stage / "references.jsonl").read_text().splitlines()]
        assert {line["id"] for line in lines} == {s.id for s in studies.studies if s.split != "test"}
    assert not (run / "stages" / "01-s2d-align.pag-1" / "references.jsonl").exists()


def test_reports_are_written_from_the_film_alone(whole: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    studies, run = whole
    written = write_predictions(load(run, "cpu"), studies, "test", tmp_path / "predictions.jsonl")
    assert len(written) == 2


def test_a_stage_that_shows_what_nobody_reads_is_refused() -> None:
    with pytest.raises(UsageError) as error:
        compose("core.train", settings={"core.train.contexts": ["phrase"]})
    assert "no piece reads phrase_tokens" in str(error.value)
    assert "--set core.train.contexts=[]" in str(error.value)
