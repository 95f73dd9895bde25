"""What an evaluation found, as data and as a table that says how each number was made."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rrg.errors import RRGError
from rrg.evaluate.clinical import Clinical

COLUMNS = {
    "BLEU-1": "bleu_1",
    "BLEU-2": "bleu_2",
    "BLEU-3": "bleu_3",
    "BLEU-4": "bleu_4",
    "METEOR": "meteor",
    "ROUGE-L": "rouge_l",
    "CIDEr": "cider",
}


@dataclass(frozen=True)
class Row:
    """One source of reports: language metrics (`meteor` is None where it was not computed) and clinical efficacy."""

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    meteor: float | None
    rouge_l: float
    cider: float
    clinical: Clinical


@dataclass(frozen=True)
class Subset:
    """The same rows on some of the studies."""

    n: int
    rows: dict[str, Row]


@dataclass(frozen=True)
class Scores:
    """An evaluation: `rows` holds "model" and its null baselines by name, all on the same `n` studies.

    `distinct` counts different generated reports; `verbatim` is the share found word for word among the training
    reports (both as the protocol writes them). `constant` is the best constant's text, as scored.
    """

    protocol: str
    signature: str
    data: str
    split: str
    n: int
    n_split: int
    labeler: str
    reference_labels: str
    uncertain: str
    average: str
    rows: dict[str, Row]
    abnormal: Subset
    distinct: int
    verbatim: float
    constant: str
    constant_val_bleu_4: float | None
    seed: int
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The whole of it, as JSON; NaN never occurs."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)

    def table(self) -> str:
        """Plain text: caption, all studies, abnormal studies, the model per observation, notes."""
        lines = [
            f"{self.data}, split {self.split}, n = {self.n} of {self.n_split}",
            f"protocol {self.signature}",
            f"P, R, F1: labels of reports by {self.labeler}, of references {self.reference_labels}, "
            f"{self.uncertain}, {self.average}",
            "",
            *_rows(self.rows),
            "",
            f"Abnormal only (reference labels lack No Finding), n = {self.abnormal.n}",
            *(_rows(self.abnormal.rows) if self.abnormal.rows else ["none"]),
            "",
            f"Distinct reports: {self.distinct} of {self.n}. Word for word in train: {self.verbatim:.1%}.",
            "",
            *_observations(self.rows["model"].clinical),
        ]
        lines += ["", *(f"Note: {note}." for note in self.notes)] if self.notes else []
        return "\n".join(lines)


def _rows(rows: dict[str, Row]) -> list[str]:
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{name:>9}" for name in [*COLUMNS, "P", "R", "F1", "F1 micro"])]
    for name, row in rows.items():
        values = [getattr(row, key) for key in COLUMNS.values()]
        macro = row.clinical.macro
        values += [macro.precision, macro.recall, macro.f1, row.clinical.micro.f1]
        lines.append(f"{name:<{width}}" + "".join(f"{'-' if v is None else format(v, '.3f'):>9}" for v in values))
    return lines


def _observations(clinical: Clinical) -> list[str]:
    width = max(map(len, clinical.observations))
    lines = [f"{'model, by observation':<{width}}" + "".join(f"{name:>9}" for name in ("support", "P", "R", "F1"))]
    for name, a in clinical.observations.items():
        lines.append(f"{name:<{width}}{a.support:>9}{a.precision:>9.3f}{a.recall:>9.3f}{a.f1:>9.3f}")
    return lines


def write_scores(scores: Scores, path: Path) -> None:
    """Write the JSON under a temporary name, then rename it. Raises RRGError where the folder cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(scores.to_json() + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RRGError(f"{path}: could not be written: {error.strerror}; name another file with -o") from error
