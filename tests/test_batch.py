"""Batches: padding, prompts, labels."""

import numpy as np
import pytest
import torch

from rrg.data.study import Study, StudyFolder
from rrg.feed.batch import Item, Prompt, Studies, collate, disease_labels
from rrg.feed.texts import Collator
from rrg.generate.reporter import Reporter
from rrg.observations import OBSERVATIONS


@pytest.fixture
def prompt(reporter: Reporter) -> Prompt:
    return Prompt(reporter.recipe, reporter.model.host)


def item(number: int, films: int, findings: str = "Clear.") -> Item:
    labels: dict[str, float | None] = dict.fromkeys(OBSERVATIONS)
    names = [f"{i}.png" for i in range(films)]
    study = Study(id=f"s{number}", patient="p", split="train", file_names=names, findings=findings, labels=labels)
    return Item(study, np.full((films, 3, 3), number / 10, np.float32))


def test_absent_films_are_zero_and_masked() -> None:
    batch = collate([item(1, 1), item(2, 3)])
    assert batch["pixel_values"].shape == (2, 3, 1, 3, 3)
    assert batch["view_mask"].tolist() == [[True, False, False], [True, True, True]]
    assert batch["pixel_values"][0, 1:].abs().sum() == 0
    assert torch.equal(batch["pixel_values"][1], torch.full((3, 1, 3, 3), 0.2))


def test_labels_keep_uncertain_and_not_mentioned() -> None:
    values = dict.fromkeys(OBSERVATIONS, None) | {"Edema": -1.0, "Fracture": 0.0, "No Finding": 1.0}
    study = item(0, 1).study.model_copy(update={"labels": values})
    row = dict(zip(OBSERVATIONS, disease_labels([study])[0].tolist(), strict=True))
    assert (row["Edema"], row["Fracture"], row["No Finding"]) == (-1.0, 0.0, 1.0)
    assert row["Pneumonia"] != row["Pneumonia"]


def test_training_rows_are_prompt_then_report_padded_right(prompt: Prompt) -> None:
    items = [item(0, 1, "Lungs are clear."), item(1, 1, "No pneumothorax or pleural effusion is seen.")]
    batch = Collator(prompt, {"s0": "The heart is enlarged."})(items)
    for row, it in enumerate(items):
        labels, ids = batch["labels"][row].tolist(), batch["input_ids"][row].tolist()
        report = prompt.report(it.study.findings)
        length = int(batch["attention_mask"][row].sum())
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (len(ids) - length)
        assert ids[length - len(report) : length] == report == labels[length - len(report) : length]
        assert report[-1] == prompt.tokenizer.eos_token_id
        assert set(labels[: length - len(report)]) | set(labels[length:]) <= {-100}
    shown = batch["input_ids"][0][batch["labels"][0] == -100]
    assert "The heart is enlarged." in prompt.tokenizer.decode(shown)
    assert batch["labels"][1][0] != -100  # no exemplar: nothing stands between the films and the report


def test_prompts_of_generation_are_padded_left(prompt: Prompt) -> None:
    batch = prompt.batch([item(0, 1), item(1, 1)], {"s1": "The heart is enlarged."}, learn=False)
    assert "labels" not in batch
    assert batch["attention_mask"].tolist()[0] == [0] * batch["input_ids"].shape[1]
    assert batch["attention_mask"].tolist()[1] == [1] * batch["input_ids"].shape[1]


def test_an_exemplar_is_cut_to_its_longest(prompt: Prompt) -> None:
    longest = prompt.recipe.text.exemplar
    _, after = prompt.ids(1, "heart " * 500)
    assert longest <= len(after) <= longest + 5


def test_a_study_gives_its_first_films_up_to_the_recipes_number(folder: StudyFolder, reporter: Reporter) -> None:
    recipe = reporter.recipe.model_copy(update={"image": reporter.recipe.image.model_copy(update={"views": 1})})
    studies = folder.split("train")
    assert max(len(study.file_names) for study in studies) == 2
    assert {Studies(folder, studies, recipe)[i].films.shape for i in range(4)} == {(1, 32, 32)}
