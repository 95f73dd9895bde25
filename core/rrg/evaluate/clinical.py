"""Clinical efficacy, preset `r2gen`: do generated and reference reports state the same observations?

Uncertain, absent and not mentioned all count as 0; a division by zero gives 0; macro is the mean over the 14.
"""

from dataclasses import dataclass

import numpy as np

from rrg.observations import OBSERVATIONS

UNCERTAIN_POLICY, AVERAGE = "uncertain->0", "macro-14"


@dataclass(frozen=True)
class Agreement:
    """Precision, recall and F1; `support` is the number of references with the observation."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Clinical:
    """Averages over the 14 observations, and each by name."""

    macro: Agreement
    micro: Agreement
    observations: dict[str, Agreement]


def positives(labels: np.ndarray) -> np.ndarray:
    """(studies, 14) bool: True only where an observation is present; uncertain, absent and nan are False."""
    return np.asarray(labels == 1)


def clinical(predicted: np.ndarray, reference: np.ndarray) -> Clinical:
    """Agreement of two (studies, 14) bool arrays."""
    hits, made, there = (predicted & reference).sum(0), predicted.sum(0), reference.sum(0)
    each = {
        name: _agreement(int(h), int(m), int(t)) for name, h, m, t in zip(OBSERVATIONS, hits, made, there, strict=True)
    }
    mean = {key: float(np.mean([getattr(a, key) for a in each.values()])) for key in ("precision", "recall", "f1")}
    micro = _agreement(int(hits.sum()), int(made.sum()), int(there.sum()))
    return Clinical(Agreement(**mean, support=micro.support), micro, each)


def _agreement(hits: int, predicted: int, support: int) -> Agreement:
    precision, recall = hits / predicted if predicted else 0.0, hits / support if support else 0.0
    return Agreement(precision, recall, 2 * hits / (predicted + support) if hits else 0.0, support)
