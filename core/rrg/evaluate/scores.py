"""What an evaluation found, as data and as a table that says how each number was made."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rrg.data.files import write_output
from rrg.data.study import describe
from rrg.errors import DataError
from rrg.evaluate.clinical import PRESETS, Agreement, Clinical
from rrg.evaluate.radgraph import Overlap
from rrg.evaluate.repetition import Repetition
from rrg.evaluate.reports import ScoredReport
from rrg.evaluate.statistics import RESAMPLES

COLUMNS = {
    "BLEU-1": "bleu_1",
    "BLEU-2": "bleu_2",
    "BLEU-3": "bleu_3",
    "BLEU-4": "bleu_4",
    "METEOR": "meteor",
    "ROUGE-L": "rouge_l",
    "CIDEr": "cider",
}
MODEL = "model"
"""The model's row, beside those of the null baselines."""
BEGINS = '{\n  "protocol":'
"""How every file of scores begins."""
SHOWN_TEXT = 100
SHOWN_PROBLEMS = 300
BOUNDS = ("  95 % from", "  to")


@dataclass(frozen=True)
class Row:
    """One source of reports: language metrics and clinical efficacy.

    `meteor` is None where it was not computed, `cider` where all references are alike, which leaves it without weights.

    `presets` holds every clinical preset's figures, by the preset's name and `average-observations|uncertain->value`.
    `intervals` are 95 % bootstrap intervals of the language metrics and of f1_macro and f1_micro (uncertain as 0), with
    whole patients drawn where data are given, else reports; empty where there is one.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    meteor: float | None
    rouge_l: float
    cider: float | None
    clinical: Clinical
    presets: dict[str, dict[str, Agreement]]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Subset:
    """The same rows on some of the studies."""

    n: int
    rows: dict[str, Row]


@dataclass(frozen=True)
class RadGraph:
    """RadGraph's precision, recall and F1 by level, means over reports; on all studies and on the abnormal ones."""

    all: dict[str, Overlap]
    abnormal: dict[str, Overlap]


@dataclass(frozen=True)
class Repeated:
    """The report that was generated most often, as scored, and how often; the longest of equals."""

    report: str
    count: int

    @classmethod
    def of(cls, reports: Sequence[str]) -> "Repeated":
        """Of one report or more."""
        return cls(*max(Counter(reports).items(), key=lambda item: (item[1], len(item[0]))))


@dataclass(frozen=True)
class Scores:
    """An evaluation: `rows` holds "model" and its null baselines by name, all on the same `n` studies.

    `presets` says for each clinical preset what the labels are by, here and in its paper. `distinct` counts different
    generated reports; `repetition` is what they say more than once within themselves, `reference_repetition` what their
    references do; `verbatim` is the share found word for word among the training reports (both as the protocol
    writes them). `constant` is the best constant's text, as scored. What needs a training split is None without one.
    `reports` has each report's own scores and labels.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    protocol: str
    signature: str
    data: str
    split: str | None
    n: int
    n_split: int | None
    labeler: str
    reference_labels: str
    uncertain: str
    average: str
    presets: dict[str, str]
    rows: dict[str, Row]
    abnormal: Subset
    radgraph: RadGraph | None
    distinct: int
    repeated: Repeated
    repetition: Repetition
    reference_repetition: Repetition
    verbatim: float | None
    constant: str | None
    constant_val_bleu_4: float | None
    seed: int
    notes: list[str]
    reports: list[ScoredReport]

    def to_json(self) -> str:
        """The whole of it, as JSON; NaN never occurs."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)

    @property
    def bootstrap(self) -> str:
        """How the intervals are made."""
        drawn = "whole patients" if self.split else "reports"
        return f"95 %: percentile bootstrap, {RESAMPLES:,} resamples of {drawn}, seed {self.seed}"

    def table(self) -> str:
        """Plain text: caption, all studies, abnormal studies, presets, the model per observation, health, notes."""
        where = f"split {self.split}, n = {self.n} of {self.n_split}" if self.split else f"n = {self.n}"
        lines = [
            f"{self.data}, {where}",
            f"protocol {self.signature}",
            f"P, R, F1: labels of reports by {self.labeler}, of references {self.reference_labels}, "
            f"{self.uncertain}, {self.average}",
            self.bootstrap,
            "",
            *_rows(self.rows),
            "",
            f"Abnormal only (reference labels lack No Finding), n = {self.abnormal.n}",
            *(_rows(self.abnormal.rows) if self.abnormal.rows else ["none"]),
            "",
            *_presets(self.rows),
            "",
            *_radgraph(self.radgraph),
            *self._health(),
            "",
            *_observations(self.rows[MODEL].clinical, self.uncertain),
        ]
        lines += ["", *(f"Note: {note}." for note in self.notes)] if self.notes else []
        return "\n".join(lines)

    def _health(self) -> list[str]:
        found = "" if self.verbatim is None else f" Word for word in train: {self.verbatim:.1%}."
        text = self.repeated.report
        text = text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}…"
        return [
            f"Distinct reports: {self.distinct} of {self.n}.{found}",
            f"Said more than once within a report: {self.repetition.sentences:.1%} of sentences, in "
            f"{self.repetition.reports} of {self.n} reports (references: {self.reference_repetition.sentences:.1%}, "
            f"{self.reference_repetition.reports}).",
            f"Most frequent report: {self.repeated.count} times: {text}",
        ]


def _rows(rows: dict[str, Row]) -> list[str]:
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{name:>9}" for name in [*COLUMNS, "P macro", "R macro", "F1 macro", "F1 micro"])]
    for name, row in rows.items():
        macro = row.clinical.macro
        values = [*(getattr(row, key) for key in COLUMNS.values()), macro.precision, macro.recall]
        lines.append(_cells(name, width, [*values, macro.f1, row.clinical.micro.f1]))
        if name == MODEL and row.intervals:
            for side, title in enumerate(BOUNDS):
                bounds = [row.intervals.get(key) for key in (*COLUMNS.values(), "", "", "f1_macro", "f1_micro")]
                lines.append(_cells(title, width, [found[side] if found else None for found in bounds], blank=""))
    return lines


def _cells(title: str, width: int, values: Sequence[float | None], blank: str = "—") -> str:
    return f"{title:<{width}}" + "".join(f"{blank if v is None else format(v, '.3f'):>9}" for v in values).rstrip()


def _presets(rows: dict[str, Row]) -> list[str]:
    """The model's figures by preset, and the baselines' F1 beside them."""
    model, others = rows[MODEL], [name for name in rows if name != MODEL]
    figures = [(preset, figure) for preset, found in model.presets.items() for figure in found]
    first, second = (max(len(pair[i]) for pair in figures) for i in (0, 1))
    columns = {name: f"  F1 of {name}" for name in others}
    head = "".join(f"{name:>9}" for name in ("P", "R", "F1")) + "".join(columns.values())
    lines = [f"{'clinical preset':<{first + second + 4}}{head}"]
    for preset, figure in figures:
        a = model.presets[preset][figure]
        values = "".join(f"{v:>9.3f}" for v in (a.precision, a.recall, a.f1))
        for name, column in columns.items():
            values += f"{rows[name].presets[preset][figure].f1:>{len(column)}.3f}"
        lines.append(f"{preset:<{first + 2}}{figure:<{second + 2}}{values}  {PRESETS[preset].labeler or 'not stated'}")
    lines[0] += "  labeler of the paper"
    return lines


def _radgraph(found: RadGraph | None) -> list[str]:
    if found is None:
        return []
    lines = [f"{'RadGraph, mean over reports':<28}" + "".join(f"{name:>9}" for name in ("P", "R", "F1"))]
    for subset, levels in (("all", found.all), ("abnormal", found.abnormal)):
        for level, o in levels.items():
            lines.append(f"{f'{level}, {subset}':<28}{o.precision:>9.3f}{o.recall:>9.3f}{o.f1:>9.3f}")
    return [*lines, ""]


def _observations(clinical: Clinical, uncertain: str) -> list[str]:
    title = f"model, by observation, {uncertain}"
    width = max(map(len, [title, *clinical.observations]))
    lines = [f"{title:<{width}}" + "".join(f"{name:>9}" for name in ("support", "P", "R", "F1"))]
    for name, a in clinical.observations.items():
        lines.append(f"{name:<{width}}{a.support:>9}{a.precision:>9.3f}{a.recall:>9.3f}{a.f1:>9.3f}")
    return lines


def write_scores(scores: Scores, path: Path) -> None:
    """Write the JSON. Raises RRGError as `write_output` does."""
    write_output(path, scores.to_json() + "\n")


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote. Raises DataError where it is missing, not JSON, or of any other form."""
    again = f"`rrg evaluate {path.parent}` writes it"
    try:
        scores = _adapter().validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {again}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {again}") from None
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise DataError(f"{path}: cannot be read as JSON: {error.errors()[0]['msg']}; {again}") from None
        raise DataError(
            f"{path}: not what this version of rrg evaluate writes: {describe(error)[:SHOWN_PROBLEMS]}; {again} anew"
        ) from None
    if MODEL not in scores.rows:
        raise DataError(f'{path}: "rows" has no scores of "model"; {again} anew')
    return scores


@cache
def _adapter() -> TypeAdapter[Scores]:
    return TypeAdapter(Scores)
