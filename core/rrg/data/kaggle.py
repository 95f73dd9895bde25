"""IU X-Ray as Kaggle has it (raddar/chest-xrays-indiana-university): two CSV files and films named *.dcm.png."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rrg.data.importing import Entries, Film
from rrg.data.listing import inside
from rrg.data.open_i import Report
from rrg.data.tables import records

REPORTS, PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
SECTIONS = ("findings", "impression", "indication", "comparison")


def tables(files: Mapping[str, Film]) -> dict[str, Film]:
    """Where the two CSV files lie, by name; not both if they are not both there."""
    found: dict[str, Film] = {}
    for where, file in files.items():
        if (name := where.rpartition("/")[2]) in (REPORTS, PROJECTIONS):
            found.setdefault(name, file)
    return found


def read_reports(src: Path, found: Mapping[str, Film], entries: Entries) -> list[Report]:
    """The reports, each with its films, frontal ones first; what is wrong with a line goes to `entries`."""
    for file in found.values():
        if isinstance(file, Path):
            inside(src, file)
    films: dict[str, list[tuple[str, str]]] = {}
    for _, row in _rows(found, PROJECTIONS, ("uid", "filename", "projection"), entries):
        films.setdefault(row["uid"], []).append((row["projection"].strip().lower(), row["filename"].strip()))
    reports = []
    for where, row in _rows(found, REPORTS, ("uid", *SECTIONS), entries):
        sections = {name: " ".join(row[name].split()) for name in SECTIONS}
        ordered = sorted(films.get(row["uid"], []), key=lambda film: film[0] != "frontal")
        views, names = [view for view, _ in ordered], [name for _, name in ordered]
        reports.append(Report(where, f"CXR{row['uid']}", sections, names, views))
    return reports


def _rows(
    found: Mapping[str, Film], name: str, columns: tuple[str, ...], entries: Entries
) -> list[tuple[str, dict[str, Any]]]:
    """(where, row) of the sound lines."""
    rows = []
    for line, row in records(found[name], f"Kaggle's {name}", columns=columns):
        where = f"{name} line {line}"
        if isinstance(row, str):
            entries.reject(where, "malformed entry", row)
        elif not re.fullmatch(r"\d{1,9}", row["uid"]):
            entries.reject(where, "malformed entry", f"uid {row['uid']!r} is no number")
        else:
            rows.append((where, row))
    return rows
