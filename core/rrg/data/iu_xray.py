"""IU X-Ray, the Indiana University Chest X-ray Collection (Open-i), from any of the forms it is passed around in.

Demner-Fushman et al., JAMIA 2016;23(2):304-310. The split is R2Gen's (Chen et al., EMNLP 2020) where its
annotation.json is at hand.
"""

import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from pydantic import BaseModel, ValidationError

from rrg.data.importing import IMAGES, Entries, Reading, Unsound, find_film
from rrg.data.study import SPLITS, Split, describe, relative_name
from rrg.errors import DataError, UsageError

LICENCE = (
    "CC BY-NC-ND 4.0, Indiana University; cite Demner-Fushman et al., JAMIA 2016;23(2):304-310. "
    "No changed copies may be passed on."
)
PATIENT = "the collection names no patients: patient = the study's uid"
ANNOTATION, REPORTS = "annotation.json", "ecgen-radiology"

MAX_ANNOTATION_BYTES = 1 << 30
MAX_XML_BYTES = 1 << 20  # the collection's largest report has 9 kB

Form = Literal["annotated", "r2gen", "open-i"]
FORMS: dict[Form, str] = {
    "annotated": f"{ANNOTATION} with uid, impression, indication and views, films under {IMAGES}/",
    "r2gen": f"R2Gen's {ANNOTATION}, films under {IMAGES}/",
    "open-i": "Open-i's XML reports, films named by the collection's ids",
}


def read(src: Path, seed: int, given: str | None) -> Reading:
    """Read `src`, in whichever of `FORMS` it is.

    `seed` draws the 7:1:2 split by patient that Open-i's form gets where no annotation.json lies beside it.

    Raises: UsageError where `src` is no folder; DataError where the form is unknown.
    """
    form = detect(src)
    if form == "open-i":
        entries, split = _read_open_i(src, seed)
    else:
        entries, split = _read_annotation(src), f"as given in {ANNOTATION}"
    card = {
        "name": "IU X-Ray",
        "source": f"Open-i, Indiana University Chest X-ray Collection; form: {FORMS[form]}",
        "licence": LICENCE,
        "patient": PATIENT,
    }
    return Reading(entries, card, FORMS[form], split)


def detect(src: Path) -> Form:
    """Which of `FORMS` the folder holds. Raises DataError that says what was looked for."""
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder")
    has_reports = _reports_folder(src) is not None
    if (src / ANNOTATION).is_file():
        items = [item for _, _, item in _annotation_items(src)]
        if not any(isinstance(item, dict) and str(item.get("id", "")).startswith("CXR") for item in items):
            raise DataError(f"{src / ANNOTATION}: not IU X-Ray's: none of its {len(items)} ids begins with CXR")
        # Beside Open-i's own files, an annotation.json whose films are absent gives only the split.
        if not has_reports or any(_has_film(src, item) for item in items):
            return "annotated" if any(isinstance(item, dict) and "uid" in item for item in items) else "r2gen"
    if has_reports:
        return "open-i"
    raise DataError(
        f"{src}: not a known form of IU X-Ray. Looked for",
        [
            f"{ANNOTATION} (R2Gen's layout) with the films under {IMAGES}/",
            f"XML reports in {REPORTS}/, in the folder itself or in one directly below, with films CXR*.png or .jpg",
        ],
    )


class _Item(BaseModel):
    """An item of annotation.json; keys that are not listed are left alone."""

    id: str
    report: str
    image_path: list[str]
    split: str | None = None
    uid: str | None = None
    impression: str = ""
    indication: str = ""
    views: list[str] = []


def _annotation_items(src: Path) -> Iterator[tuple[str, Split, Any]]:
    """(where, split, raw item) for each item. Raises DataError where the file as a whole is not R2Gen's layout."""
    path = src / ANNOTATION
    if path.stat().st_size > MAX_ANNOTATION_BYTES:
        raise DataError(f"{path}: larger than {MAX_ANNOTATION_BYTES >> 30} GiB, which is refused")
    try:
        annotation = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not (isinstance(annotation, dict) and all(isinstance(annotation.get(split), list) for split in SPLITS)):
        raise DataError(f"{path}: expected an object with the lists {', '.join(SPLITS)}, as R2Gen writes it")
    for split in SPLITS:
        for number, item in enumerate(annotation[split]):
            yield f"{ANNOTATION} {split}[{number}]", split, item


def _read_annotation(src: Path) -> Entries:
    entries = Entries()
    for where, split, raw in _annotation_items(src):
        try:
            item = _Item.model_validate(raw)
        except ValidationError as error:
            entries.reject(where, "malformed entry", describe(error))
            continue
        try:
            if item.split not in (None, split):
                raise Unsound("study in two splits", f"study {item.id} stands in {split} but says {item.split!r}")
            if not item.report.strip():
                raise Unsound("no findings", f"study {item.id} has an empty report")
            uid = item.uid or item.id.split("_")[0]
            if not re.fullmatch(r"CXR\d+", uid):
                raise Unsound("malformed entry", f"id {item.id!r} is not IU X-Ray's (CXR and a number)")
            sources = [_film(src / IMAGES, name) for name in item.image_path]
        except Unsound as error:
            entries.reject(where, error.kind, error.text)
            continue
        entries.add(
            where,
            sources,
            id=item.id,
            patient=uid,
            split=split,
            file_names=[f"{IMAGES}/{name}" for name in item.image_path],
            findings=item.report.strip(),
            impression=item.impression.strip(),
            indication=item.indication.strip(),
            views=[view.lower() for view in item.views],
        )
    return entries


def _has_film(src: Path, raw: Any) -> bool:
    try:
        return bool([_film(src / IMAGES, name) for name in _Item.model_validate(raw).image_path])
    except (ValidationError, Unsound):
        return False


def _film(root: Path, name: str) -> Path:
    try:
        return find_film(root, relative_name(name))
    except ValueError as error:
        raise Unsound("unsafe path", f"image_path {error}") from None


@dataclass(frozen=True)
class _Report:
    """One of Open-i's XML files: films are ids, such as CXR1_1_IM-0001-3001."""

    where: str
    uid: str
    sections: dict[str, str]
    films: list[str]

    @property
    def findings(self) -> str:
        return self.sections.get("FINDINGS", "")


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a DTD at its first line, before any entity is declared: no expansion bombs, no outside files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise Unsound("malformed entry", "the XML declares a DTD or entities, which is refused (Open-i's has none)")


def _read_report(path: Path, where: str) -> _Report:
    try:
        if path.stat().st_size > MAX_XML_BYTES:
            raise Unsound("malformed entry", f"larger than {MAX_XML_BYTES >> 20} MiB, so not a report of Open-i")
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        raise Unsound("malformed entry", f"not XML: {error}") from None
    element = root.find("uId")
    uid = "" if element is None else element.get("id", "")
    if not re.fullmatch(r"CXR\d+", uid):
        raise Unsound("malformed entry", f'no <uId id="CXR…"> of Open-i (found {uid!r})')
    sections = {
        text.get("Label", "").upper(): " ".join("".join(text.itertext()).split()) for text in root.iter("AbstractText")
    }
    films = [image.get("id", "") for image in root.iter("parentImage")]
    return _Report(where, uid, sections, films)


def _reports_folder(src: Path) -> Path | None:
    below = sorted(path for path in src.iterdir() if path.is_dir())
    return next((folder for folder in [src / REPORTS, src, *below] if any(folder.glob("*.xml"))), None)


def _read_open_i(src: Path, seed: int) -> tuple[Entries, str]:
    """The studies of Open-i's own files, in the order of their numbers, and where their split comes from."""
    entries = Entries()
    folder = _reports_folder(src)
    assert folder is not None, "detect() found reports"
    reports = []
    for path in sorted(folder.glob("*.xml"), key=lambda path: (len(path.stem), path.stem)):
        where = str(path.relative_to(src))
        try:
            reports.append(_read_report(path, where))
        except Unsound as error:
            entries.reject(where, error.kind, error.text)
    if (src / ANNOTATION).is_file():
        splits = _listed_splits(src, {report.uid for report in reports}, entries)
        selected = [report for report in reports if report.uid in splits]
        left_out = len(reports) - len(selected)
        origin = f"R2Gen's, from {ANNOTATION}; {left_out} studies outside its selection are left out"
    else:
        splits, selected = _drawn_splits(reports, seed), reports
        origin = f"drawn here, 7:1:2 by patient, seed {seed} (Open-i has none; not R2Gen's)"
    films = _films_by_id(src)
    for report in selected:
        try:
            if not report.findings:
                raise Unsound("no findings", f"study {report.uid} has no findings")
            if not report.films:
                raise Unsound("no film", f"study {report.uid} names no film")
            names = [films.get(film, f"{film}.png") for film in report.films]
            sources = [find_film(src, name) for name in names]
        except Unsound as error:
            entries.reject(report.where, error.kind, error.text)
            continue
        entries.add(
            report.where,
            sources,
            id=report.uid,
            patient=report.uid,
            split=splits[report.uid],
            file_names=[f"{IMAGES}/{Path(name).name}" for name in names],
            findings=report.findings,
            impression=report.sections.get("IMPRESSION", ""),
            indication=report.sections.get("INDICATION", ""),
        )
    return entries, origin


def _listed_splits(src: Path, uids: set[str], entries: Entries) -> dict[str, Split]:
    """uid → split as annotation.json lists it; a listed study without a report becomes a problem."""
    splits: dict[str, Split] = {}
    for where, split, item in _annotation_items(src):
        uid = str(item.get("id")).split("_")[0] if isinstance(item, dict) else ""
        if uid not in uids:
            entries.reject(where, "no report", f"study {uid!r} has no XML report in this folder")
        elif splits.setdefault(uid, split) != split:
            entries.reject(where, "study in two splits", f"study {uid} is listed in {splits[uid]} and in {split}")
    return splits


def _drawn_splits(reports: list[_Report], seed: int) -> dict[str, Split]:
    """uid → split, 7:1:2 over the complete reports; the order of the files does not matter."""
    patients = sorted({report.uid for report in reports if report.findings and report.films})
    random.Random(seed).shuffle(patients)
    ends = [round(0.7 * len(patients)), round(0.8 * len(patients))]
    return {patient: SPLITS[sum(position >= end for end in ends)] for position, patient in enumerate(patients)}


def _films_by_id(src: Path) -> dict[str, str]:
    """Film id → path below `src`, for each PNG or JPEG anywhere in it."""
    films: dict[str, str] = {}
    for folder, _, names in os.walk(src):
        for name in names:
            film, suffix = os.path.splitext(name)
            if film.startswith("CXR") and suffix.lower() in (".png", ".jpg", ".jpeg"):
                films[film] = os.path.relpath(os.path.join(folder, name), src)
    return films
