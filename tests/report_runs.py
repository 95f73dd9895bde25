"""A scored run folder for the tests of `rrg report`: six test studies whose reports go wrong in every way."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rrg.data.study import StudyFolder
from rrg.evaluate import Exemplar, Prediction, evaluate, read_predictions
from rrg.evaluate.scores import write_scores
from rrg.labels import get_labeler
from rrg.observations import OBSERVATIONS
from rrg.report.cases import Case, cases_of
from rrg.report.page import read_studies

NORMAL = "The heart is normal in size. The lungs are clear. No pneumothorax."
SICK = "There is a small left pleural effusion. The heart is enlarged."
# id: generated, reference
TEXTS = {
    "right": (SICK, SICK),
    "clear": (NORMAL, NORMAL),
    "missed": ("The lungs are clear. There is no pleural effusion.", SICK),
    "half": ("The heart is enlarged. No pneumothorax.", SICK),
    "made-up": ("There is a large right pneumothorax. " + SICK, SICK),
    "invented": ("There is a large right pneumothorax. The heart is normal in size.", NORMAL),
}


def study(name: str, split: str, findings: str, films: int = 1) -> dict[str, Any]:
    labels = dict.fromkeys(OBSERVATIONS)
    names = [f"images/{name}-{i}.png" for i in range(films)]
    return {
        "id": name, "patient": name, "split": split, "file_names": names, "findings": findings, "labels": labels,
        "indication": "Cough.", "views": ["frontal", "lateral"][:films],
    }  # fmt: skip


def write_run(path: Path, texts: dict[str, tuple[str, str]]) -> Path:
    """A folder of data and a run folder without a model: run.json, predictions.jsonl, metrics.json."""
    data, run = path / "data", path / "run"
    studies = [study(f"t{i}", split, text) for i, (split, text) in enumerate([("train", NORMAL), ("val", SICK)] * 3)]
    studies += [study(name, "test", made[1], films=2) for name, made in texts.items()]
    (data / "images").mkdir(parents=True)
    (data / "metadata.jsonl").write_text("".join(json.dumps(s) + "\n" for s in studies))
    card = {"name": "phantom", "labels": "rules", "source": "test", "licence": "none"}
    (data / "dataset.json").write_text(json.dumps(card))
    rng = np.random.default_rng(0)
    for name in [name for s in studies for name in s["file_names"]]:
        Image.fromarray(rng.integers(0, 256, (60, 48), np.uint8)).save(data / name)
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"data": str(data), "split": "test", "finished": "2026-01-02T03:04:05"}))
    predictions = [
        Prediction(
            id=name,
            report=made,
            exemplar=Exemplar(id="t0", report=NORMAL),
            probabilities={observation: i / 14 for i, observation in enumerate(OBSERVATIONS)},
        )
        for name, (made, _) in texts.items()
    ]
    (run / "predictions.jsonl").write_text("".join(p.model_dump_json() + "\n" for p in predictions))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")  # no java: METEOR takes long to start
        write_scores(evaluate(predictions, StudyFolder.open(data)), run / "metrics.json")
    return run


@pytest.fixture(scope="session")
def _scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("scored"), TEXTS).parent


@pytest.fixture
def scored(_scored: Path, tmp_path: Path) -> Path:
    """A run folder that a test may spoil, its data beside it."""
    shutil.copytree(_scored, tmp_path / "scored")
    run = tmp_path / "scored" / "run"
    state = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**state, "data": str(run.parent / "data")}))
    return run


def change(path: Path, **changes: Any) -> None:
    """Change keys of a JSON object on disk."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def every_case(run: Path) -> dict[str, Case]:
    predictions = read_predictions(run / "predictions.jsonl")
    folder = read_studies(run.parent / "data", predictions)
    return {case.id: case for case in cases_of(predictions, folder, get_labeler())}
