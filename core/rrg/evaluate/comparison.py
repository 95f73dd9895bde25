"""`compare`: do two systems differ on the studies that both have? Differences, their intervals, tests, a correction."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, UsageError
from rrg.evaluate.clinical import UNCERTAIN_POLICY, positives
from rrg.evaluate.language import language_statistics
from rrg.evaluate.meteor import MeteorUnavailable, meteor_statistics
from rrg.evaluate.predictions import Prediction
from rrg.evaluate.protocol import PROTOCOLS, Protocol, protocol_for
from rrg.evaluate.scores import COLUMNS
from rrg.evaluate.statistics import (
    LEVEL,
    PERMUTATIONS,
    RESAMPLES,
    Difference,
    Statistics,
    check_seed,
    clinical_statistics,
    differences,
    holm,
    join,
)
from rrg.labels import Labeler, get_labeler
from rrg.observations import OBSERVATIONS

SHOWN = 5
MOST = 10_000_000
"""Permutations or resamples: p is then a multiple of 1e-7."""
NAMES = {key: name for name, key in COLUMNS.items()}
NAMES |= {"f1_macro": "F1 macro-14", "f1_micro": "F1 micro", "f1_example": "F1 example"}


@dataclass(frozen=True)
class Tested(Difference):
    """A difference whose p is also corrected for the number of all tests of the comparison (Holm)."""

    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """The first of `systems` against each other one: `tests[other][metric]`, differences as first less other.

    All on the same `n` studies of `patients` patients, whole patients resampled and swapped.
    """

    systems: list[str]
    tests: dict[str, dict[str, Tested]]
    protocol: str
    signature: str
    data: str
    split: str
    n: int
    n_split: int
    patients: int
    labeler: str
    reference_labels: str
    uncertain: str
    permutations: int
    resamples: int
    level: float
    seed: int
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The whole of it, as JSON; NaN never occurs."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)

    def table(self) -> str:
        """Plain text: caption, the systems by letter, a table for each but the first, notes."""
        count = sum(map(len, self.tests.values()))
        lines = [
            f"{self.data}, split {self.split}, n = {self.n} of {self.n_split} studies, of {self.patients} patients",
            f"protocol {self.signature}",
            f"F1: labels of reports by {self.labeler}, of references {self.reference_labels}, {self.uncertain}",
            f"p: approximate randomisation, {self.permutations:,} random swaps, two-sided; "
            f"p Holm: corrected for all {count} tests",
            f"{self.level:.0%} interval of the difference: {self.resamples:,} bootstrap resamples; "
            f"whole patients are swapped and drawn; seed {self.seed}",
            "",
            *(f"{_letter(number)}: {name}" for number, name in enumerate(self.systems)),
        ]
        for number, (_, tests) in enumerate(self.tests.items(), 1):
            lines += ["", *_rows(tests, _letter(number), f"{self.level:.0%} interval")]
        lines += ["", *(f"Note: {note}." for note in self.notes)] if self.notes else []
        return "\n".join(lines)


def compare(
    systems: Mapping[str, Sequence[Prediction]],
    folder: StudyFolder,
    protocol: str = "r2gen",
    *,
    split: str = "test",
    rules: str | None = None,
    labeler: str | None = None,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Test the first system against each of the others, on the studies of the split that all of them have.

    Raises: UsageError for fewer than two systems, an unknown protocol, split, labeler or data set, a negative seed, or
    a number of permutations or resamples below 1 or above MOST; DataError where an id is not of the split or given
    twice, no study or only one patient is shared, or the training split is empty.
    """
    if len(systems) < 2:
        raise UsageError(f"{len(systems)} systems given; a comparison needs two or more")
    if not (1 <= permutations <= MOST and 1 <= resamples <= MOST):
        counts = f"{permutations} permutations and {resamples} resamples"
        raise UsageError(f"{counts}: give at least 1 of each, and at most {MOST:,}")
    check_seed(seed)
    if protocol not in PROTOCOLS:
        raise UsageError(f"no protocol is named {protocol!r}; there are: {', '.join(PROTOCOLS)}")
    label = get_labeler(labeler) if labeler else get_labeler()
    in_split, train = folder.split(split), folder.split("train")
    if not train:
        raise DataError(f"{folder.path}: no training studies, and the vocabulary comes from train")
    by_id = {name: _by_id(name, predictions, in_split, split, folder) for name, predictions in systems.items()}
    studies = [study for study in in_split if all(study.id in given for given in by_id.values())]
    clusters = [study.patient for study in studies]
    if not studies:
        sizes = ", ".join(f"{name} has {len(given)}" for name, given in by_id.items())
        raise DataError(f"no study of split {split} is in all of them ({sizes}); compare runs of the same studies")
    if len(set(clusters)) < 2:
        raise DataError(f"the {len(studies)} shared studies are of one patient: there is nothing to resample")

    form = protocol_for(protocol, folder.card, rules, (s.findings for s in train), "findings")
    exact = folder.card["labels"] == "exact"
    reports = {name: [given[study.id].report for study in studies] for name, given in by_id.items()}
    statistics, notes = _statistics(reports, studies, form, label, exact)
    for name, given in by_id.items():
        if empty := sum(not text for text in reports[name]):
            notes.append(f"{empty} reports of {name} state nothing (empty, or such as 'nan') and count as empty")
        if len(given) > len(studies):
            notes.append(f"{len(given) - len(studies)} studies of {name} are left out, since not all systems have them")
    first, *others = systems
    options = {"permutations": permutations, "resamples": resamples}
    found = {other: differences(statistics[first], statistics[other], clusters, seed, **options) for other in others}
    return Comparison(
        systems=list(systems),
        tests=_corrected(found),
        protocol=protocol,
        signature=form.signature,
        data=str(folder.card["name"]),
        split=split,
        n=len(studies),
        n_split=len(in_split),
        patients=len(set(clusters)),
        labeler=label.name,
        reference_labels="exact" if exact else f"by {label.name} on the reference reports",
        uncertain=UNCERTAIN_POLICY,
        permutations=permutations,
        resamples=resamples,
        level=LEVEL,
        seed=seed,
        notes=notes,
    )


def _by_id(
    name: str, predictions: Sequence[Prediction], in_split: Sequence[Study], split: str, folder: StudyFolder
) -> dict[str, Prediction]:
    known, given = {study.id for study in in_split}, Counter(p.id for p in predictions)
    problems = [f"{i} is not of split {split}" for i in given if i not in known]
    problems += [f"{i} is given more than once" for i, times in given.items() if times > 1]
    if problems:
        raise DataError(
            f"{name}: {len(problems)} of its {len(given)} ids do not fit split {split} of {folder.path}; name the "
            "folder and split they were made from (--data, --split). The first are:",
            problems[:SHOWN],
        )
    return {p.id: p for p in predictions}


def _statistics(
    reports: Mapping[str, Sequence[str]], studies: Sequence[Study], form: Protocol, label: Labeler, exact: bool
) -> tuple[dict[str, Statistics], list[str]]:
    """Each system's statistics of all metrics, report by report, and notes."""
    references = [form.reference(study.findings) for study in studies]
    labels = [[study.labels[name] for name in OBSERVATIONS] for study in studies]
    truth = positives(np.array(labels, np.float32) if exact else label([study.findings for study in studies]))
    made = {name: [form.hypothesis(text) for text in texts] for name, texts in reports.items()}
    parts = {
        name: [
            language_statistics(made[name], references),
            clinical_statistics(positives(label(texts)), truth),
        ]
        for name, texts in reports.items()
    }
    notes = ["CIDEr's document frequencies are those of all these references in every resample"]
    try:
        tables = {name: list(zip(texts, references, strict=True)) for name, texts in made.items()}
        for name, found in meteor_statistics(tables).items():
            parts[name].insert(1, found)
    except MeteorUnavailable as error:
        notes.append(f"METEOR not computed: {error}")
    return {name: join(each) for name, each in parts.items()}, notes


def _corrected(found: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Tested]]:
    """In the order of NAMES, with Holm's correction over every test there is."""
    tests = [(other, metric, each[metric]) for other, each in found.items() for metric in NAMES if metric in each]
    table: dict[str, dict[str, Tested]] = {other: {} for other in found}
    for (other, metric, difference), p in zip(tests, holm([d.p for *_, d in tests]), strict=True):
        table[other][metric] = Tested(**asdict(difference), p_holm=p)
    return table


def _letter(number: int) -> str:
    """A … Z, then A1 …"""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")


def _rows(tests: Mapping[str, Tested], letter: str, interval: str) -> list[str]:
    width = max(len(NAMES[metric]) for metric in tests)
    lines = [f"{'':<{width}}{'A':>9}{letter:>9}{f'A - {letter}':>9}{interval:>20}{'p':>9}{'p Holm':>9}"]
    for metric, t in tests.items():
        bounds = f"{t.low:+.3f} to {t.high:+.3f}"
        lines.append(
            f"{NAMES[metric]:<{width}}{t.first:>9.3f}{t.second:>9.3f}{t.difference:>+9.3f}{bounds:>20}"
            f"{t.p:>9.4f}{t.p_holm:>9.4f}"
        )
    return lines
