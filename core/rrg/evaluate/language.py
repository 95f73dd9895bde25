"""BLEU, ROUGE-L and CIDEr by pycocoevalcap's scorers, on the strings as they are: no PTB tokenizer."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge


def language_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """bleu_1 … bleu_4, rouge_l and cider (×10) of one hypothesis and one reference per study.

    CIDEr's document frequencies are those of `references`, so it depends on which studies are scored together.
    """
    given = {i: [text] for i, text in enumerate(references)}
    made = {i: [text] for i, text in enumerate(hypotheses)}
    bleu, _ = Bleu(4).compute_score(given, made, verbose=0)
    scores = {f"bleu_{n}": float(value) for n, value in enumerate(bleu, 1)}
    scores["rouge_l"] = float(np.mean([_rouge_l(*pair) for pair in zip(hypotheses, references, strict=True)]))
    scores["cider"] = float(Cider().compute_score(given, made)[0])
    return scores


@lru_cache(maxsize=100_000)
def _rouge_l(hypothesis: str, reference: str) -> float:
    """ROUGE-L of a pair; a pair is scored once, though it stands in several tables (all studies, abnormal ones)."""
    return float(Rouge().calc_score([hypothesis], [reference]))
