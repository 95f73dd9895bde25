"""An evaluation's numbers as tables for the page; nothing is computed.

A number of a row is known by its way there: ("bleu_4",), ("clinical", "macro", "f1"), ("presets", "r2gen", …, "f1").
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrg.evaluate.scores import COLUMNS, MODEL, Row, Scores, read_scores

Way = tuple[str, ...]
ABNORMAL = "abnormal"
AVERAGES = {"precision": "Precision", "recall": "Recall", "f1": "F1"}
NAMES: dict[Way, str] = {(key,): name for name, key in COLUMNS.items()} | {
    ("clinical", average, key): f"{name}, {average}" for average in ("macro", "micro") for key, name in AVERAGES.items()
}
"""Metrics of a whole report, in the page's order."""
BOUNDED: dict[str, Way] = {key: (key,) for key in COLUMNS.values()} | {
    f"f1_{average}": ("clinical", average, "f1") for average in ("macro", "micro")
}
"""The metric that an interval of that name belongs to."""


@dataclass
class Cell:
    value: float | None = None
    interval: tuple[float, float] | None = None


@dataclass
class Table:
    """Cells by metric, then by source. n: studies."""

    n: int
    cells: dict[Way, dict[str, Cell]] = field(default_factory=dict)

    @classmethod
    def of(cls, n: int, rows: Mapping[str, Row]) -> "Table":
        table = cls(n)
        for source, row in rows.items():
            content = asdict(row)
            intervals = {BOUNDED[name]: found for name, found in content.pop("intervals").items() if name in BOUNDED}
            for way, value in leaves(content):
                table.cells.setdefault(way, {})[source] = Cell(value, intervals.get(way))
        return table

    @property
    def metrics(self) -> list[Way]:
        return [way for way in NAMES if way in self.cells]

    @property
    def presets(self) -> list[Way]:
        return [way for way in self.cells if way[0] == "presets" and way[-1] != "support"]


@dataclass(frozen=True)
class Metrics:
    """scores: as the evaluation wrote them. tables: of all studies (""), then of abnormal ones where there are some."""

    scores: Scores
    tables: dict[str, Table]

    @property
    def sources(self) -> list[str]:
        """Names, the model's first."""
        return [MODEL, *(name for name in self.scores.rows if name != MODEL)]


def read_metrics(path: Path) -> Metrics:
    """Raises DataError as `read_scores` does."""
    scores = read_scores(path)
    tables = {"": Table.of(scores.n, scores.rows)}
    if scores.abnormal.rows:
        tables[ABNORMAL] = Table.of(scores.abnormal.n, scores.abnormal.rows)
    return Metrics(scores, tables)


def leaves(node: Any, way: Way = ()) -> Iterator[tuple[Way, Any]]:
    """What a nest of dicts holds, by its way."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*way, key))
    else:
        yield way, node
