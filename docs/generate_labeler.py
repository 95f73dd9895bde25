"""Write the tables of docs/labeler.md anew: python docs/generate_labeler.py IU_XRAY/chexpert_labels_dev.csv

The file holds reports and the labels that the CheXpert labeler gave them; columns are found by name.
"""

import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rrg.labels import get_labeler
from rrg.observations import OBSERVATIONS

PAGE = Path(__file__).parent / "labeler.md"
MARKS = ("<!-- agreement -->", "<!-- end of agreement -->")


class Labels(NamedTuple):
    """Studies' numbers (n,), the labels that mode `chexpert` finds and those wanted, (n, 14) in {1, 0, -1, nan}."""

    numbers: np.ndarray
    found: np.ndarray
    wanted: np.ndarray


def read(path: Path) -> Labels:
    """Label the file's reports."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = np.array([[float(row[name] or "nan") for name in OBSERVATIONS] for row in rows])
    numbers = np.array([int(row["uid"].removeprefix("CXR")) for row in rows])
    return Labels(numbers, get_labeler("chexpert")([row["report"] for row in rows]), wanted)


def agrees(labels: Labels) -> np.ndarray:
    """(n, 14) bool: the same of the four classes present, absent, uncertain, not mentioned."""
    return np.asarray((labels.found == labels.wanted) | (np.isnan(labels.found) & np.isnan(labels.wanted)))


def f1(labels: Labels, value: int) -> np.ndarray:
    """(14,) F1 of one class; nan where neither side has it."""
    found, wanted = labels.found == value, labels.wanted == value
    count = found.sum(0) + wanted.sum(0)
    return np.asarray(np.where(count > 0, 2 * (found & wanted).sum(0) / np.maximum(count, 1), np.nan))


def table(labels: Labels) -> str:
    """One row an observation."""
    heads = ["observation", "present: n", "F1", "absent: n", "F1", "uncertain: n", "F1", "agreement"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---|" * (len(heads) - 1)]
    scores, agreement = {value: f1(labels, value) for value in (1, 0, -1)}, agrees(labels).mean(0)
    for i, name in enumerate(OBSERVATIONS):
        cells = [name]
        for value, score in scores.items():
            cells += [str((labels.wanted[:, i] == value).sum()), _number(score[i])]
        lines.append("| " + " | ".join([*cells, _number(agreement[i], 4)]) + " |")
    return "\n".join(lines)


def parts(labels: Labels) -> str:
    """One row a part of the studies: the part that the rules were written on, the other, both."""
    first = labels.numbers % 4 == 1
    lines = [
        "| studies | n | agreement | mean F1 of present | mean F1 of absent |",
        "|---|---|---|---|---|",
    ]
    for name, rows in (("4k + 1", first), ("4k + 3", ~first), ("all odd", first | True)):
        part = Labels(labels.numbers[rows], labels.found[rows], labels.wanted[rows])
        means = [_number(np.nanmean(f1(part, value))) for value in (1, 0)]
        lines.append(f"| {name} | {rows.sum():,} | {_number(agrees(part).mean(), 4)} | {' | '.join(means)} |")
    return "\n".join(lines)


def page(labels: Labels) -> str:
    """docs/labeler.md with these tables."""
    text = PAGE.read_text(encoding="utf-8")
    pattern = "(?s)" + ".*?".join(map(re.escape, MARKS))
    assert re.search(pattern, text), f"docs/labeler.md lacks {MARKS[0]}"
    return re.sub(pattern, lambda _: f"{MARKS[0]}\n{parts(labels)}\n\n{table(labels)}\n{MARKS[1]}", text)


def _number(value: float, digits: int = 3) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def main(arguments: Sequence[str]) -> None:
    [path] = arguments
    PAGE.write_text(page(read(Path(path))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
