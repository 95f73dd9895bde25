"""Studies of noise, few enough to train on in seconds: as a data folder, and in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rrg.data.study import SPLITS, Study, StudyFolder
from rrg.data.write import write_metadata
from rrg.feed.batch import Item, Prompt, collate, disease_labels
from rrg.model.model import RRGModel
from rrg.observations import OBSERVATIONS

COUNTS = {"train": 13, "val": 3, "test": 5}
FINDINGS = ["The heart is enlarged.", "No pneumothorax or pleural effusion is seen.", "Lungs are clear."]


def noise_folder(path: Path, counts: dict[str, int] = COUNTS, seed: int = 0) -> StudyFolder:
    """Studies of one or two films of 37 by 41 pixels; every third study belongs to the patient of the one before."""
    rng = np.random.default_rng(seed)
    (path / "images").mkdir(parents=True)
    studies: list[Study] = []
    for split in SPLITS:
        for number in range(counts.get(split, 0)):
            names = [f"images/{split}{number}-{view}.png" for view in range(1 + number % 2)]
            for name in names:
                Image.fromarray(rng.integers(0, 256, (37, 41), np.uint8)).save(path / name)
            labels = {name: [1.0, 0.0, -1.0, None][int(rng.integers(4))] for name in OBSERVATIONS}
            text = " ".join(FINDINGS[: 1 + number % 3]) + f" Study {number} of {split}."
            patient = f"{split}-{number - number % 3 // 2}"
            study = Study(
                id=f"{split}{number}", patient=patient, split=split, file_names=names, findings=text, labels=labels
            )
            studies.append(study)
    write_metadata(path, studies, {"name": "phantom", "labels": "exact", "source": "noise", "licence": "CC0-1.0"})
    return StudyFolder.open(path)


def items(films: Sequence[int], size: int = 32, seed: int = 0) -> list[Item]:
    """Studies in memory with so many random films each."""
    rng = np.random.default_rng(seed)
    made = []
    for number, count in enumerate(films):
        labels = {name: [None, 0.0, 1.0, -1.0][rng.integers(4)] for name in OBSERVATIONS}
        study = Study.model_construct(
            id=f"s{number}",
            patient=f"p{number}",
            split="train",
            file_names=["f.png"] * count,
            findings=" ".join(FINDINGS[: number % 3 + 1]),
            labels=labels,
        )
        made.append(Item(study, rng.random((count, size, size), dtype=np.float32)))
    return made


def batch_of(model: RRGModel, studies: Sequence[Item], learn: bool = True, exemplars: Any = None) -> dict[str, Any]:
    """What the model reads of some studies. learn: with their reports, and with every text that its stage shows.

    exemplars: report text by study id.
    """
    batch = collate(studies) | Prompt(model.recipe, model.host).batch(studies, exemplars, learn=learn)
    if learn:
        batch["disease_labels"] = disease_labels([item.study for item in studies])
    if learn and model.text_encoder is not None:
        encoder: Any = model.modules_by_piece[model.text_encoder]
        for place, name in enumerate(model.roles.texts(model.stage)):
            texts = [(item.study.findings, *FINDINGS)[place] for item in studies]
            batch[f"{name}_ids"], batch[f"{name}_mask"] = encoder.tokenize(texts)
    return batch
