"""`metrics.json` as tables: what is there is shown, whatever an evaluation adds; nothing is computed.

A number belongs to a source (the model, a null baseline) if the source's name stands on the way to it; what remains of
the way names the metric. A pair of numbers below `intervals` is the interval of the metric of that name.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrg.errors import DataError
from rrg.evaluate.scores import COLUMNS

Way = tuple[str, ...]
MODEL = "model"
ABNORMAL = "abnormal"
AVERAGES = {"precision": "Precision", "recall": "Recall", "f1": "F1"}
NAMES: dict[Way, str] = {(key,): name for name, key in COLUMNS.items()} | {
    ("clinical", average, key): f"{name}, {average}"
    for average in ("macro", "micro", "example")
    for key, name in AVERAGES.items()
}
ALSO: dict[Way, Way] = {(f"f1_{average}",): ("clinical", average, "f1") for average in ("macro", "micro", "example")}
_SILENT = ("rows", "intervals")
MOST = 200
"""Entries of an object that still holds metrics; one with more holds studies."""


@dataclass
class Cell:
    value: float | None = None
    interval: tuple[float, float] | None = None


@dataclass
class Table:
    """Cells by metric, then by source. n: studies."""

    n: int | None
    cells: dict[Way, dict[str, Cell]] = field(default_factory=dict)

    @property
    def metrics(self) -> list[Way]:
        """Those of a whole report, the known ones first; not those of a group."""
        own = [way for way in self._whole if way in NAMES or len(way) == 1]
        return sorted(own, key=lambda way: list(NAMES).index(way) if way in NAMES else len(NAMES))

    @property
    def groups(self) -> dict[str, list[Way]]:
        """Further metrics by what they begin with, such as `presets`."""
        found: dict[str, list[Way]] = {}
        for way in self._whole:
            if way not in NAMES and len(way) > 1:
                found.setdefault(way[0], []).append(way)
        return found

    @property
    def _whole(self) -> list[Way]:
        return [way for way in self.cells if "observations" not in way and way[-1] != "support"]


@dataclass(frozen=True)
class Metrics:
    """sources: names, the model's first. tables: all studies, then subsets. facts: everything else that is short.

    reports: what is said of each report of the model, by study id.
    """

    sources: list[str]
    tables: dict[str, Table]
    observations: list[str]
    facts: dict[Way, Any]
    notes: list[str]
    reports: dict[str, dict[str, Any]]


def read_metrics(path: Path) -> Metrics:
    """Raises DataError where the file is missing, not JSON, or holds no scores."""
    again = f"`rrg evaluate {path.parent}` writes it"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {again}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}; {again}") from None
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, dict) or not isinstance(rows.get(MODEL), dict):
        raise DataError(f'{path}: expected an object with "rows", the scores of "model" among them; {again}')
    sources = [MODEL, *(name for name in rows if name != MODEL)]
    tables: dict[str, Table] = {"": Table(_count(content))}
    facts: dict[Way, Any] = {}
    for way, found in _leaves(content):
        source = next((part for part in way if part in sources), None)
        if source is None:
            if not isinstance(found, tuple) and way != (ABNORMAL, "n"):
                facts[way] = found
            continue
        subset = ABNORMAL if way[0] == ABNORMAL else ""
        table = tables.setdefault(subset, Table(_count(content.get(subset))))
        parts = [*way]
        for name in filter(None, (source, subset)):
            parts.remove(name)
        metric = ALSO.get(tuple(parts), tuple(parts) or (source,))
        cell = table.cells.setdefault(metric, {}).setdefault(source, Cell())
        if isinstance(found, tuple):
            cell.interval = found
        elif found is None or isinstance(found, int | float):
            cell.value = found
    numbers = [way for way in tables[""].cells if way[:2] == ("clinical", "observations") and len(way) == 4]
    notes, reports = (found if isinstance(found := content.get(key), list) else [] for key in ("notes", "reports"))
    return Metrics(
        sources,
        {name: table for name, table in tables.items() if table.cells or not name},
        list(dict.fromkeys(way[2] for way in numbers)),
        facts,
        [note for note in notes if isinstance(note, str)],
        {report["id"]: report for report in reports if isinstance(report, dict) and isinstance(report.get("id"), str)},
    )


def _count(content: object) -> int | None:
    n = content.get("n") if isinstance(content, dict) else None
    return n if isinstance(n, int) else None


def _leaves(node: Any, way: Way = ()) -> Iterator[tuple[Way, Any]]:
    """Numbers, strings and None by their way; an interval as a tuple."""
    if isinstance(node, dict):
        if len(node) > MOST:
            return
        for key, value in node.items():
            yield from _leaves(value, way if key in _SILENT else (*way, key))
    elif isinstance(node, list):
        if interval := _interval(node):
            yield way, interval
    elif way:
        yield way, node


def _interval(pair: list[Any]) -> tuple[float, float] | None:
    numbers = [float(x) for x in pair if isinstance(x, int | float) and not isinstance(x, bool)]
    return (numbers[0], numbers[1]) if len(numbers) == len(pair) == 2 else None
