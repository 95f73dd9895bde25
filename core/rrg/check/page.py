"""`write_check`: a check as one HTML page: findings with their films, numbers by split, prevalence, lengths, films."""

import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np

from rrg.check import Check
from rrg.check.findings import LEVELS, Film, Finding, some
from rrg.data.files import write_output
from rrg.data.films import read_film
from rrg.data.study import SPLITS
from rrg.errors import RRGError
from rrg.observations import OBSERVATIONS
from rrg.report import films as pictures
from rrg.report.markup import bar, histogram, jpeg, text
from rrg.report.sheet import whole

TOGETHER = 6
"""Films of a group that are shown side by side."""
BINS = 40


def write_check(check: Check, output: Path, examples: int = 3) -> None:
    """Write the page: films of `examples` places of each finding, and of as many studies of each split.

    Raises RRGError where it cannot be written.
    """
    behind = {finding.key: [group[:TOGETHER] for group in finding.films[:examples]] for finding in check.findings}
    samples = {split: _sample(check, split, examples) for split in SPLITS}
    number = sum(map(len, samples.values())) + sum(len(group) for groups in behind.values() for group in groups)
    album = _Album(check.folder.path, pictures.side_of(number))
    ordered = sorted(check.findings, key=lambda finding: -LEVELS.index(finding.level))
    sound = "".join(
        f"<div><dt>{_capital(f.title)}</dt><dd>{text(_capital(f.text))}</dd></div>" for f in ordered if f.level == "ok"
    )
    body = [
        _header(check),
        '<main><section id="findings"><h2>Findings</h2>',
        *(_finding(f, album.show(behind[f.key], "findings"), examples) for f in ordered if f.level != "ok"),
        f'<h3>Nothing found</h3><dl class="facts">{sound}</dl></section>' if sound else "</section>",
        '<section id="splits"><h2>Splits</h2>',
        _table("", check.table),
        _prevalence(check),
        _lengths(check),
        '</section><section id="films"><h2>Films</h2><p class="lead">Studies drawn at random, the same each time.</p>',
        *(f"<h3>{split}</h3>{album.show([films], 'films')}" for split, films in samples.items() if films),
        "</section></main>",
    ]
    write_output(output, whole(f"{check.folder.card['name']}: data check", "\n".join(body)))


class _Album:
    """Films of the folder as pictures of at most `side` pixels; one that cannot be read as a placeholder."""

    def __init__(self, folder: Path, side: int) -> None:
        self.folder, self.side, self._numbers = folder, side, count(1)

    def show(self, groups: Sequence[Sequence[Film]], section: str) -> str:
        """Each group in a row, single films in one. section: where an enlarged film leads back to."""
        if all(len(group) == 1 for group in groups):
            groups = [[group[0] for group in groups]] if groups else []
        rows = ("".join(self._one(film, section) for film in group) for group in groups)
        return "".join(f'<div class="maps">{row}</div>' for row in rows)

    def _one(self, film: Film, section: str) -> str:
        try:
            uri, width, height = jpeg(read_film(self.folder / film.name), self.side)
            shown = pictures.Film(f"film-{next(self._numbers)}", f"Film {film}", section, uri, width, height)
        except RRGError as error:
            shown = pictures.Film("", "", error=error.message.removeprefix(f"{self.folder}/"))
        view = f", {text(film.study.views[film.i])}" if film.study.views else ""
        about = f"{text(film.study.id)}, {film.study.split}{view} <i>{text(film.name)}</i>"
        return f'<div class="map">{shown.html}<p>{about}</p></div>'


def _sample(check: Check, split: str, examples: int) -> list[Film]:
    own = [study for study in check.folder.studies if study.split == split]
    drawn = random.Random(0).sample(own, min(examples, len(own)))
    return [Film(study, i) for study in drawn for i in range(len(study.file_names))[:TOGETHER]]


def _header(check: Check) -> str:
    card = check.folder.card
    figures = [(f"{sum(n[key] for n in check.numbers.values()):,}", key) for key in ("studies", "films")]
    figures += [(str(n), some(n, level).partition(" ")[2]) for level, n in check.levels.items()][:0:-1]
    items = "".join(f"<li><strong>{number}</strong> {name}</li>" for number, name in figures)
    opened = "" if check.opened else '<p class="note">No film was opened, as asked for.</p>'
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in ("findings", "splits", "films"))
    return (
        f"<header><h1>{text(card['name'])}</h1><p>{text(check.folder.path)}, labels by {text(card['labels'])}</p>"
        f'{opened}<p class="source">{text(card["licence"])}</p><nav>{links}</nav></header>'
        f'<ul class="figures">{items}</ul>'
    )


def _capital(said: str) -> str:
    return said[:1].upper() + said[1:]


def _finding(finding: Finding, films: str, examples: int) -> str:
    items = "".join(f"<li>{text(example)}</li>" for example in finding.examples[:examples])
    if (more := len(finding.examples) - examples) > 0:
        items += f"<li>… and {more:,} more</li>"
    level = finding.level
    return (
        f'<section class="finding of-{level}"><h4><span class="tag {level}"><b>{level}</b></span> '
        f"{_capital(finding.title)}</h4><p>{text(_capital(finding.text))}.</p><p><b>{text(finding.advice)}</b></p>"
        f'<ul class="notes">{items}</ul>{films}</section>'
    )


def _table(caption: str, rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Names and HTML cells by split."""
    head = "".join(f'<th scope="col">{split}</th>' for split in SPLITS)
    body = "".join(
        f'<tr><th scope="row">{text(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    )
    return (
        f'<div class="wide"><table class="splits"><caption>{caption}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _prevalence(check: Check) -> str:
    shares = [numbers["prevalence"] for numbers in check.numbers.values()]
    rows = [(name, [f"{of[name]:.1%}{bar(of[name])}" for of in shares]) for name in OBSERVATIONS]
    return _table("<b>Prevalence</b> Share of the split's studies labelled present.", rows)


def _lengths(check: Check) -> str:
    """A histogram of words a report for each split, over the same bins; the last holds what is longer."""
    every = np.concatenate([np.asarray(check.words[split], np.int64) for split in SPLITS])
    width = max(1, int(np.ceil(np.quantile(every, 0.99) / BINS))) if every.size else 1
    drawings = ""
    for split in SPLITS:
        own = np.asarray(check.words[split], np.int64)
        if own.size:
            bins = np.bincount(np.minimum(own // width, BINS), minlength=BINS + 1)
            median = f"median {np.median(own):,.0f}, longest {own.max():,}"
            drawings += f'<div class="map">{histogram(bins, 0, BINS * width)}<p>{split} <i>{median}</i></p></div>'
    of = "1 word" if width == 1 else f"{width} words"
    return (
        "<figure><figcaption><h5>Words a report</h5> Share of the split's reports by length; a bar is "
        f'{of}, the last one all that are longer.</figcaption><div class="maps">{drawings}</div></figure>'
    )
