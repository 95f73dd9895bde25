"""Label files that another tool made: the 14 observations by study id, read by name, never by position.

Three column orders are in use (CheXpert's, MIMIC-CXR-JPG's alphabetical one, CheXbert's), so position means nothing.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rrg.data.documents import rows
from rrg.data.fields import is_id, take_id
from rrg.data.tables import refuse
from rrg.errors import DataError
from rrg.observations import OBSERVATIONS

IGNORED = ("subject_id", "patient", "split", "report", "reports", "report impression", "reference")
SHOWN = 5
_BLANK = ("", "nan", "<na>", "none", "null")
_PLACE = {name.lower(): i for i, name in enumerate(OBSERVATIONS)} | {
    "airspace opacity": OBSERVATIONS.index("Lung Opacity")
}


@dataclass(frozen=True)
class LabelFile:
    """Labels by study id: (14,) float32 in {1, 0, -1, nan}, in the order of OBSERVATIONS."""

    path: Path
    labels: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """As a signature names it."""
        return f"file {self.path.name}"

    def covers(self, ids: Sequence[str]) -> bool:
        """Has the file labels for all of these studies?"""
        return self.labels.keys() >= set(ids)

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """(ids, 14) labels. Raises DataError that names ids without labels."""
        if missing := [i for i in ids if i not in self.labels]:
            raise DataError(
                f"{self.path}: no labels for {len(missing)} of {len(ids)} studies, such as "
                f"{', '.join(missing[:SHOWN])}; its ids are like {', '.join(list(self.labels)[:SHOWN])}"
            )
        return np.stack([self.labels[i] for i in ids])


def read_labels(path: Path) -> LabelFile:
    """Read a table, or JSON of flat objects or of `{"id": …, "labels": {…}}`, in lines, an array or an object by id.

    Values: 1 present, 0 absent, -1 uncertain, blank not mentioned. In JSON lines a name left out of a record is not
    mentioned there.

    Raises DataError for unknown columns, an observation that occurs nowhere, no id, an id given twice, other values.
    """
    labels: dict[str, np.ndarray] = {}
    problems: list[str] = []
    seen: set[int] = set()
    for where, record in rows(path, "labels", lambda name: is_id(name) or _spelt(name) in _PLACE):
        if isinstance(record, str):
            problems.append(f"{where}: {record}")
            continue
        cells, key, unknown = _sorted_out(path, record)
        if unknown or key is None:
            _wrong_columns(path, where, unknown, key)
        row = np.full(len(OBSERVATIONS), np.nan, np.float32)
        for place, (name, value) in cells.items():
            try:
                row[place] = _label(value)
            except ValueError:
                problems.append(f"{where}: {name} is {value!r}, not 1, 0, -1 or blank{_ids_hint(value)}")
        study = str(int(key) if isinstance(key, float) and key.is_integer() else key).strip()
        if not study or study.lower() == "nan":
            problems.append(f"{where}: the id is {study or 'empty'}")
        elif study in labels:
            problems.append(f"{where}: id {study} was already given")
        labels[study] = row
        seen |= cells.keys()
    refuse(path, problems, "labels")
    if not labels:
        raise DataError(f"{path}: holds no labels")
    if absent := [name for i, name in enumerate(OBSERVATIONS) if i not in seen]:
        raise DataError(f"{path}: no column for {', '.join(absent)}; labels need all 14 observations, by name")
    return LabelFile(path, labels)


def _sorted_out(path: Path, record: dict[str, Any]) -> tuple[dict[int, tuple[str, Any]], Any, list[str]]:
    """Cells by observation, the id, and the names that are neither."""
    nested = record.get("labels")
    if isinstance(nested, dict):
        record = {**{k: v for k, v in record.items() if is_id(k)}, **nested}
    cells, unknown = {}, []
    for column, value in record.items():
        if (name := _spelt(column)) in _PLACE:
            cells[_PLACE[name]] = (column, value)
        elif not is_id(column) and name not in [ignored.replace("_", " ") for ignored in IGNORED]:
            unknown.append(column)
    return cells, record.get(take_id(path, record)), unknown


def _spelt(column: str) -> str:
    return re.sub(r"[\s_]+", " ", column.strip()).lower()


def _wrong_columns(path: Path, where: str, unknown: list[str], key: Any) -> None:
    if unknown:
        raise DataError(
            f"{path}: {where}: unknown columns {', '.join(map(repr, unknown[:SHOWN]))}; expected an id, such as "
            f"study_id, and the 14 observations by name: {', '.join(OBSERVATIONS)}"
        )
    assert key is None
    raise DataError(f"{path}: {where}: no id; labels are matched by id, study_id, uid or a name that says the same")


def _label(value: Any) -> float:
    """Raises ValueError for what is no label."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _BLANK):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(value)
    number = float(value)
    if math.isnan(number) or number in (1, 0, -1):
        return number
    raise ValueError(value)


def _ids_hint(value: Any) -> str:
    ids = str(value).strip() in ("2", "3", "2.0", "3.0")
    return " (2 and 3 are CheXbert's class ids: write negative as 0, uncertain as -1, blank as nothing)" if ids else ""
