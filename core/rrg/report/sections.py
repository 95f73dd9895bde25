"""The page's first two parts as HTML: scores beside their null baselines, and the model by finding."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rrg.report.markup import bar, number, shown, text
from rrg.report.scores import ABNORMAL, MODEL, NAMES, Cell, Metrics, Table, Way

FACTS: dict[Way, str] = {
    ("signature",): "Protocol",
    ("data",): "Data",
    ("split",): "Split",
    ("labeler",): "Labels of generated reports",
    ("reference_labels",): "Labels of references",
    ("uncertain",): "Uncertain findings",
    ("average",): "Average",
    ("constant",): "The best constant",
    ("constant_val_bleu_4",): "Its BLEU-4 on validation",
    ("repeated", "report"): "The most frequent report",
    ("seed",): "Seed of the random baseline",
}
ELSEWHERE: set[Way] = {("n",), ("n_split",), ("protocol",), ("distinct",), ("verbatim",), ("repeated", "count")}
LONG = 60
"""Characters of a fact that gets a line of its own."""


def summary(metrics: Metrics) -> str:
    """Scores of every source, what they were measured by, and how the reports look as a set."""
    parts = ['<section id="summary"><h2>Summary</h2>', _health(metrics), '<div class="tables">']
    for subset, table in metrics.tables.items():
        title = "Abnormal studies" if subset == ABNORMAL else "All studies"
        note = " Their reference labels lack No Finding." if subset == ABNORMAL else ""
        n = "" if table.n is None else f"n = {table.n:,}."
        if table.metrics:
            parts.append(_scores(table, table.metrics, metrics.sources, title, f"{n}{note}"))
    return "".join([*parts, "</div>", _facts(metrics), *_groups(metrics), "</section>"])


def _health(metrics: Metrics) -> str:
    facts, n = metrics.facts, metrics.tables[""].n
    figures = []
    if n is not None:
        whole = facts.get(("n_split",))
        figures.append((f"{n:,}", "studies" if whole in (None, n) else f"of {text(whole)} studies are scored"))
    if (distinct := facts.get(("distinct",))) is not None:
        figures.append((shown(distinct), "distinct reports"))
    if (count := facts.get(("repeated", "count"))) is not None:
        figures.append((shown(count), "times the most frequent report"))
    if isinstance(verbatim := facts.get(("verbatim",)), int | float) and math.isfinite(verbatim):
        figures.append((f"{verbatim:.1%}", "word for word in train"))
    above, count = _above_nulls(metrics)
    if count:
        figures.append((f"{above} of {count}", "metrics above every null baseline"))
    return (
        "<ul class='figures'>"
        + "".join(f"<li><strong>{value}</strong> {what}</li>" for value, what in figures)
        + "</ul>"
    )


def _above_nulls(metrics: Metrics) -> tuple[int, int]:
    """In how many of the metrics the model is strictly above all others."""
    compared = [_values(metrics.tables[""].cells[way]) for way in metrics.tables[""].metrics]
    compared = [values for values in compared if MODEL in values and len(values) > 1]
    return sum(values[MODEL] > max(v for k, v in values.items() if k != MODEL) for values in compared), len(compared)


def _values(cells: Mapping[str, Cell]) -> dict[str, float]:
    return {k: c.value for k, c in cells.items() if c.value is not None and math.isfinite(c.value)}


def _scores(table: Table, ways: list[Way], sources: list[str], title: str, note: str, named: int = 0) -> str:
    """named: parts of each way that the title says already."""
    head = "".join(f'<th scope="col">{text(source)}</th>' for source in sources)
    rows = []
    for way in ways:
        cells = table.cells[way]
        values = _values(cells)
        best = [k for k, v in values.items() if v == max(values.values()) > min(values.values())]
        row = "".join(_cell(cells.get(source, Cell()), source in best) for source in sources)
        rows.append(f'<tr><th scope="row">{_words(way[named:])}</th>{row}</tr>')
    return (
        f'<div class="wide"><table class="scores"><caption><b>{title}</b> {note}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(cell: Cell, best: bool) -> str:
    value = f"<b>{number(cell.value)}</b>" if best else number(cell.value)
    return f"<td>{value}{_interval(cell)}</td>"


def _interval(cell: Cell) -> str:
    low_high = cell.interval
    return f'<span class="interval">{low_high[0]:.3f} – {low_high[1]:.3f}</span>' if low_high else ""


def _words(way: Way) -> str:
    return NAMES.get(way) or text(", ".join(part.replace("_", " ") for part in way))


def _facts(metrics: Metrics) -> str:
    rest = [way for way in metrics.facts if len(way) == 1 and way not in FACTS and way not in ELSEWHERE]
    notes = "".join(f"<li>{text(note)}</li>" for note in metrics.notes)
    return _list(metrics, [*FACTS, *rest]) + (f'<ul class="notes">{notes}</ul>' if notes else "")


def _groups(metrics: Metrics) -> Iterator[str]:
    """What an evaluation has beside, folded up: tables and facts by what their names begin with."""
    facts: dict[str, list[Way]] = {}
    for way in metrics.facts:
        if len(way) > 1 and way not in FACTS and way not in ELSEWHERE:
            facts.setdefault(way[0], []).append(way)
    for name in dict.fromkeys([*(name for table in metrics.tables.values() for name in table.groups), *facts]):
        tables = "".join(
            _scores(table, ways, metrics.sources, "Abnormal studies" if subset else "All studies", "", named=1)
            for subset, table in metrics.tables.items()
            if (ways := table.groups.get(name))
        )
        title = shown(name.replace("_", " ").capitalize())
        listed = _list(metrics, facts.get(name, []))
        yield f'<details><summary>{title}</summary><div class="tables">{tables}</div>{listed}</details>'


def _list(metrics: Metrics, ways: Iterable[Way]) -> str:
    said = {FACTS.get(way) or " ".join(way).replace("_", " "): metrics.facts.get(way) for way in ways}
    rows = "".join(_fact(name, value) for name, value in said.items() if value is not None)
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _fact(name: str, value: Any) -> str:
    said = f"{value:.3f}" if isinstance(value, float) else text(value)
    long = ' class="long"' if len(str(value)) > LONG else ""
    return f"<div{long}><dt>{shown(name)}</dt><dd>{said}</dd></div>"


def findings(metrics: Metrics) -> str:
    """The model by observation: support, precision, recall and F1, with the best null baseline's F1 beside it."""
    table = metrics.tables[""]
    rows = []
    for name in metrics.observations:
        found = {key: table.cells.get(("clinical", "observations", name, key), {}) for key in ("support", *_THREE)}
        nulls = [value for source, value in _values(found["f1"]).items() if source != MODEL]
        support = found["support"].get(MODEL, Cell()).value
        cells = f"<td>{support:,.0f}</td>" if support is not None and math.isfinite(support) else "<td>–</td>"
        for key in _THREE:
            cell = found[key].get(MODEL, Cell())
            tick = max(nulls, default=None) if key == "f1" else None
            cells += f"<td>{number(cell.value)}{bar(cell.value, tick)}{_interval(cell)}</td>"
        rows.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    if not rows:
        return ""
    return (
        '<section id="findings"><h2>Findings</h2><div class="wide"><table class="findings">'
        "<caption>The model by observation. Support: references that have it. "
        "The mark on F1 is the best null baseline.</caption>"
        '<thead><tr><td></td><th scope="col">Support</th><th scope="col">Precision</th><th scope="col">Recall</th>'
        f'<th scope="col">F1</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>'
    )


_THREE = ("precision", "recall", "f1")
