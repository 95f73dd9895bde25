"""Small sources of IU X-Ray in its several forms, for the tests of the importer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from rrg.data.importing import Import, import_collection
from rrg.data.study import SPLITS
from rrg.errors import DataError
from rrg.observations import OBSERVATIONS


class EdemaLabeler:
    """Edema present where the word stands, absent otherwise; the rest is not mentioned."""

    name = "edema"

    def __call__(self, reports: Sequence[str]) -> np.ndarray:
        labels = np.full((len(reports), 14), np.nan, np.float32)
        labels[:, OBSERVATIONS.index("Edema")] = ["edema" in report for report in reports]
        return labels


def run_import(src: Path, dest: Path, **options: Any) -> Import:
    return import_collection("iu-xray", src, dest, labeler=EdemaLabeler(), progress=False, **options)


def film(path: Path, kind: str = "gray") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (9, 11, 4) if kind == "rgba" else (9, 11)
    depth: type = np.uint16 if kind == "16-bit" else np.uint8
    pixels = np.random.default_rng(crc32(bytes(path))).integers(0, np.iinfo(depth).max, shape, depth)
    Image.fromarray(pixels).save(path)


def item(number: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    study = f"CXR{number}_IM-000{number}"
    paths = [f"{study}/0.png", f"{study}/1.png"]
    return {"id": study, "report": f"Clear lungs {number}.", "image_path": paths, "split": split, **changes}


def r2gen(src: Path, items: Sequence[dict[str, Any]]) -> Path:
    """R2Gen's folder with these items, each in the list of its split, and a film for every plain path."""
    lists = {split: [item for item in items if item.get("split") == split] for split in SPLITS}
    for entry in items:
        for name in entry.get("image_path", []):
            if isinstance(name, str) and not name.startswith("/") and ".." not in name and "\0" not in name:
                film(src / "images" / name)
    src.mkdir(exist_ok=True)
    (src / "annotation.json").write_text(json.dumps(lists))
    return src


def report(src: Path, number: int, films: Sequence[str] = ("1001", "2001"), findings: str = "Clear.") -> Path:
    """One of Open-i's XML files and its films."""
    ids = [f"CXR{number}_IM-000{number}-{name}" for name in films]
    for name in ids:
        film(src / f"{name}.png")
    sections = "".join(
        f'<AbstractText Label="{label}">{text}</AbstractText>'
        for label, text in [("INDICATION", "Cough"), ("FINDINGS", findings), ("IMPRESSION", "Normal\n chest.")]
    )
    images = "".join(f'<parentImage id="{name}"><caption>PA and lateral</caption></parentImage>' for name in ids)
    path = src / f"ecgen-radiology/{number}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><meta type="rr"/><uId id="CXR{number}"/><MedlineCitation>'
        f"<Article><Abstract>{sections}</Abstract></Article></MedlineCitation>{images}</eCitation>"
    )
    return path


def refused(src: Path, dest: Path) -> list[str]:
    """The problems that a strict import lists; nothing may have been written."""
    with pytest.raises(DataError) as caught:
        run_import(src, dest)
    assert not dest.exists()
    assert not list(dest.parent.glob(".*.partial"))
    return caught.value.problems
