"""Where the pieces of MIMIC-CXR lie below a folder: films, reports, tables, R2Gen's annotation file.

Users keep them as PhysioNet's `wget -r` left them, or side by side. The search is bounded: it never enters a patient's
folder but to see which kind of file the first ones hold.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rrg.data.archives import is_archive
from rrg.data.listing import need_folder
from rrg.errors import DataError

DEPTH = 6  # physionet.org/files/mimic-cxr-jpg/2.0.0/files
MAX_FOLDERS = 10_000
PROBED = 8
FILMS = (".jpg", ".dcm")

_TABLE = re.compile(r"mimic-cxr-2\.\d\.\d-(split|metadata|chexpert|negbio)\.csv(\.gz)?")
_ANNOTATION = re.compile(r"(?i:.*annotation.*)\.json")  # mimic_annotation.json, annotation.json
_GROUP, _PATIENT, _STUDY = (re.compile(pattern) for pattern in (r"p\d\d", r"p\d{8}", r"s\d{8}"))
_REPORT = re.compile(r"s\d{8}\.txt")
DICOM = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}")


@dataclass(frozen=True)
class Layout:
    """What was found. films, reports: folders of p10/p10000032/…, below `src`; reports may be an archive of one.

    tables: by "split", "metadata", "chexpert", "negbio". suffix: the films'.
    """

    src: Path
    films: Path
    suffix: str
    reports: Path | None
    tables: dict[str, Path]
    annotation: Path | None

    def __str__(self) -> str:
        parts = [f"{'JPG' if self.suffix == '.jpg' else 'DICOM'} films in {self._below(self.films)}"]
        parts += [f"reports in {self._below(self.reports)}"] if self.reports else []
        for folder in sorted({path.parent for path in self.tables.values()}):
            tables = sorted(kind for kind, path in self.tables.items() if path.parent == folder)
            parts.append(f"tables {', '.join(tables)} in {self._below(folder)}")
        parts += [self._below(self.annotation)] if self.annotation else []
        return "; ".join(parts)

    def _below(self, path: Path) -> str:
        return str(path.relative_to(self.src))


def study_folder(patient: str, study: str) -> str:
    """Such as p10/p10000032/s50414267, from the ids' digits."""
    return f"p{patient[:2]}/p{patient}/s{study}"


def find_layout(src: Path) -> Layout:
    """The pieces: of each, the first by depth and name. Raises UsageError, and DataError that says what is missing."""
    need_folder(src, "give the one that holds MIMIC-CXR's films, reports and tables")
    tables: dict[str, Path] = {}
    annotations, archives, trees, links = [], [], [], []
    for path, kind in _search(src):
        if kind == "tree":
            trees.append((path, _suffixes(path)))
        elif kind == "link":
            links.append(str(path))
        elif table := _TABLE.fullmatch(path.name):
            tables.setdefault(table[1], path)
        elif _ANNOTATION.fullmatch(path.name):
            annotations.append(path)
        else:
            archives.append(path)
    films = [(path, suffix) for suffix in FILMS for path, held in trees if suffix in held]
    reports = [*(path for path, held in trees if ".txt" in held), *archives]
    missing = [] if films else ["films: files/p10/p10000032/s50414267/*.jpg of MIMIC-CXR-JPG, or *.dcm of MIMIC-CXR"]
    if not reports and not annotations:
        missing.append("reports: mimic-cxr-reports.zip of MIMIC-CXR, or files/p10/p10000032/s50414267.txt")
    if missing:
        missing += [f"symbolic links are not followed: {', '.join(links[:5])}"] if links else []
        raise DataError(f"{src}: not a known form of MIMIC-CXR. Looked {DEPTH} levels deep and found no", missing)
    path, suffix = films[0]
    return Layout(src, path, suffix, next(iter(reports), None), tables, next(iter(annotations), None))


def _search(src: Path) -> Iterator[tuple[Path, str]]:
    """(path, "file", "link" or "tree") of what may be a piece, level by level, in the order of the names."""
    level, visited = [src], 0
    for _ in range(DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            visited += 1
            if visited > MAX_FOLDERS:
                raise DataError(f"{src}: holds more than {MAX_FOLDERS:,} folders; give the one that holds MIMIC-CXR")
            inner, files, is_tree = _listing(folder)
            if is_tree:
                yield folder, "tree"
            yield from files
            below += inner
        level = below


def _listing(folder: Path) -> tuple[list[Path], list[tuple[Path, str]], bool]:
    """The folders to look into, the files and links that may be pieces, and whether patients lie here."""
    inner, files, is_tree = [], [], False
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            wanted = bool(_TABLE.fullmatch(name) or _ANNOTATION.fullmatch(name))
            wanted = wanted or (name.startswith("mimic-cxr-reports.") and is_archive(Path(name)))
            if _GROUP.fullmatch(name):
                is_tree = True
            elif entry.is_symlink():
                if wanted or entry.is_dir():
                    files.append((folder / name, "link"))
            elif entry.is_dir():
                if not _PATIENT.fullmatch(name) and not _STUDY.fullmatch(name):
                    inner.append(folder / name)
            elif wanted and entry.is_file():
                files.append((folder / name, "file"))
    return sorted(inner), sorted(files), is_tree


def _suffixes(tree: Path) -> set[str]:
    """The suffixes of what lies in the first patients' folders of every group."""
    found = set()
    for group in _inside(tree, _GROUP):
        for patient in islice(_inside(group, _PATIENT), PROBED):
            with os.scandir(patient) as entries:
                for entry in islice(entries, 4 * PROBED):
                    if entry.is_dir() and _STUDY.fullmatch(entry.name):
                        found |= {os.path.splitext(name)[1] for name in islice(os.listdir(entry), PROBED)}
                    elif _REPORT.fullmatch(entry.name):
                        found.add(".txt")
    return found


def _inside(folder: Path | str, name: re.Pattern[str]) -> Iterator[str]:
    """The folders in a folder that have such a name, in the order in which they lie there."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and entry.is_dir():
                yield entry.path


def films_in(tree: Path, suffix: str) -> Iterator[tuple[str, str, list[str]]]:
    """(patient, study, its dicom_ids in order) of a folder of films, by its folders' names."""
    for group in _inside(tree, _GROUP):
        for patient in _inside(group, _PATIENT):
            for study in _inside(patient, _STUDY):
                films = (os.path.splitext(name) for name in sorted(os.listdir(study)))
                known = [name for name, its in films if its == suffix and DICOM.fullmatch(name)]
                yield os.path.basename(patient)[1:], os.path.basename(study)[1:], known
