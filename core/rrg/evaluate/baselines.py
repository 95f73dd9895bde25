"""Null baselines: reports that cost nothing, made of the training split, for the studies that a model is scored on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rrg.data.study import Study, StudyFolder
from rrg.evaluate.constant import best_constant
from rrg.evaluate.predictions import Prediction
from rrg.evaluate.protocol import Protocol, section_of

CONSTANT, RANDOM, RETRIEVED = "best constant", "random train report", "copy the retrieved"


@dataclass(frozen=True)
class Source:
    """Reports from one source, one per scored study in order, and the studies they are of."""

    reports: list[str]
    ids: list[str]


def baselines(
    predictions: Sequence[Prediction], folder: StudyFolder, form: Protocol, seed: int, notes: list[str]
) -> tuple[dict[str, Source], float | None]:
    """Baselines by name, and the best constant's BLEU-4 on validation (None where there are no validation studies)."""
    train, val = (_written(folder.split(name), form.target) for name in ("train", "val"))
    if not val:
        notes.append("no validation studies, so the best constant was chosen on train")
    texts = [form.hypothesis(text) for _, text in train]
    index, bleu = best_constant(texts, [form.reference(text) for _, text in val or train])
    sources = {CONSTANT: [train[index]] * len(predictions)}
    # One draw per study id: the same report whatever the order or number of predictions.
    sources[RANDOM] = [random.Random(f"{seed} {p.id}").choice(train) for p in predictions]
    retrieved = [(p.exemplar.id, p.exemplar.report) for p in predictions if p.exemplar is not None]
    if len(retrieved) == len(predictions):
        sources[RETRIEVED] = retrieved
    elif retrieved:
        notes.append(f"only {len(retrieved)} predictions have an exemplar, so '{RETRIEVED}' is left out")
    found = {name: Source([text for _, text in pairs], [i for i, _ in pairs]) for name, pairs in sources.items()}
    return found, bleu if val else None


def _written(studies: Sequence[Study], section: str) -> list[tuple[str, str]]:
    """(id, text) of the studies that have the section."""
    return [(study.id, text) for study in studies if (text := section_of(study, section))]
