"""Cases: each study's generated report beside its reference, and what of it is agreed, missed or hallucinated."""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rrg.data.study import Study, StudyFolder
from rrg.evaluate import Prediction
from rrg.evaluate.reports import ScoredReport
from rrg.labels import Labeler
from rrg.observations import OBSERVATIONS

Status = Literal["agreed", "missed", "hallucinated"]
Kind = Literal["missed", "hallucinated", "other"]
KINDS: tuple[Kind, ...] = ("missed", "hallucinated", "other")
TURNS: tuple[Kind, ...] = ("missed", "missed", "missed", "hallucinated", "hallucinated", "other")
OWN = ("bleu_4", "rouge_l", "cider")  # scores of a single report
NO_FINDING = "No Finding"
LONGEST = 20_000
SAYS = {0: "absent", -1: "uncertain"}

# A full stop of a list number or an abbreviation ends nothing.
_SENTENCE_END = re.compile(r"(?<!\b\d\.)(?<!\bdr\.)(?<!\bvs\.)(?<=[.!?])\s+|\n\s*\n", re.IGNORECASE)


@dataclass(frozen=True)
class Tag:
    """A finding that a sentence mentions. says: "" where it says present, else "absent" or "uncertain"."""

    status: Status
    finding: str
    says: str = ""


@dataclass(frozen=True)
class Sentence:
    text: str
    tags: list[Tag]


@dataclass(frozen=True)
class Case:
    """A study's reports. study: None where the data folder lacks it. findings: status by observation, No Finding apart.

    called_normal: the report reads as normal, the reference doesn't. overlap: F1 of the words that the texts share.
    scores: of this report alone, by metric.
    """

    prediction: Prediction
    study: Study | None
    findings: dict[str, Status]
    called_normal: bool
    overlap: float
    scores: dict[str, float]

    @property
    def id(self) -> str:
        return self.prediction.id

    @property
    def reference(self) -> str:
        return self.study.findings if self.study else self.prediction.reference

    def having(self, status: Status) -> list[str]:
        return [name for name, found in self.findings.items() if found == status]

    @property
    def kind(self) -> Kind:
        found = self.findings.values()
        return "missed" if "missed" in found else "hallucinated" if "hallucinated" in found else "other"

    @property
    def order(self) -> tuple[int, int, int, float]:
        """Smaller is worse: by kind, then the number of findings missed and hallucinated, then the words shared."""
        missed, made_up = len(self.having("missed")), len(self.having("hallucinated"))
        return KINDS.index(self.kind), -missed, -made_up, self.overlap


def cases_of(
    predictions: Sequence[Prediction],
    folder: StudyFolder,
    labeler: Labeler,
    scored: Mapping[str, ScoredReport] | None = None,
) -> list[Case]:
    """Every prediction as a case, the worst first.

    scored: what an evaluation says of each report, by id. Its labels count where it has the report. Else what counts
    is what an evaluation takes: the card's exact labels, or the labeler's on the texts. Uncertain counts as not there.
    """
    studies = {study.id: study for study in folder.studies}
    cases = []
    for prediction in predictions:
        study, known = studies.get(prediction.id), (scored or {}).get(prediction.id)
        text = study.findings if study else prediction.reference
        made: Mapping[str, float | None]
        there: Mapping[str, float | None]
        if known:
            made, there = known.labels, known.reference_labels
        else:
            made, there = _labels(prediction.report, labeler), _labels(text, labeler)
            there = study.labels if study and folder.card.get("labels") == "exact" else there
        says, has = ({name: labels.get(name) == 1 for name in OBSERVATIONS} for labels in (made, there))
        called_normal = says.pop(NO_FINDING) and not has.pop(NO_FINDING)
        findings = {name: status for name in says if (status := _status(says[name], has[name]))}
        scores = {key: value for key in OWN if (value := getattr(known, key, None)) is not None}
        cases.append(Case(prediction, study, findings, called_normal, _overlap(prediction.report, text), scores))
    return sorted(cases, key=lambda case: case.order)


def _labels(text: str, labeler: Labeler) -> dict[str, float]:
    return dict(zip(OBSERVATIONS, labeler([text])[0].tolist(), strict=True))


def _status(generated: bool, reference: bool) -> Status | None:
    if generated and reference:
        return "agreed"
    return "hallucinated" if generated else "missed" if reference else None


def _overlap(one: str, other: str) -> float:
    a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (one, other))
    return 2 * (a & b).total() / max(a.total() + b.total(), 1)


def chosen(cases: Sequence[Case], count: int, seed: int | None = None) -> list[Case]:
    """At most `count` of the cases, worst first: with a seed drawn at random, else the worst of each kind in turns."""
    if len(cases) <= count:
        return list(cases)
    if seed is not None:
        return sorted(random.Random(seed).sample(list(cases), count), key=lambda case: case.order)
    waiting = {kind: iter([case for case in cases if case.kind == kind]) for kind in KINDS}
    taken: list[Case] = []
    while len(taken) < count:
        taken += [case for kind in TURNS if (case := next(waiting[kind], None))]
    return sorted(taken[:count], key=lambda case: case.order)


def split(report: str) -> list[str]:
    """The sentences of a report as they stand; of a very long one the first 20,000 characters, and how many follow."""
    parts = [part for part in _SENTENCE_END.split(report[:LONGEST]) if part.strip()]
    return parts if len(report) <= LONGEST else [*parts, f"[and {len(report) - LONGEST:,} more characters]"]


def marked(report: str, case: Case, labeler: Labeler) -> list[Sentence]:
    """A report of the case sentence by sentence, with the findings that each says are there, or wrongly are not."""
    parts = split(report)
    return [Sentence(part, _tags(row, case)) for part, row in zip(parts, labeler(parts), strict=True)]


def _tags(row: np.ndarray, case: Case) -> list[Tag]:
    tags = []
    for name, value in zip(OBSERVATIONS, row, strict=True):
        status = case.findings.get(name)
        if status is None or np.isnan(value):
            continue
        if value == 1:
            tags.append(Tag(status, name))
        elif status != "agreed":
            tags.append(Tag(status, name, SAYS[int(value)]))
    return tags
