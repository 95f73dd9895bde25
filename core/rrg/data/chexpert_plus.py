"""CheXpert Plus: chest films of Stanford Hospital with their reports (Chambon et al., arXiv 2405.19538, 2024).

The table has a row for each film, and each row its own, differently anonymised copy of the study's report, so a random
split by film has the same report on both sides. Here a study is a folder (patient42142/study5) with all its films.
The benchmark's split is CXPMRG-Bench's (Wang et al., CVPR 2025) where its annotation.json is at hand.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rrg.data import annotation, archives, splits
from rrg.data.archives import Member
from rrg.data.importing import IMAGES, Entries, Film, Reading, Unsound, find_film
from rrg.data.listing import archives_of, inside, need_folder
from rrg.data.study import SPLITS, Split, relative_name
from rrg.data.tables import records, refuse
from rrg.data.voids import stated
from rrg.errors import DataError, UsageError
from rrg.observations import OBSERVATIONS

TABLE = "df_chexpert_plus_*.csv"
COLUMNS = ("path_to_image", "deid_patient_id", "patient_report_date_order", "section_findings")
PUBLISHED = dict(zip(SPLITS, splits.PUBLISHED["CheXpert Plus"][1], strict=True))  # films of CXPMRG-Bench
LICENCE = (
    "Stanford University Dataset Research Use Agreement; cite Chambon et al., arXiv 2405.19538. Not to be passed on."
)
# What a film is known by, whatever lies above and whichever format it has: patient, study, name.
_FILM = re.compile(r"(?:^|/)(patient\d+)/(study\d+)/([^/]+)\.(?:jpe?g|png|dcm)", re.IGNORECASE)
_SUFFIXES = (".png", ".jpg", ".dcm")


class _Image(NamedTuple):
    """A row of the table: texts are the study's fields, empty where this copy of the report has no findings."""

    where: str
    path: str
    view: str
    order: float
    texts: Mapping[str, str]


def read(src: Path, seed: int, given: str | None) -> Reading:
    """Read the folder `src`: the table, films unpacked or in zip chunks as downloaded, and CheXbert's labels.

    given: "" or "findings", "impression", "report": chexbert_labels/NAME_fixed.json. `seed` draws the 7:1:2 split by
    patient where no annotation.json of CXPMRG-Bench lies in `src`.

    A patient's studies stand in the order of their reports. Those without findings are left out, and counted.

    Raises: UsageError where `src` is no folder or lacks the labels that are asked for; DataError where there is no
    table, or a table, an archive or a link is refused.
    """
    need_folder(src, f"give the one with {TABLE}")
    entries, notes = Entries(), []
    packed = [Member(path, name) for path in archives_of(src) for name in archives.names(path)]
    studies = _studies(_table(src), entries)
    complete = {study: images for study, images in studies.items() if any(image.texts for image in images)}
    notes.append(f"{len(studies) - len(complete):,} studies without findings are left out, as published work does")
    if listing_file := annotation.find(src):
        chosen, origin = _listed(inside(src, listing_file), studies.keys(), entries, notes)
        origin += f"; {len(complete.keys() - chosen.keys()):,} studies with findings outside its selection are left out"
        if empty := len(chosen.keys() - complete.keys()):
            notes.append(
                f"{empty:,} studies that {listing_file.name} lists have no findings in the table, and are left out"
            )
        complete = {study: complete[study] for study in complete if study in chosen}
    else:
        drawn = splits.drawn({_patient(study) for study in complete}, seed)
        chosen = {study: drawn[_patient(study)] for study in complete}
        origin = f"drawn here, 7:1:2 by patient, seed {seed} (the collection has none; not CXPMRG-Bench's)"
    named = _label_files(src, packed)
    name = given or "findings"
    if given and name not in named:
        raise UsageError(f"{src}: no labels {name!r}; chexbert_labels/ has {', '.join(sorted(named)) or 'none'}")
    labels: dict[str, dict[str, Any]] = {}
    if given is not None and name in named:
        labels = _labels(named[name], {_film(image.path) for images in complete.values() for image in images})
    films = _Films(src, packed)
    differ = 0
    for study in sorted(complete, key=lambda study: (len(_patient(study)), _patient(study), _order(complete[study]))):
        images = complete[study]
        told = next(image for image in images if image.texts)
        differ += any(image.texts != told.texts for image in images)
        try:
            sources = [films.find(image.path) for image in images]
        except Unsound as error:
            entries.reject(told.where, error.kind, error.text)
            continue
        entries.add(
            told.where,
            sources,
            labels.get(_film(told.path)),
            id=study.replace("/", "_"),
            patient=_patient(study),
            split=chosen[study],
            file_names=[f"{IMAGES}/{_film(i.path)}{Path(s.name).suffix}" for i, s in zip(images, sources, strict=True)],
            views=[image.view for image in images],
            **told.texts,
        )
    notes.append(f"{differ:,} studies have copies of their report that differ: the first film's is taken")
    card = {
        "name": "CheXpert Plus",
        "source": "CheXpert Plus, Stanford AIMI",
        "licence": LICENCE,
        "patient": "deid_patient_id",
    }
    given_labels = f"CheXbert's of CheXpert Plus, on the {name}" if labels else None
    return Reading(entries, card, "the table, a film for each of its rows", origin, given_labels, notes)


def _film(path: str) -> str:
    """Such as patient42142/study5/view1_frontal; empty for what is no film's path."""
    match = _FILM.search(path)
    return "/".join(match.groups()) if match and match.end() == len(path) else ""


def _study(film: str) -> str:
    return film.rpartition("/")[0]


def _patient(study: str) -> str:
    return study.partition("/")[0]


def _order(images: Sequence[_Image]) -> tuple[float, int, str]:
    """Of a patient's studies: by report; the table gives no dates."""
    study = _study(_film(images[0].path))
    return min(image.order for image in images), len(study), study


def _table(src: Path) -> Path:
    found = sorted([*src.glob(TABLE), *src.glob(f"*/{TABLE}")], key=lambda path: path.name)
    if not found:
        raise DataError(f"{src}: not CheXpert Plus as downloaded: no {TABLE} in it")
    return inside(src, found[-1])


def _studies(table: Path, entries: Entries) -> dict[str, list[_Image]]:
    """Study → its films, frontal ones first."""
    studies: dict[str, list[_Image]] = {}
    films: dict[str, str] = {}
    for line, row in records(table, "CheXpert Plus's reports", columns=COLUMNS):
        where = f"{table.name} line {line}"
        try:
            image = _image(where, row)
        except Unsound as error:
            entries.reject(where, error.kind, error.text)
            continue
        film = _film(image.path)
        if (earlier := films.setdefault(film, where)) != where:
            entries.reject(where, "film used twice", f"film {image.path} is already at {earlier}")
            continue
        studies.setdefault(_study(film), []).append(image)
    for images in studies.values():
        images.sort(key=lambda image: (image.view != "frontal", len(image.path), image.path))
    return studies


def _image(where: str, row: dict[str, Any] | str) -> _Image:
    if isinstance(row, str):
        raise Unsound("malformed entry", row)
    path = row["path_to_image"]
    try:
        film = _film(relative_name(path))
    except ValueError:
        film = ""
    if not film:
        raise Unsound("malformed entry", f"path_to_image {path!r} is not like train/patient1/study1/view1_frontal.jpg")
    if row["deid_patient_id"] != _patient(film):
        raise Unsound("malformed entry", f"path_to_image {path!r} is not of patient {row['deid_patient_id']!r}")
    order = row["patient_report_date_order"]
    if not re.fullmatch(r"\d{1,9}(\.0*)?", order):
        raise Unsound("malformed entry", f"patient_report_date_order {order!r} is no number")
    texts = {
        "findings": _text(row, "section_findings"),
        "impression": _text(row, "section_impression"),
        "history": _text(row, "section_clinical_history", "section_history"),
        "comparison": _text(row, "section_comparison"),
    }
    return _Image(where, path, row.get("frontal_lateral", "").lower(), float(order), texts if texts["findings"] else {})


def _text(row: Mapping[str, str], *sections: str) -> str:
    found = (stated(row.get(section, ""), section == "section_comparison") for section in sections)
    return " ".join(" ".join(found).split())


def _listed(path: Path, known: Collection[str], entries: Entries, notes: list[str]) -> tuple[dict[str, Split], str]:
    """study → split as the annotation file lists its films; a study in several is kept in test, else in val."""
    found: dict[str, set[Split]] = {}
    items: Counter[Split] = Counter()
    for where, split, item in annotation.listed(path, notes):
        paths = item.get("image_path") if isinstance(item, dict) else None
        keys = [_film(name) for name in paths if isinstance(name, str)] if isinstance(paths, list) else []
        items[split] += 1
        if not keys or not all(_study(film) in known for film in keys):
            entries.reject(where, "no report", f"image_path {str(paths)[:200]} is no film of the table")
            continue
        for film in keys:
            found.setdefault(_study(film), set()).add(split)
    if items != PUBLISHED:
        listed, published = ("/".join(f"{of[split]:,}" for split in SPLITS) for of in (items, PUBLISHED))
        notes.append(f"{path.name} lists {listed} films, CXPMRG-Bench has {published}")
    if several := sum(len(given) > 1 for given in found.values()):
        notes.append(f"{several:,} studies have films in several of its splits: each is kept in test, else in val")
    chosen = {study: max(given, key=SPLITS.index) for study, given in found.items()}
    patients: dict[str, set[Split]] = {}
    for study, split in chosen.items():
        patients.setdefault(_patient(study), set()).add(split)
    if several := sum(len(given) > 1 for given in patients.values()):
        notes.append(f"{several:,} of {len(patients):,} patients have studies in several of its splits")
    return chosen, f"CXPMRG-Bench's, from {path.name}"


def _label_files(src: Path, packed: Iterable[Member]) -> dict[str, Path | Member]:
    """Name, such as findings → chexbert_labels/findings_fixed.json, unpacked or in an archive."""
    found: dict[str, Path | Member] = {}
    plain = [path for depth in ("", "*/", "*/*/") for path in sorted(src.glob(f"{depth}*_fixed.json"))]
    files: list[Path | Member] = [*plain, *packed]
    for file in files:
        name = file.name.rpartition("/")[2]
        if name.endswith("_fixed.json"):
            found.setdefault(name.removesuffix("_fixed.json"), file)
    return {name: file if isinstance(file, Member) else inside(src, file) for name, file in found.items()}


def _labels(file: Path | Member, wanted: Collection[str]) -> dict[str, dict[str, Any]]:
    """Film → its 14 labels."""
    labels: dict[str, dict[str, Any]] = {}
    problems = []
    for line, row in records(file, "CheXbert's labels"):
        if isinstance(row, str):
            problems.append(f"line {line}: {row}")
        elif not isinstance(row.get("path_to_image"), str) or (absent := set(OBSERVATIONS) - row.keys()):
            problems.append(f"line {line}: no {'path_to_image' if 'path_to_image' not in row else sorted(absent)}")
        elif (film := _film(row["path_to_image"])) in wanted:
            labels[film] = {name: row[name] for name in OBSERVATIONS}
    refuse(Path(str(file)), problems, "CheXbert's labels")
    return labels


class _Films:
    """Where films lie: PNG before DICOM, unpacked before packed."""

    def __init__(self, src: Path, packed: Iterable[Member]) -> None:
        self._src = src
        above = {
            folder.parent
            for depth in ("", "*/", "*/*/")
            for split in ("train", "valid")
            for folder in src.glob(depth + split)
        }
        self._roots = [inside(src, folder).relative_to(src) for folder in sorted(above)]
        self._packed: dict[str, Film] = {}
        for member in sorted(packed, key=lambda member: member.name.lower().endswith(".dcm")):
            if film := _film(member.name):
                self._packed.setdefault(film, member)

    def find(self, path: str) -> Film:
        """The film of a row. Raises Unsound where it is missing, or a link leads out of the source."""
        stem = path.rpartition(".")[0]
        for suffix in _SUFFIXES:
            for root in self._roots:
                name = root / (stem + suffix)
                if (self._src / name).is_file():
                    return find_film(self._src, name.as_posix())
        if (film := self._packed.get(_film(path))) is None:
            raise Unsound("missing film", f"film {stem} is missing: no PNG, JPEG or DICOM of that name in {self._src}")
        return film
