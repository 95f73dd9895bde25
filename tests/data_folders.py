"""Small data folders for the tests of `rrg data check`: clean ones, for a test to spoil."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rrg.observations import OBSERVATIONS


def study(name: str, split: str = "train", films: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": name, "patient": name, "split": split, "file_names": [f"images/{name}-{i}.png" for i in range(films)],
        "findings": f"Report {name}.", "views": ["frontal"] * films, "labels": dict.fromkeys(OBSERVATIONS), **changes,
    }  # fmt: skip


def clean() -> list[dict[str, Any]]:
    """Studies in which nothing is to be found."""
    return [study(f"{split}{i}", split, films=1 + i % 2) for split in ("train", "val", "test") for i in range(4)]


def write_folder(path: Path, studies: Sequence[dict[str, Any]], **card: Any) -> Path:
    """A data folder; every film is another."""
    for name in [name for each in studies for name in each["file_names"]]:
        save(path / name, noise(name))
    (path / "metadata.jsonl").write_text("".join(json.dumps(each) + "\n" for each in studies))
    named = {"name": "none", "labels": "rules", "source": "test", "licence": "free", **card}
    (path / "dataset.json").write_text(json.dumps(named))
    return path


def noise(seed: str, height: int = 80, width: int = 70) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(seed.encode())).integers(0, 256, (height, width), np.uint8)


def save(path: Path, film: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(film).save(path, **options)
