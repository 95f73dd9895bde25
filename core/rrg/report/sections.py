"""The page's first two parts as HTML: scores beside their null baselines, and the model by finding."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rrg.evaluate.scores import MODEL
from rrg.report.markup import bar, number, shown, text
from rrg.report.scores import ABNORMAL, NAMES, Cell, Metrics, Table, Way, leaves

FACTS = {
    "signature": "Protocol",
    "data": "Data",
    "split": "Split",
    "labeler": "Labels of generated reports",
    "reference_labels": "Labels of references",
    "uncertain": "Uncertain findings",
    "average": "Average",
    "constant": "The best constant",
    "constant_val_bleu_4": "Its BLEU-4 on validation",
    "bootstrap": "Intervals",
    "seed": "Seed of the random baseline",
}
LONG = 60
"""Characters of a fact that gets a line of its own."""


def summary(metrics: Metrics) -> str:
    """Scores of every source, what they were measured by, and how the reports look as a set."""
    parts = ['<section id="summary"><h2>Summary</h2>', _health(metrics), '<div class="tables">']
    for subset, table in metrics.tables.items():
        title = "Abnormal studies" if subset == ABNORMAL else "All studies"
        note = " Their reference labels lack No Finding." if subset == ABNORMAL else ""
        parts.append(_scores(table, table.metrics, metrics.sources, title, f"n = {table.n:,}.{note}"))
    facts = {name: getattr(metrics.scores, key) for key, name in FACTS.items()}
    facts["The most frequent report"] = metrics.scores.repeated.report
    notes = "".join(f"<li>{text(note)}</li>" for note in metrics.scores.notes)
    listed = _list(facts) + (f'<ul class="notes">{notes}</ul>' if notes else "")
    return "".join([*parts, "</div>", listed, _presets(metrics), _radgraph(metrics), "</section>"])


def _health(metrics: Metrics) -> str:
    found = metrics.scores
    figures = [
        (f"{found.n:,}", "studies" if found.n_split in (None, found.n) else f"of {found.n_split:,} studies are scored"),
        (f"{found.distinct:,}", "distinct reports"),
        (f"{found.repeated.count:,}", "times the most frequent report"),
    ]
    again, theirs = found.repetition, found.reference_repetition
    figures += [
        (
            f"{again.sentences:.1%}",
            f"of sentences are said again within a report ({theirs.sentences:.1%} of references')",
        ),
        (f"{again.reports:,}", f"reports repeat themselves ({theirs.reports:,} references do)"),
    ]
    if found.verbatim is not None:
        figures.append((f"{found.verbatim:.1%}", "word for word in train"))
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


def _presets(metrics: Metrics) -> str:
    """Every clinical preset's figures, folded up."""
    tables = "".join(
        _scores(table, table.presets, metrics.sources, "Abnormal studies" if subset else "All studies", "", named=1)
        for subset, table in metrics.tables.items()
    )
    listed = _list({f"presets {name}": said for name, said in metrics.scores.presets.items()})
    return f'<details><summary>Clinical presets</summary><div class="tables">{tables}</div>{listed}</details>'


def _radgraph(metrics: Metrics) -> str:
    if metrics.scores.radgraph is None:
        return ""
    found = {" ".join(("radgraph", *way)): value for way, value in leaves(asdict(metrics.scores.radgraph))}
    return f"<details><summary>RadGraph, means over reports</summary>{_list(found)}</details>"


def _list(said: Mapping[str, Any]) -> str:
    return f'<dl class="facts">{"".join(_fact(*each) for each in said.items() if each[1] is not None)}</dl>'


def _fact(name: str, value: Any) -> str:
    said = f"{value:.3f}" if isinstance(value, float) else text(value)
    long = ' class="long"' if len(str(value)) > LONG else ""
    return f"<div{long}><dt>{shown(name)}</dt><dd>{said}</dd></div>"


def findings(metrics: Metrics) -> str:
    """The model by observation: support, precision, recall and F1, with the best null baseline's F1 beside it."""
    clinical = {source: row.clinical.observations for source, row in metrics.scores.rows.items()}
    model = clinical.pop(MODEL)
    rows = []
    for name, found in model.items():
        tick = max((each[name].f1 for each in clinical.values() if name in each), default=None)
        rows.append(
            f'<tr><th scope="row">{text(name)}</th><td>{found.support:,}</td>'
            f"<td>{number(found.precision)}{bar(found.precision)}</td><td>{number(found.recall)}{bar(found.recall)}</td>"
            f"<td>{number(found.f1)}{bar(found.f1, tick)}</td></tr>"
        )
    return (
        '<section id="findings"><h2>Findings</h2><div class="wide"><table class="findings">'
        "<caption>The model by observation. Support: references that have it. "
        "The mark on F1 is the best null baseline.</caption>"
        '<thead><tr><td></td><th scope="col">Support</th><th scope="col">Precision</th><th scope="col">Recall</th>'
        f'<th scope="col">F1</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>'
    )
