"""A small data folder and predictions of it, for the tests of the evaluation."""

import json
from pathlib import Path
from typing import Any

from rrg.data.study import Study, StudyFolder
from rrg.evaluate import Prediction
from rrg.evaluate.meteor import MeteorUnavailable
from rrg.observations import OBSERVATIONS

NORMAL = "The heart is normal in size. The lungs are clear. No pneumothorax."
EFFUSION = "There is a small left pleural effusion. The heart is enlarged."


def no_java(tables: object) -> dict[str, float]:
    """In METEOR's place, whose start takes seconds."""
    raise MeteorUnavailable("no java")


def study(number: int, split: str, findings: str, **labels: float) -> Study:
    return Study(
        id=f"s{number}",
        patient=f"p{number}",
        split=split,  # type: ignore[arg-type]
        file_names=["images/film.png"],
        findings=findings,
        labels={name: labels.get(name.replace(" ", "_")) for name in OBSERVATIONS},
    )


def study_folder(path: Path) -> StudyFolder:
    """Seven training, three validation and five test studies, as a folder on disk."""
    studies = [study(i, "train", text) for i, text in enumerate([NORMAL] * 4 + [EFFUSION] * 3)]
    studies += [study(i, "val", text) for i, text in enumerate([NORMAL, NORMAL, EFFUSION], 7)]
    studies += [study(i, "test", NORMAL, No_Finding=1) for i in range(10, 13)]
    studies += [study(i, "test", EFFUSION, Pleural_Effusion=1, Cardiomegaly=1) for i in range(13, 15)]
    (path / "images").mkdir(parents=True)
    (path / "images/film.png").write_bytes(b"not looked at")
    (path / "metadata.jsonl").write_text("".join(s.model_dump_json() + "\n" for s in studies))
    card = {"name": "phantom", "labels": "exact", "source": "test", "licence": "none"}
    (path / "dataset.json").write_text(json.dumps(card))
    return StudyFolder.open(path)


def copies(folder: StudyFolder, **changes: Any) -> list[Prediction]:
    """Every test study's own findings as its report."""
    return [Prediction(id=s.id, report=s.findings, reference=s.findings, **changes) for s in folder.split("test")]
