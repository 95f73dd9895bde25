"""A run folder: the names of its files, and run.json, which says what it was trained on.

A run folder:
    recipe.toml  run.json  environment.json  log.jsonl  tokenizer/ (a host that learns its own)
    stages/01-lead.train/   pieces.safetensors  host.safetensors  adapter/  index/ (where exemplars stand in the prompt)
    index/                  the training split's keys under the final weights, for generation
A stage's folder appears, complete, when the stage ends; until then its checkpoints lie in a folder ending in .partial.
Light, so that commands can look before they load anything. Nobody else writes these names.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rrg.data.study import METADATA
from rrg.errors import DataError, UsageError

RUN, RECIPE, ENVIRONMENT, LOG = "run.json", "recipe.toml", "environment.json", "log.jsonl"
TOKENIZER, STAGES, INDEX, REFERENCES = "tokenizer", "stages", "index", "references.jsonl"
PREDICTIONS, METRICS, PAGE = "predictions.jsonl", "metrics.json", "report.html"


def stage_folder(run: Path, stages: Sequence[str], number: int) -> Path:
    """Where a finished stage's weights lie; stages count from 1."""
    return run / STAGES / f"{number:02d}-{stages[number - 1]}"


def predictions_file(run: Path, split: str) -> Path:
    """Where the reports of a split lie."""
    return run / (PREDICTIONS if split == "test" else f"predictions.{split}.jsonl")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_run(run: Path) -> dict[str, Any]:
    """The content of a run's run.json.

    Raises UsageError where `run` holds no run, DataError where the file is corrupt.
    """
    try:
        content = json.loads((run / RUN).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{run} holds no run; make one with: rrg train RECIPE --data DIR --out {run}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{run / RUN}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), str):
        raise DataError(f"{run / RUN}: expected a JSON object that names the `data` folder")
    return content


def made_from(folder: Path) -> dict[str, str]:
    """`data` and `split` of the run.json in a folder, where there is one. Raises DataError if it is corrupt."""
    path = folder / RUN
    try:
        run = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(run, dict) or not all(isinstance(run.get(key, ""), str) for key in ("data", "split")):
        raise DataError(f'{path}: expected an object with "data" (a folder) and "split", both strings')
    return {key: run[key] for key in ("data", "split") if key in run}


def run_data(run: Path) -> Path:
    """The data folder that a run was trained on. Raises DataError where it is gone, and as `read_run` does."""
    data = Path(read_run(run)["data"])
    if not data.is_dir():
        raise DataError(f"{data}, on which {run} was trained, is gone; give --data")
    return data


def fingerprint(data: Path) -> str:
    """SHA-256 of a data folder's metadata: reports, labels, splits and the names of films."""
    with (data / METADATA).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
