"""The page's cases as HTML: films, the two texts with their findings marked, the exemplar, probabilities, internals."""

from collections.abc import Sequence

import numpy as np

from rrg.data.study import StudyFolder
from rrg.evaluate.scores import COLUMNS
from rrg.labels import Labeler
from rrg.observations import OBSERVATIONS
from rrg.report.cases import KINDS, Case, Kind, Sentence, Status, Tag, marked, split
from rrg.report.films import FULL, Film, films_of, side_of
from rrg.report.internals import Attention, Gate, Internals
from rrg.report.markup import bar, column, plain, shown, text

TITLES: dict[Kind, str] = {
    "missed": "Missed findings",
    "hallucinated": "Hallucinated findings",
    "other": "No finding missed or hallucinated",
}
ORDER: tuple[Status, ...] = ("missed", "hallucinated", "agreed")
MOST_MAPS = 6
"""Observations of a case over whose films attention is shown."""


def casebook(
    cases: Sequence[Case],
    every: Sequence[Case],
    how: str,
    folder: StudyFolder,
    labeler: Labeler,
    internals: dict[str, Internals | str],
    note: str,
) -> str:
    """The cases that are shown, by what went wrong.

    every: all cases of the run. how: which were taken. internals: by id, or why there are none. note: of the internals.
    """
    side = side_of(sum(len(case.study.file_names) for case in cases if case.study))
    read = [found for found in internals.values() if isinstance(found, Internals)]
    largest = max((float(np.nanmax(gate.values)) for found in read for gate in found.gates), default=0.0)
    said = f"All {len(every):,} cases" if len(cases) == len(every) else f"{len(cases):,} of {len(every):,} cases"
    parts = [f'<section id="cases"><h2>Cases</h2><p class="lead">{said}, {how}.</p>', _legend(labeler.name)]
    parts.append(f'<p class="note">{text(note)}</p>' if note else "")
    number = 0
    for kind in KINDS:
        mine = [case for case in cases if case.kind == kind]
        if not mine:
            continue
        whole = sum(case.kind == kind for case in every)
        count = f"{len(mine):,} of {whole:,}" if len(mine) < whole else f"{whole:,}"
        parts.append(f"<section><h3>{TITLES[kind]} <small>{count}</small></h3>")
        for case in mine:
            number += 1
            films = films_of(case, number, folder, side)
            parts.append(_case(case, number, films, labeler, internals.get(case.id), largest))
        parts.append("</section>")
    return "".join([*parts, "</section>"])


def _legend(labeler: str) -> str:
    return (
        '<div class="legend">'
        f"<p>{_tag(Tag('agreed', 'both reports have it'))}{_tag(Tag('missed', 'the reference alone has it'))}"
        f"{_tag(Tag('hallucinated', 'the generated report alone has it'))}</p>"
        f"<p>Sentences are read by the labeler {text(labeler)}; uncertain counts as not there. A mark that ends in "
        "“absent” or “uncertain” stands where a report says so of a finding that the other one has.</p></div>"
    )


def _case(
    case: Case, number: int, films: list[Film], labeler: Labeler, internals: Internals | str | None, largest: float
) -> str:
    exemplar = case.prediction.exemplar
    texts = [
        _report("Generated", marked(case.prediction.report, case, labeler)),
        _report("Reference", marked(case.reference, case, labeler)),
    ]
    if exemplar:
        copied = exemplar.report.split() == case.prediction.report.split()
        same = " Word for word the generated report." if copied else ""
        about = f'<p class="source">{text(exemplar.id)}, a training study.{same}</p>'
        texts.append(_report("Retrieved", [Sentence(part, []) for part in split(exemplar.report)], about))
    inner = ""
    if isinstance(internals, Internals):
        inner = "".join(_gate(gate, largest) for gate in internals.gates)
        inner += _attention(internals.attention, case, films) if internals.attention else ""
    elif internals:
        inner = f'<p class="note">The model did not re-read this case: {text(internals)}</p>'
    lines = [f"Indication: {text(case.study.indication)}"] if case.study and case.study.indication else []
    if case.scores:
        each = ", ".join(f"{name} {case.scores[key]:.3f}" for name, key in COLUMNS.items() if key in case.scores)
        lines.append(f"This report alone: {each}")
    return (
        f'<article id="case-{number}"><header><h4><span class="number">{number}</span> {text(case.id)}</h4>'
        f'<p class="tags">{_outcome(case)}</p>'
        + "".join(f'<p class="source">{line}</p>' for line in lines)
        + f'</header><div class="films">{"".join(film.html for film in films)}</div>'
        f'<div class="read"><div class="texts">{"".join(texts)}</div>{inner}</div>{_probabilities(case)}</article>'
    )


def _outcome(case: Case) -> str:
    tags = [_tag(Tag(status, name)) for status in ORDER for name in case.having(status)]
    if case.called_normal:
        tags.append('<span class="tag plain">reads as normal, the reference does not</span>')
    return "".join(tags) or '<span class="tag plain">no finding in either report</span>'


def _tag(tag: Tag) -> str:
    says = f" <i>{tag.says}</i>" if tag.says else ""
    return f'<span class="tag {tag.status}"><b>{tag.status}</b> {text(tag.finding)}{says}</span> '


def _report(title: str, parts: list[Sentence], about: str = "") -> str:
    lines = "".join(map(_sentence, parts)) if parts else '<p class="empty">empty</p>'
    return f'<section class="text"><h5>{title}</h5>{about}<div class="body">{lines}</div></section>'


def _sentence(sentence: Sentence) -> str:
    if not sentence.tags:
        return f"<p>{text(sentence.text)}</p>"
    status = next(status for status in ORDER if status in {tag.status for tag in sentence.tags})
    tags = "".join(map(_tag, sentence.tags))
    return f'<p class="{status}"><mark class="{status}">{text(sentence.text)}</mark> {tags}</p>'


def _probabilities(case: Case) -> str:
    probabilities = case.prediction.probabilities
    if not probabilities:
        return ""
    rows = []
    for name, p in probabilities.items():
        status = case.findings.get(name)
        there = ' class="there"' if status in ("agreed", "missed") else ""
        rows.append(f'<tr{there}><th scope="row">{text(name)}</th><td>{p:.2f}</td><td>{bar(p)}</td></tr>')
    return (
        '<table class="probabilities"><caption><h5>Probabilities</h5> Bold: the reference has it.</caption>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _gate(gate: Gate, largest: float) -> str:
    words = []
    for place, token in enumerate(gate.tokens):
        start = " start" if token.startswith(" ") or not place else ""
        words.append(
            f'<span class="token{start}" title="{float(gate.values[:, place].mean()):.3f}">'
            f"{column(gate.values[:, place], largest)}<bdi>{shown(token.strip()) or '&nbsp;'}</bdi></span>"
        )
    means = [f"layer {layer}: {float(row.mean()):.3f}" for layer, row in zip(gate.layers, gate.values, strict=True)]
    listed = "; ".join(means[:4]) + (" …" if len(means) > 4 else "")
    return (
        f'<figure class="gate"><figcaption><h5>Gate</h5> {text(gate.piece)}: how much of the experts\' finding enters '
        f"where each token is written. Layers {gate.layers[0]} (top) to {gate.layers[-1]}; empty 0, "
        f"full {largest:.2f}, the largest of this page. Mean of {listed}.</figcaption>"
        f'<div class="tokens">{"".join(words)}</div></figure>'
    )


def _attention(attention: Attention, case: Case, films: list[Film]) -> str:
    shares = attention.shares
    seen = films[: shares.shape[1]]  # the model could read them
    even = 1 / shares[0].size
    names = [name for status in ORDER for name in case.having(status)]
    probable = case.prediction.probabilities or {}
    names += sorted((n for n in OBSERVATIONS if n not in names), key=lambda name: -probable.get(name, 0))
    names = names[: max(3, min(MOST_MAPS, len(case.findings)))]
    maps = []
    for name in names:
        row = shares[OBSERVATIONS.index(name)]
        peak = f"peak {row.max() / even:.1f}×"
        pictures = "".join(
            film.under(row[i], even, f"Attention of {name} over film {i + 1}, {peak} an even share")
            for i, film in enumerate(seen)
        )
        status = case.findings.get(name)
        mark = f' <span class="tag {status}"><b>{status}</b></span>' if status else ""
        maps.append(
            f'<div class="map"><div class="films">{pictures}</div><p>{plain(name)}{mark} <i>{peak}</i></p></div>'
        )
    return (
        f'<figure class="attention"><figcaption><h5>Attention</h5> {text(attention.piece)}: where each finding\'s '
        f"token looks, mean over heads. Clear: an even share or less; full amber: {FULL:.0f} times one or more."
        f'</figcaption><div class="maps">{"".join(maps)}</div></figure>'
    )
