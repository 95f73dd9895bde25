"""MIMIC-CXR from a credentialed user's own copy, in PhysioNet's layouts.

Johnson et al., "MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text reports",
Sci Data 2019;6:317; MIMIC-CXR-JPG: arXiv:1901.07042. A study has all of its films; with R2Gen's annotation file (Chen
et al., EMNLP 2020) each of its items is a study, of one film.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from tqdm import tqdm

from rrg.data import annotation, splits
from rrg.data.importing import IMAGES, Entries, Reading, Unsound, find_film
from rrg.data.label_files import read_labels
from rrg.data.mimic_layout import DICOM, Layout, films_in, find_layout, study_folder
from rrg.data.mimic_reports import reports
from rrg.data.sections import Sections
from rrg.data.study import SPLITS, Split, describe
from rrg.data.tables import records
from rrg.data.voids import stated, void
from rrg.errors import DataError, UsageError
from rrg.observations import OBSERVATIONS

LICENCE = (
    "PhysioNet Credentialed Health Data License 1.5.0: not to be shared; cite Johnson et al., Sci Data 2019;6:317, and "
    "arXiv:1901.07042 for JPG films and labels"
)
R2GEN = dict(zip(SPLITS, splits.PUBLISHED["MIMIC-CXR"][1], strict=True))
"""Images of R2Gen's selection: those of studies with findings."""
LABELS = ("chexpert", "negbio")

_SPLITS: dict[str, Split] = {"train": "train", "validate": "val", "test": "test"}
_NUMBER = re.compile(r"[0-9]{8}")
_IMAGE = re.compile(rf"(?:.*/)?({DICOM.pattern})(?:\.(?:jpe?g|png|dcm))?")
_OF = re.compile(r"([ps])(\d{8})")
_FRONTAL = ("PA", "AP")
_POSITION = "PatientOrientationCodeSequence_CodeMeaning"


@dataclass(slots=True)
class _Listed:
    """What the tables say of a study. films: (dicom_id, view, position)."""

    patient: str
    split: Split | None = None
    date: str = ""
    films: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Ready:
    """A study whose report and films are there."""

    where: str
    id: str
    study: str
    listed: _Listed
    sources: list[Path]
    sections: Sections


def read(src: Path, seed: int, given: str | None) -> Reading:
    """Read `src`, which holds films, reports and tables in sub-folders of a few levels.

    seed: draws the 7:1:2 split by patient where there is neither a split table nor R2Gen's annotation file. given:
    the labels of `-chexpert` where there is such a table (""), of the one that is named, or none (None).

    Studies without a findings section are left out, as published work does, and counted in the notes.

    Raises: UsageError where `src` is no folder or lacks the labels that are asked for; DataError where films or reports
    are not found or a table cannot be read.
    """
    layout = find_layout(src)
    labels = _label_table(layout, given)
    values = {} if labels is None else read_labels(labels).labels
    entries = Entries()
    listed = _listed(layout, entries)
    if layout.annotation is not None:
        ready, notes = _from_annotation(layout, layout.annotation, listed, entries)
        split, left_out = f"as given in {layout.annotation.name}", 0
    else:
        split = _split(layout, listed, seed)
        ready, left_out = _from_reports(layout, listed, entries)
        notes = [f"{left_out:,} studies without a findings section are left out, as in published work"] * bool(left_out)
    unlabelled = 0
    for item in sorted(ready, key=lambda item: (item.listed.patient, item.listed.date, item.study)):
        row = values.get(item.study)
        unlabelled += row is None
        _add(entries, item, row)
    if labels is not None and unlabelled:
        notes.append(f"{unlabelled:,} studies are not in {labels.name} and are labelled here")
    if "metadata" not in layout.tables and layout.suffix == ".jpg":
        notes.append("no mimic-cxr-2.0.0-metadata.csv: views, positions and dates are not known")
    if layout.annotation is None:
        films = Counter(entry.study.split for entry in entries.sound for _ in entry.sources)
        notes.append(f"films of studies with findings: {_beside_r2gen(films)}")
    card: dict[str, Any] = {"name": "MIMIC-CXR", "source": f"PhysioNet, MIMIC-CXR; form: {layout}", "licence": LICENCE}
    if labels is not None:
        card["labels_from"] = "impression, or findings where there is none"
    if left_out:
        card |= {"left_out": {"no findings": left_out}}
    origin = None if labels is None else f"{labels.name} of MIMIC-CXR-JPG"
    return Reading(entries, card, str(layout), split, origin, notes)


def _add(entries: Entries, item: _Ready, row: np.ndarray | None) -> None:
    """Add a study. row: its labels (14,), nan where not mentioned."""
    listed, sections = item.listed, item.sections
    if listed.split is None:
        return entries.reject(item.where, "no split", f"study {item.study} is in no split")
    labels = None
    if row is not None:
        labels = {
            name: None if math.isnan(value) else value for name, value in zip(OBSERVATIONS, row.tolist(), strict=True)
        }
    views, positions = ([film[place] for film in listed.films] for place in (1, 2))
    entries.add(
        item.where,
        item.sources,
        labels,
        id=item.id,
        patient=listed.patient,
        split=listed.split,
        file_names=[f"{IMAGES}/{study_folder(listed.patient, item.study)}/{source.name}" for source in item.sources],
        findings=sections.findings,
        impression=sections.impression,
        indication=sections.indication,
        history=sections.history,
        comparison=sections.comparison,
        date=listed.date,
        views=views if any(views) else [],
        positions=positions if any(positions) else [],
    )


def _label_table(layout: Layout, given: str | None) -> Path | None:
    if given is None:
        return None
    if given and given not in LABELS:
        raise UsageError(f"given:{given}: MIMIC-CXR has the labels {' and '.join(LABELS)}")
    table = layout.tables.get(given or LABELS[0])
    if given and table is None:
        raise UsageError(f"given:{given}: no mimic-cxr-2.0.0-{given}.csv or .csv.gz in {layout.src}")
    return table


def _listed(layout: Layout, entries: Entries) -> dict[str, _Listed]:
    """Study → what the tables say; where there is nothing else, what the films' folders say."""
    studies: dict[str, _Listed] = {}
    if layout.annotation is None and not layout.tables.keys() & {"metadata", "split"}:
        for patient, study, films in films_in(layout.films, layout.suffix):
            studies[study] = _Listed(patient, films=[(film, "", "") for film in films])
        return studies
    for kind in ("metadata", "split"):
        if kind not in layout.tables:
            continue
        path = layout.tables[kind]
        columns = ["dicom_id", "study_id", "subject_id", *(["split"] if kind == "split" else [])]
        for line, row in records(path, f"MIMIC-CXR's {kind} table", columns=columns):
            try:
                _list(studies, row)
            except Unsound as error:
                entries.reject(f"{path.name} line {line}", error.kind, error.text)
    return studies


def _list(studies: dict[str, _Listed], row: dict[str, Any] | str) -> None:
    """Add what a row of the metadata or the split table says."""
    if isinstance(row, str):
        raise Unsound("malformed entry", row)
    film, study, patient = row["dicom_id"], row["study_id"], row["subject_id"]
    if not (DICOM.fullmatch(film) and _NUMBER.fullmatch(study) and _NUMBER.fullmatch(patient)):
        raise Unsound("malformed entry", f"dicom_id {film!r}, study_id {study!r}, subject_id {patient!r} are no ids")
    known = studies.setdefault(study, _Listed(patient))
    if known.patient != patient:
        raise Unsound("study of two patients", f"study {study} is of {known.patient} and of {patient}")
    if "split" in row:
        split = _SPLITS.get(row["split"])
        if split is None:
            raise Unsound("malformed entry", f"split {row['split']!r} is none of {', '.join(_SPLITS)}")
        if known.split not in (None, split):
            raise Unsound("study in two splits", f"study {study} is in {known.split} and in {split}")
        known.split = split
    if film not in (name for name, _, _ in known.films):
        known.films.append((film, intern(row.get("ViewPosition", "")), intern(row.get(_POSITION, "").lower())))
    if date := _date(row.get("StudyDate", ""), row.get("StudyTime", "")):
        known.date = min(known.date or date, date)


def _date(day: str, time: str) -> str:
    """ISO 8601 from such as 21800506 and 92045.1, a time that has lost its leading zeros; "" where it is no date."""
    clock = time.partition(".")[0].zfill(6)
    for text in (f"{day}T{clock}", day):
        try:
            return datetime.fromisoformat(text).isoformat()[: 19 if "T" in text else 10]
        except ValueError:
            continue
    return ""


def _split(layout: Layout, listed: dict[str, _Listed], seed: int) -> str:
    """Where the split comes from. Where there is none it is drawn, the order of the studies aside."""
    if "split" in layout.tables:
        return f"MIMIC-CXR's own, from {layout.tables['split'].name}"
    drawn = splits.drawn({study.patient for study in listed.values()}, seed)
    for study in listed.values():
        study.split = drawn[study.patient]
    return (
        f"drawn here, 7:1:2 by patient, seed {seed}; not the published one, which needs "
        "mimic-cxr-2.0.0-split.csv.gz of MIMIC-CXR-JPG"
    )


def _from_reports(layout: Layout, listed: dict[str, _Listed], entries: Entries) -> tuple[list[_Ready], int]:
    """The studies with findings, and how many have none."""
    sections_of = reports(layout, listed)
    ready, left_out = [], 0
    order = sorted(listed.items(), key=lambda item: (item[1].patient, item[0]))
    for study, its in tqdm(order, "studies", unit="study", leave=False, disable=None):
        where = study_folder(its.patient, study)
        try:
            sections = sections_of(its.patient, study)
            if not sections.findings:
                left_out += 1
                continue
            if not its.films:
                raise Unsound("no film", f"study {study} has no {layout.suffix} film in {layout.films / where}")
            its = _by_view(_seen(layout, where, its))
            sources = [_film(layout, where, film) for film, _, _ in its.films]
        except Unsound as error:
            entries.reject(where, error.kind, error.text)
            continue
        ready.append(_Ready(where, study, study, its, sources, sections))
    return ready, left_out


def _film(layout: Layout, folder: str, film: str) -> Path:
    return find_film(layout.src, f"{layout.films.relative_to(layout.src).as_posix()}/{folder}/{film}{layout.suffix}")


def _by_view(listed: _Listed) -> _Listed:
    """PA, AP, then the others, each in the order of the table."""
    order = sorted(listed.films, key=lambda film: _FRONTAL.index(film[1]) if film[1] in _FRONTAL else len(_FRONTAL))
    return replace(listed, films=order)


def _seen(layout: Layout, folder: str, listed: _Listed) -> _Listed:
    """With views, positions and date from the DICOM headers, where no metadata table gives them."""
    if "metadata" in layout.tables or layout.suffix != ".dcm":
        return listed
    from rrg.data.dicom import header

    films, dates = [], []
    for film, _, _ in listed.films:
        try:
            found = header(_film(layout, folder, film))
        except DataError as error:
            raise Unsound("broken film", error.message) from None
        films.append((film, intern(found.view), intern(found.position)))
        dates.append(found.date)
    return replace(listed, films=films, date=min(filter(None, dates), default=""))


class _Item(BaseModel):
    """An item of R2Gen's annotation file; keys that are not listed are left alone."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: str
    study_id: str
    subject_id: str
    report: str
    image_path: list[str] = Field(min_length=1)
    split: str | None = None

    @field_validator("study_id", "subject_id")
    @classmethod
    def _digits(cls, value: str) -> str:
        return value[1:] if _OF.fullmatch(value) else value


def _from_annotation(
    layout: Layout, path: Path, listed: dict[str, _Listed], entries: Entries
) -> tuple[list[_Ready], list[str]]:
    """One study for each item, and how their numbers differ from R2Gen's."""
    ready, counts = [], Counter[str]()
    said: list[str] = []
    for where, split, raw in _items(path, said):
        counts[split] += 1
        try:
            item = _Item.model_validate(raw)
            if item.split not in (None, split):
                raise Unsound("study in two splits", f"item {item.id} stands in {split} but says {item.split!r}")
            if not stated(item.report):
                raise Unsound("no findings", f"item {item.id} has an empty report{void(item.report)}")
            films = [_image(item, name) for name in item.image_path]
            known = listed.get(item.study_id, _Listed(item.subject_id))
            seen = {film: (film, view, position) for film, view, position in known.films}
            its = _Listed(item.subject_id, split, known.date, [seen.get(film, (film, "", "")) for film in films])
            folder = study_folder(item.subject_id, item.study_id)
            its = _seen(layout, folder, its)
            sources = [_film(layout, folder, film) for film in films]
        except ValidationError as error:
            entries.reject(where, "malformed entry", describe(error))
        except Unsound as error:
            entries.reject(where, error.kind, error.text)
        else:
            ready.append(_Ready(where, item.id, item.study_id, its, sources, Sections(item.report.strip())))
    return ready, [*said, f"items of {path.name}: {_beside_r2gen(counts)}"]


def _image(item: _Item, name: str) -> str:
    """The dicom_id that an image_path names, wherever the film lay: patient and study in it must not be others."""
    match, given = _IMAGE.fullmatch(name), {"p": item.subject_id, "s": item.study_id}
    parts = [part for folder in name.split("/")[:-1] if (part := _OF.fullmatch(folder))]
    if not match or ".." in name.split("/") or any(given[part[1]] != part[2] for part in parts):
        raise Unsound(
            "malformed entry", f"image_path {name!r} is no film of study {item.study_id} of {item.subject_id}"
        )
    return match[1]


def _items(path: Path, notes: list[str]) -> Iterator[tuple[str, Split, Any]]:
    """As `annotation.listed`. Raises DataError too where the file is another collection's."""
    items = list(annotation.listed(path, notes))
    if not any(isinstance(item, dict) and "subject_id" in item for _, _, item in items):
        raise DataError(f"{path}: not MIMIC-CXR's: none of its items has a subject_id; give a folder without it")
    yield from items


def _beside_r2gen(counts: Counter[Any]) -> str:
    if counts == Counter(R2GEN):
        return "as R2Gen's"
    found, published = (", ".join(f"{n[split]:,} {split}" for split in SPLITS) for n in (counts, R2GEN))
    return f"{found}; R2Gen's selection has {published}"
