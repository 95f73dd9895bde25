"""The best constant: the one training report that, repeated for every validation study, has the highest BLEU-4."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rrg.evaluate.language import ORDER, bleu


def ngrams(text: str) -> Counter[tuple[str, ...]]:
    """How often each run of one to four words occurs."""
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(words) - n + 1))


class ConstantBleu:
    """Corpus BLEU of one hypothesis repeated against many references, each the only one of its study.

    Clipped counts of an n-gram depend only on how often the hypothesis has it, so they are summed over the references
    once: `_clipped[ngram][k - 1]` is the sum of min(k, count in reference).
    """

    def __init__(self, references: Sequence[str]) -> None:
        self._n = len(references)
        self._length = sum(len(reference.split()) for reference in references)
        counts: dict[tuple[str, ...], list[int]] = {}
        for reference in references:
            for ngram, count in ngrams(reference).items():
                counts.setdefault(ngram, []).append(count)
        self._clipped = {
            ngram: [sum(min(k, c) for c in found) for k in range(1, max(found) + 1)] for ngram, found in counts.items()
        }

    def __call__(self, hypothesis: str) -> float:
        """BLEU-4 as pycocoevalcap's corpus score, closest reference length."""
        length = len(hypothesis.split())
        correct = [0] * ORDER
        for ngram, count in ngrams(hypothesis).items():
            if clipped := self._clipped.get(ngram):
                correct[len(ngram) - 1] += clipped[min(count, len(clipped)) - 1]
        possible = [max(0, length - n) * self._n for n in range(ORDER)]
        return float(bleu(np.array(correct), np.array(possible), np.array(self._length))[-1])


def best_constant(candidates: Sequence[str], references: Sequence[str]) -> tuple[int, float]:
    """Index of the candidate with the highest BLEU-4 against all references (the first of equals), and that BLEU-4."""
    score = ConstantBleu(references)
    scores = {text: score(text) for text in dict.fromkeys(candidates)}
    best = max(scores, key=scores.__getitem__)
    return candidates.index(best), scores[best]
