"""Small sources of IU X-Ray in its several forms, for the tests of the importer."""

import csv
import hashlib
import json
import os
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from rrg.data.importing import Import, import_collection
from rrg.data.study import SPLITS, StudyFolder
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


def nlm(src: Path, prefix: str = "", suffix: str = ".png", reports: str = "NLMCXR_reports.tgz") -> None:
    """Pack what `report` wrote as NLM's archives do, and remove it. prefix, suffix: of the films' names there."""
    with tarfile.open(src / reports, "w:gz") as archive:
        archive.add(src / "ecgen-radiology", "ecgen-radiology")
    with tarfile.open(src / "NLMCXR_png.tgz", "w:gz") as archive:
        for path in sorted(src.glob("CXR*.png")):
            archive.add(path, prefix + path.stem.removeprefix("CXR" * bool(prefix)) + suffix)
    for path in [*src.glob("CXR*.png"), *src.glob("ecgen-radiology/*.xml")]:
        path.unlink()


def kaggle(src: Path, numbers: Sequence[int], folder: str = "images/images_normalized") -> Path:
    """Kaggle's tables and films of these studies, each with a lateral and a frontal film."""
    for name, header, row in [
        ("reports", "uid,MeSH,Problems,image,indication,comparison,findings,impression", kaggle_report),
        ("projections", "uid,filename,projection", kaggle_films),
    ]:
        src.mkdir(exist_ok=True)
        with (src / f"indiana_{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header.split(","))
            writer.writerows(line for number in numbers for line in row(number))
    for number in numbers:
        for _, name, _ in kaggle_films(number):
            film(src / folder / name)
    return src


def kaggle_report(number: int) -> list[list[str]]:
    findings = f"Clear, \nlungs {number}."
    return [[str(number), "normal", "normal", "Xray Chest PA and Lateral", "Cough", "None.", findings, "Normal."]]


def kaggle_films(number: int) -> list[list[str]]:
    names = [f"{number}_IM-000{number}-{film}.dcm.png" for film in ("2001", "1001")]
    return [[str(number), name, view] for name, view in zip(names, ["Lateral", "Frontal"], strict=True)]


def refused(src: Path, dest: Path) -> list[str]:
    """The problems that a strict import lists; nothing may have been written."""
    with pytest.raises(DataError) as caught:
        run_import(src, dest)
    assert not dest.exists()
    assert not list(dest.parent.glob(".*.partial"))
    return caught.value.problems


def import_command(src: Path, dest: Path, *options: str, before: str = "") -> list[str]:
    """`rrg data import` as a process of its own, which begins with the code `before`."""
    code = f"{before}from rrg.cli import main; raise SystemExit(main())"
    return [sys.executable, "-c", code, "data", "import", "iu-xray", str(src), str(dest), *options]


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "films.jsonl").read_text().splitlines()]


def check_whole(dest: Path, films: int) -> None:
    """All films are there once, each with the bytes of its line in the manifest, and nothing else is."""
    lines = manifest(dest)
    names = [name for study in StudyFolder.open(dest).studies for name in study.file_names]
    assert [line["name"] for line in lines] == names
    assert len(set(names)) == films
    for line in lines:
        content = (dest / line["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (line["bytes"], line["sha256"])
    found = {os.path.relpath(os.path.join(root, name), dest) for root, _, each in os.walk(dest) for name in each}
    assert found == {*names, "films.jsonl", "metadata.jsonl", "dataset.json", "README.md"}
    assert not list(dest.parent.glob(f".{dest.name}.*"))
