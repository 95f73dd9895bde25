"""Reports of a whole split, as a file; and a finished run's reports with their scores."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrg.data.study import StudyFolder
from rrg.errors import RRGError
from rrg.generate.reporter import Reporter, load
from rrg.runs.folder import METRICS, predictions_file

if TYPE_CHECKING:
    from rrg.evaluate.scores import Scores


def write_predictions(
    reporter: Reporter, folder: StudyFolder, split: str, path: Path, **settings: Any
) -> list[dict[str, Any]]:
    """Generate a split and write predictions.jsonl, which appears when it is whole. settings: as `generate_split`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    written = []
    try:
        with partial.open("w", encoding="utf-8") as file:
            for study, report in reporter.generate_split(folder, split, **settings):
                line = {"id": study.id, "reference": study.findings, **report.to_json()}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                written.append(line)
        os.replace(partial, path)
    except OSError as error:
        raise RRGError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return written


def write_and_score(
    run: Path, folder: StudyFolder, workers: int | None = None
) -> tuple[list[dict[str, Any]], "Scores"]:
    """Reports of a finished run for the test split, and their scores; both are kept in the run folder."""
    from rrg.evaluate import evaluate, read_predictions
    from rrg.evaluate.scores import write_scores

    path = predictions_file(run, "test")
    written = write_predictions(load(run), folder, "test", path, workers=workers)
    scores = evaluate(read_predictions(path), folder)
    write_scores(scores, run / METRICS)
    return written, scores
