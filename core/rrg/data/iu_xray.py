"""IU X-Ray, the Indiana University Chest X-ray Collection (Open-i), from any of the forms it is passed around in.

Demner-Fushman et al., JAMIA 2016;23(2):304-310. The split is R2Gen's (Chen et al., EMNLP 2020) where its
annotation.json is at hand.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from rrg.data import annotation, kaggle, open_i, splits
from rrg.data.archives import Member
from rrg.data.importing import IMAGES, Entries, Film, Reading, Unsound, find_film
from rrg.data.listing import inside, listing
from rrg.data.open_i import Report
from rrg.data.splits import ANNOTATION
from rrg.data.study import Split, describe, relative_name
from rrg.data.voids import stated, void
from rrg.errors import DataError, UsageError

LICENCE = (
    "CC BY-NC-ND 4.0, Indiana University; cite Demner-Fushman et al., JAMIA 2016;23(2):304-310. "
    "No changed copies may be passed on."
)
PATIENT = "the collection names no patients: patient = the study's uid"

Form = Literal["annotated", "r2gen", "open-i", "kaggle"]
FORMS: dict[Form, str] = {
    "annotated": f"{ANNOTATION} with uid, impression, indication and views, films under {IMAGES}/",
    "r2gen": f"R2Gen's {ANNOTATION}, films under {IMAGES}/",
    "open-i": "Open-i's XML reports, films named by the collection's ids",
    "kaggle": f"Kaggle's {kaggle.REPORTS} and {kaggle.PROJECTIONS}, films named by the collection's ids",
}
# NLM names a film CXR1_1_IM-0001-3001.png or CXR10_IM-0002-1001.png, others 1_IM-0001-3001 with .dcm, .dcm.png or .jpg
_FILM = re.compile(r"(?:CXR\d+_(?=\d)|CXR)?(\d+_IM-\d+(?:-\d+)*)(\.dcm)?(\.png|\.jpe?g)?", re.IGNORECASE)


def read(src: Path, seed: int, given: str | None) -> Reading:
    """Read `src`, in whichever of `FORMS` it is: a folder, whose archives are read as they are, or one archive.

    `seed` draws the 7:1:2 split by patient that Open-i's and Kaggle's form get where no annotation.json lies in `src`.

    Raises: UsageError where `src` is neither; DataError where the form is unknown, or an archive or table is refused.
    """
    form, files = detect(src)
    entries, origin, notes = Entries(), "", list[str]()
    listing_file = annotation.find(src) if src.is_dir() else None
    if listing_file and form in ("annotated", "r2gen"):
        origin = f"as given in {listing_file.name}"
        _read_annotation(src, listing_file, entries, notes)
    else:
        if form == "open-i":
            reports = open_i.read_reports(src, open_i.report_files(files), entries)
        else:
            reports = kaggle.read_reports(src, kaggle.tables(files), entries)
        origin = _add_reports(src, reports, _films(files), seed, entries, listing_file, notes)
    card = {
        "name": "IU X-Ray",
        "source": f"Open-i, Indiana University Chest X-ray Collection; form: {FORMS[form]}",
        "licence": LICENCE,
        "patient": PATIENT,
    }
    if form == "open-i" and (unnamed := sum(not entry.study.views for entry in entries.sound)):
        notes.append(
            f"{unnamed:,} studies do not say which film is the lateral; NLM lists it first in one of ten, and "
            "image.views=1 takes the first: `rrg data check` counts these by their pixels"
        )
    return Reading(entries, card, FORMS[form], origin, notes=notes)


def detect(src: Path) -> tuple[Form, dict[str, Film]]:
    """Which of `FORMS` the source holds, and its listing where films are found by their ids.

    Raises DataError that says what was looked for.
    """
    if not src.exists():
        raise UsageError(f"{src}: no such folder or archive")
    annotated: Form | None = None
    if src.is_dir() and (found := annotation.find(src)):
        items = [item for _, _, item in annotation.listed(inside(src, found))]
        if not any(isinstance(item, dict) and str(item.get("id", "")).startswith("CXR") for item in items):
            raise DataError(f"{found}: not IU X-Ray's: none of its {len(items)} ids begins with CXR")
        annotated = "annotated" if any(isinstance(item, dict) and "uid" in item for item in items) else "r2gen"
        if any(_has_film(src, item) for item in items):
            return annotated, {}
    # Beside the collection's own files, an annotation.json whose films are absent gives only the split.
    files = listing(src)
    if open_i.report_files(files):
        return "open-i", files
    if len(kaggle.tables(files)) == 2:
        return "kaggle", files
    if annotated:
        return annotated, {}
    raise DataError(
        f"{src}: not a known form of IU X-Ray. Looked for",
        [
            f"{ANNOTATION} (R2Gen's layout) with the films under {IMAGES}/",
            f"XML reports in a folder, such as {open_i.REPORTS}/, or in NLMCXR_reports.tgz, with NLM's films",
            f"{kaggle.REPORTS} and {kaggle.PROJECTIONS} with Kaggle's films, in a folder or in archive.zip",
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


def _read_annotation(src: Path, path: Path, entries: Entries, notes: list[str]) -> None:
    elsewhere = 0
    for where, split, raw in annotation.listed(path, notes):
        try:
            item = _Item.model_validate(raw)
        except ValidationError as error:
            entries.reject(where, "malformed entry", describe(error))
            continue
        try:
            if item.split not in (None, split):
                raise Unsound("study in two splits", f"study {item.id} stands in {split} but says {item.split!r}")
            if not stated(item.report):
                raise Unsound("no findings", f"study {item.id} has an empty report{void(item.report)}")
            uid = item.uid or item.id.split("_")[0]
            if not re.fullmatch(r"CXR\d+", uid):
                raise Unsound("malformed entry", f"id {item.id!r} is not IU X-Ray's (CXR and a number)")
            sources = [_film(src / IMAGES, name) for name in item.image_path]
        except Unsound as error:
            entries.reject(where, error.kind, error.text)
            continue
        names = [source.relative_to(src / IMAGES).as_posix() for source in sources]
        elsewhere += sum(name != given for name, given in zip(names, item.image_path, strict=True))
        entries.add(
            where,
            sources,
            id=item.id,
            patient=uid,
            split=split,
            file_names=[f"{IMAGES}/{name}" for name in names],
            findings=item.report.strip(),
            impression=item.impression.strip(),
            indication=item.indication.strip(),
            views=[view.lower() for view in item.views],
        )
    if elsewhere:
        notes.append(f"{elsewhere:,} film paths of {path.name} are taken from where they lie below {IMAGES}/")


def _has_film(src: Path, raw: Any) -> bool:
    try:
        return bool([_film(src / IMAGES, name) for name in _Item.model_validate(raw).image_path])
    except (ValidationError, Unsound):
        return False


def _film(root: Path, path: str) -> Path:
    """The film of an image_path. Raises Unsound where it is missing or no path below the source."""
    wrong: Unsound | None = None
    for name in annotation.below(path, IMAGES, _FILM):
        try:
            return find_film(root, relative_name(name))
        except ValueError as error:
            wrong = wrong or Unsound("unsafe path", f"image_path {error}")
        except Unsound as error:
            wrong = wrong or error
    assert wrong is not None
    if path.startswith("/"):
        wrong = Unsound(
            "unsafe path", f"image_path {path!r} is not a plain path below {IMAGES}/, and no film there ends so"
        )
    raise wrong


class _Listed(NamedTuple):
    """What annotation.json says of a study; no films where it names them otherwise than the collection does."""

    split: Split
    films: list[str]
    views: list[str]


def _add_reports(
    src: Path,
    reports: list[Report],
    films: Mapping[str, Film],
    seed: int,
    entries: Entries,
    listing_file: Path | None,
    notes: list[str],
) -> str:
    """Add the studies of the collection's own files, and say where their split comes from."""
    if listing_file:
        chosen = _listed(inside(src, listing_file), {report.uid for report in reports}, entries, notes)
        selected = [report for report in reports if report.uid in chosen]
        left_out = len(reports) - len(selected)
        origin = f"R2Gen's, from {listing_file.name}; {left_out} studies outside its selection are left out"
    else:
        drawn = splits.drawn({report.uid for report in reports if report.findings and report.films}, seed)
        chosen = {report.uid: _Listed(drawn.get(report.uid, "train"), [], []) for report in reports}
        selected = reports
        origin = f"drawn here, 7:1:2 by patient, seed {seed} (the collection has none; not R2Gen's)"
    for report in selected:
        split, ids, views = chosen[report.uid]
        ids, views = (ids, views) if ids else (report.films, report.views)
        try:
            if not report.findings:
                raise Unsound("no findings", f"study {report.uid} has no findings")
            if not ids:
                raise Unsound("no film", f"study {report.uid} names no film")
            sources = [_film_by_id(src, films, name) for name in ids]
        except Unsound as error:
            entries.reject(report.where, error.kind, error.text)
            continue
        entries.add(
            report.where,
            sources,
            id=report.uid,
            patient=report.uid,
            split=split,
            file_names=[f"{IMAGES}/{source.name.rpartition('/')[2]}" for source in sources],
            findings=report.findings,
            impression=report.sections.get("impression", ""),
            indication=report.sections.get("indication", ""),
            comparison=report.sections.get("comparison", ""),
            views=views,
        )
    return origin


def _listed(path: Path, uids: set[str], entries: Entries, notes: list[str]) -> dict[str, _Listed]:
    """What the annotation file lists, by uid; a listed study without a report becomes a problem."""
    found: dict[str, _Listed] = {}
    for where, split, raw in annotation.listed(path, notes):
        uid = str(raw.get("id")).split("_")[0] if isinstance(raw, dict) else ""
        try:
            item = _Item.model_validate(raw)
        except ValidationError as error:
            entries.reject(where, "malformed entry", describe(error))
            continue
        ids = [_film_id(name) for name in item.image_path]
        listed = _Listed(split, ids, [view.lower() for view in item.views]) if all(ids) else _Listed(split, [], [])
        if uid not in uids:
            entries.reject(where, "no report", f"study {uid!r} has no report in this source")
        elif found.setdefault(uid, listed).split != split:
            entries.reject(where, "study in two splits", f"study {uid} is listed in {found[uid].split} and in {split}")
    return found


def _film_id(name: str) -> str:
    """The film's id without NLM's prefix, from its name in any of the forms; empty where it is no film's."""
    match = _FILM.fullmatch(PurePosixPath(name).name)
    return match[1].upper() if match else ""


def _films(files: Mapping[str, Film]) -> dict[str, Film]:
    """Film id → film: of several the one that is no DICOM, then the unpacked one."""
    films: dict[str, Film] = {}
    for where in sorted(files, key=lambda where: (where.endswith(".dcm"), isinstance(files[where], Member), where)):
        if (film := _film_id(where)) and "." in PurePosixPath(where).name:
            films.setdefault(film, files[where])
    return films


def _film_by_id(src: Path, films: Mapping[str, Film], name: str) -> Film:
    film = films.get(_film_id(name))
    if film is None:
        raise Unsound("missing film", f"film {name} is missing: no PNG, JPEG or DICOM of that id in {src}")
    return film if isinstance(film, Member) else find_film(src, str(film.relative_to(src)))
