"""Each report's own scores and labels, for the results file: what a table's means are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rrg.evaluate.language import cider_weighs, language_statistics
from rrg.evaluate.predictions import Prediction
from rrg.evaluate.radgraph import Overlap
from rrg.evaluate.repetition import repeats
from rrg.observations import OBSERVATIONS


@dataclass(frozen=True)
class ScoredReport:
    """One report of the model: the strings that were scored, their scores, and the labels that either side mentions.

    BLEU-4 here is the sentence's; the table's is the corpus's, not its mean. ROUGE-L and CIDEr are what the table's
    are means of; CIDEr is None where it has no weights. repeats: what the report says more than once within itself.
    Labels: 1 present, 0 absent, -1 uncertain; what is not mentioned is left out.
    """

    id: str
    patient: str | None
    hypothesis: str
    reference: str
    bleu_4: float
    rouge_l: float
    cider: float | None
    repeats: list[str]
    labels: dict[str, int]
    reference_labels: dict[str, int]
    radgraph_f1: dict[str, float] | None


def scored_reports(
    predictions: Sequence[Prediction],
    patients: Sequence[str | None],
    hypotheses: Sequence[str],
    references: Sequence[str],
    labels: np.ndarray,
    reference_labels: np.ndarray,
    overlaps: Sequence[Mapping[str, Overlap]] | None,
) -> list[ScoredReport]:
    """One per prediction, in order. labels, reference_labels: (studies, 14) in {1, 0, -1, nan}."""
    statistics = language_statistics(hypotheses, references)
    scores = statistics.score(statistics.values)  # of each report's own row
    bleu, rouge, cider = scores["bleu_4"], scores["rouge_l"], scores["cider"]
    weighs = cider_weighs(references)
    f1 = [{level: o.f1 for level, o in each.items()} for each in overlaps] if overlaps else [None] * len(predictions)
    return [
        ScoredReport(
            predictions[i].id,
            patients[i],
            hypotheses[i],
            references[i],
            float(bleu[i]),
            float(rouge[i]),
            float(cider[i]) if weighs else None,
            repeats(predictions[i].report),
            _mentioned(labels[i]),
            _mentioned(reference_labels[i]),
            f1[i],
        )
        for i in range(len(predictions))
    ]


def _mentioned(row: np.ndarray) -> dict[str, int]:
    return {name: int(value) for name, value in zip(OBSERVATIONS, row, strict=True) if not np.isnan(value)}
