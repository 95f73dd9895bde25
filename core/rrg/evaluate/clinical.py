"""Clinical efficacy: do generated and reference reports state the same observations? By published presets.

Absent and not mentioned count as 0, and so does a division by zero; what an uncertain label counts as, and over what
the mean goes, is each preset's own. So an F1 is never shown without both.

Presets, as their public code computes them: `r2gen` (Chen et al., EMNLP 2020), `lead` (Yang et al., arXiv 2602.04617),
`wcl` (Yan et al., EMNLP Findings 2021), `organ` (Hou et al., ACL 2023), `cvt2distilgpt2` (Nicolson et al., 2023),
`promptmrg` (Jin et al., AAAI 2024), `rgrg` (Tanida et al., CVPR 2023), `llm-rg4` (Wang et al., AAAI 2025), `radeval`
(Xu et al., EMNLP demos 2025).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rrg import __version__
from rrg.observations import FIVE, OBSERVATIONS

UNCERTAIN_POLICY, AVERAGE = "uncertain->0", "macro-14"
_COLUMNS = {14: np.arange(14), 5: np.array([OBSERVATIONS.index(name) for name in FIVE])}


@dataclass(frozen=True)
class Agreement:
    """Precision, recall and F1; `support` is the number of references with the observation."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Clinical:
    """Averages over the 14 observations, and each by name; uncertain counts as 0."""

    macro: Agreement
    micro: Agreement
    observations: dict[str, Agreement]


@dataclass(frozen=True)
class Figure:
    """How precision, recall and F1 are made of labels.

    average: `macro`, the mean over observations; `weighted`, that mean weighted by support; `micro`, of the sums over
    observations and reports; `example`, the mean over reports, each over its observations.
    uncertain: what an uncertain label counts as.
    """

    average: Literal["macro", "micro", "example", "weighted"]
    observations: Literal[14, 5]
    uncertain: Literal[0, 1]

    def __str__(self) -> str:
        return f"{self.average}-{self.observations}|uncertain->{self.uncertain}"


@dataclass(frozen=True)
class Preset:
    """A published way to score labels. `labeler` is the one that its paper states, None where it states none."""

    labeler: str | None
    figures: tuple[Figure, ...]

    def signature(self, labeler: str, references: str) -> str:
        """What the labels are by, here and in the paper; a preset's name and figure go before it."""
        return f"reports:{labeler}|references:{references}|paper:{self.labeler or 'not stated'}|rrg{__version__}"


PRESETS = {
    "r2gen": Preset("CheXpert", (Figure("macro", 14, 0), Figure("micro", 14, 0))),
    # The paper states the mean but not what uncertain counts as: both are shown.
    "lead": Preset(None, (Figure("macro", 14, 0), Figure("macro", 14, 1))),
    "wcl": Preset("CheXpert", (Figure("macro", 14, 1),)),
    "organ": Preset("CheXbert", (Figure("macro", 14, 1),)),
    "cvt2distilgpt2": Preset("CheXbert", (Figure("macro", 14, 0), Figure("micro", 14, 0), Figure("example", 14, 0))),
    "promptmrg": Preset("CheXbert", (Figure("example", 14, 0),)),
    "rgrg": Preset("CheXbert", (Figure("micro", 5, 1), Figure("micro", 14, 1), Figure("example", 14, 0))),
    "llm-rg4": Preset("CheXbert", (Figure("micro", 14, 1), Figure("macro", 14, 1))),
    "radeval": Preset(
        "CheXbert",
        (
            Figure("micro", 14, 1),
            Figure("macro", 14, 1),
            Figure("weighted", 14, 1),
            Figure("micro", 5, 1),
            Figure("macro", 5, 1),
            Figure("weighted", 5, 1),
        ),
    ),
}


def positives(labels: np.ndarray, uncertain: int = 0) -> np.ndarray:
    """(studies, 14) bool of (studies, 14) labels in {1, 0, -1, nan}: present, or uncertain where that counts as 1."""
    return np.asarray((labels == 1) | (labels == -1) if uncertain else labels == 1)


def clinical(predicted: np.ndarray, reference: np.ndarray) -> Clinical:
    """Agreement of two (studies, 14) bool arrays."""
    each = {name: _micro(predicted[:, [i]], reference[:, [i]]) for i, name in enumerate(OBSERVATIONS)}
    return Clinical(_macro(predicted, reference), _micro(predicted, reference), each)


def preset_scores(predicted: np.ndarray, reference: np.ndarray) -> dict[str, dict[str, Agreement]]:
    """Every preset's figures, by preset and `str(figure)`, of two (studies, 14) arrays of labels in {1, 0, -1, nan}."""
    sides = {u: (positives(predicted, u), positives(reference, u)) for u in (0, 1)}
    figures = {figure for preset in PRESETS.values() for figure in preset.figures}
    found = {figure: figure_score(figure, *sides[figure.uncertain]) for figure in figures}
    return {name: {str(f): found[f] for f in preset.figures} for name, preset in PRESETS.items()}


def figure_score(figure: Figure, predicted: np.ndarray, reference: np.ndarray) -> Agreement:
    """One figure of two (studies, 14) bool arrays."""
    columns = _COLUMNS[figure.observations]
    return _AVERAGES[figure.average](predicted[:, columns], reference[:, columns])


def _micro(predicted: np.ndarray, reference: np.ndarray) -> Agreement:
    counts = (each.sum() for each in _counts(predicted, reference, 0))
    return _agreement(reference, *_rates(*counts))


def _macro(predicted: np.ndarray, reference: np.ndarray) -> Agreement:
    return _agreement(reference, *(each.mean() for each in _rates(*_counts(predicted, reference, 0))))


def _weighted(predicted: np.ndarray, reference: np.ndarray) -> Agreement:
    share = reference.sum(0) / max(1, reference.sum())
    return _agreement(reference, *(each @ share for each in _rates(*_counts(predicted, reference, 0))))


def _example(predicted: np.ndarray, reference: np.ndarray) -> Agreement:
    return _agreement(reference, *(each.mean() for each in _rates(*_counts(predicted, reference, 1))))


def _agreement(reference: np.ndarray, precision: np.ndarray, recall: np.ndarray, f1: np.ndarray) -> Agreement:
    return Agreement(float(precision), float(recall), float(f1), int(reference.sum()))


_AVERAGES = {"macro": _macro, "micro": _micro, "example": _example, "weighted": _weighted}


def _counts(predicted: np.ndarray, reference: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (predicted & reference).sum(axis), predicted.sum(axis), reference.sum(axis)


def _rates(hits: np.ndarray, made: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1; 0 where a denominator is 0 (then there is no hit either)."""
    return hits / np.maximum(made, 1), hits / np.maximum(there, 1), 2 * hits / np.maximum(made + there, 1)
