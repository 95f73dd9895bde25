"""The page's first two parts as HTML: scores beside their null baselines, and the model by finding."""

import math
from collections.abc import Mapping
from typing import Any

from rrg.report.markup import bar, number, shown, text
from rrg.report.scores import ABNORMAL, MODEL, NAMES, Cell, Metrics, Table, Way

FACTS = {
    "data": "Data",
    "split": "Split",
    "signature": "Protocol",
    "labeler": "Labels of generated reports",
    "reference_labels": "Labels of references",
    "uncertain": "Uncertain findings",
    "average": "Average",
    "constant": "The best constant",
    "constant_val_bleu_4": "Its BLEU-4 on validation",
    "seed": "Seed of the random baseline",
}
HEALTH = ("distinct", "verbatim")
KNOWN = {*FACTS, *HEALTH, "n", "n_split", "protocol"}


def summary(metrics: Metrics) -> str:
    """Scores of every source, what they were measured by, and how the reports look as a set."""
    parts = ['<section id="summary"><h2>Summary</h2>', _health(metrics), '<div class="tables">']
    for subset, table in metrics.tables.items():
        title = "Abnormal studies" if subset == ABNORMAL else "All studies"
        note = " Their reference labels lack No Finding." if subset == ABNORMAL else ""
        n = "" if table.n is None else f"n = {table.n:,}."
        parts.append(_scores(table, metrics.sources, title, f"{n}{note}"))
    return "".join([*parts, "</div>", _facts(metrics), "</section>"])


def _health(metrics: Metrics) -> str:
    facts, n = metrics.facts, metrics.tables[""].n
    figures = []
    if isinstance(n, int):
        whole = facts.get("n_split")
        figures.append((f"{n:,}", "studies" if whole in (None, n) else f"of {text(whole)} studies are scored"))
    if (distinct := facts.get("distinct")) is not None:
        figures.append((shown(distinct), "distinct reports"))
    if isinstance(verbatim := facts.get("verbatim"), int | float) and math.isfinite(verbatim):
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


def _scores(table: Table, sources: list[str], title: str, note: str) -> str:
    head = "".join(f'<th scope="col">{text(source)}</th>' for source in sources)
    rows = []
    for way in table.metrics:
        cells = table.cells[way]
        values = _values(cells)
        best = [k for k, v in values.items() if v == max(values.values())] if len(values) > 1 else []
        row = "".join(_cell(cells.get(source, Cell()), source in best) for source in sources)
        rows.append(f'<tr><th scope="row">{_words(way)}</th>{row}</tr>')
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
    facts = {FACTS.get(key, key.replace("_", " ")): metrics.facts.get(key) for key in FACTS}
    facts |= {key.replace("_", " "): value for key, value in metrics.facts.items() if key not in KNOWN}
    rows = "".join(f"<div><dt>{shown(k)}</dt><dd>{_fact(v)}</dd></div>" for k, v in facts.items() if v is not None)
    notes = "".join(f"<li>{text(note)}</li>" for note in metrics.notes)
    return f'<dl class="facts">{rows}</dl>' + (f'<ul class="notes">{notes}</ul>' if notes else "")


def _fact(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else text(value)


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
