"""BLEU, ROUGE-L and CIDEr-D as pycocoevalcap's scorers compute them, on the strings as they are: no PTB tokenizer.

Papineni et al. (ACL 2002), Lin (2004), Vedantam et al. (CVPR 2015). One reference per report, so the closest reference
length is its length. BLEU and CIDEr split at white space of any kind, ROUGE-L at each single space: two in a row hold
an empty word.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from scipy.sparse import csr_array

from rrg.evaluate.statistics import ByMetric, Statistics

ORDER = 4
BETA = 1.2
SIGMA = 6.0
# pycocoevalcap's guards against division by zero; they belong to its scores.
_SMALL, _TINY = 1e-9, 1e-15


def language_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """bleu_1 … bleu_4, rouge_l and cider (×10) of one hypothesis and one reference per study.

    CIDEr's document frequencies are those of `references`, so it depends on which studies are scored together; of a
    single study it is 0. Raises ValueError as `language_statistics`.
    """
    return language_statistics(hypotheses, references).scores()


def language_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> Statistics:
    """Per report: clipped and possible n-grams of four orders, the reference's length, ROUGE-L, CIDEr-D, and 1.

    CIDEr's document frequencies are those of all `references`, and stay so in sums over some of the reports. Raises
    ValueError where there are none, or not as many hypotheses as references.
    """
    if not references or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses and {len(references)} references: one of each per report")
    n = len(references)
    words = [text.split() for text in (*hypotheses, *references)]
    lengths = np.array([len(each) for each in words])
    possible = np.maximum(lengths[:n, None] - np.arange(ORDER), 0)
    clipped, cosines = [], []
    for counts in _ngrams(words, lengths):
        made, given = counts[:n], counts[n:]
        common = made.minimum(given)
        clipped.append(common.sum(axis=1))
        cosines.append(_cosine(made, given, common))
    apart = np.diff(np.maximum(lengths - 1, 0).reshape(2, n), axis=0)[0]  # lengths in bigrams
    cider = 10 * np.mean(cosines, axis=0) * np.exp(-(apart**2) / (2 * SIGMA**2))
    rouge = [_rouge_l(*pair) for pair in zip(hypotheses, references, strict=True)]
    columns = [*clipped, *possible.T, lengths[n:], rouge, cider, np.ones(n)]
    return Statistics(np.stack(columns, axis=1).astype(float), _score)


def cider_weighs(references: Sequence[str]) -> bool:
    """Whether CIDEr has weights: they are all 0 where every reference has the same n-grams, as where there is one."""
    first = _kinds(references[0])
    return any(_kinds(text) != first for text in references[1:])


def _kinds(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(words) - n + 1)}


def _score(sums: np.ndarray) -> ByMetric:
    """From sums of the columns of `language_statistics`."""
    reference, rouge, cider, reports = np.moveaxis(sums[..., 2 * ORDER :], -1, 0)
    found = bleu(sums[..., :ORDER], sums[..., ORDER : 2 * ORDER], reference)
    scores = {f"bleu_{k}": found[..., k - 1] for k in range(1, ORDER + 1)}
    return {**scores, "rouge_l": rouge / reports, "cider": cider / reports}


def bleu(clipped: np.ndarray, possible: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 (..., 4) of sums: clipped and possible n-grams (..., 4), the references' length (...)."""
    precision = np.cumprod((clipped + _TINY) / (possible + _SMALL), axis=-1) ** (1 / np.arange(1, ORDER + 1))
    brevity = np.exp(np.minimum(0, 1 - (reference + _SMALL) / (possible[..., 0] + _TINY)))
    return np.asarray(precision * brevity[..., None])


def _ngrams(words: Sequence[Sequence[str]], lengths: np.ndarray) -> Iterator[csr_array]:
    """(texts, n-grams) of one to four words: how often each text has each of them."""
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    word = np.fromiter((numbers[w] for each in words for w in each), np.int64, lengths.sum())
    start = np.arange(len(word))
    left = np.repeat(lengths.cumsum(), lengths) - start
    gram, kinds = word, len(numbers)
    for order in range(ORDER):
        if order:
            kept = left[start] > order
            start = start[kept]
            # A pair of numbers in one: that of the gram before, and that of the word after it.
            unique, gram = np.unique(gram[kept] * len(numbers) + word[start + order], return_inverse=True)
            kinds = len(unique)
        ends = np.concatenate([[0], np.maximum(lengths - order, 0).cumsum()])
        counts = csr_array((np.ones(len(gram)), gram, ends), shape=(len(words), kinds), copy=True)
        counts.sum_duplicates()  # in place
        yield counts


def _cosine(made: csr_array, given: csr_array, common: csr_array) -> np.ndarray:
    """(reports,): similarity of n-gram counts weighted by inverse document frequency, the hypothesis's clipped."""
    n, texts = given.shape[0], np.bincount(given.indices, minlength=given.shape[1])
    weight = np.where(texts == n, 0, np.log(n) - np.log(np.maximum(texts, 1))) ** 2
    norm = np.sqrt((made.power(2) @ weight) * (given.power(2) @ weight))
    dot = common.multiply(given) @ weight
    return np.asarray(dot / np.where(norm == 0, 1, norm))  # where the norm is 0, so is the product


def _rouge_l(hypothesis: str, reference: str) -> float:
    made, given = hypothesis.split(" "), reference.split(" ")
    common = _longest_common(made, given)
    if common == 0:
        return 0.0
    precision, recall = common / len(made), common / len(given)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence: a row of its table is the bits of one integer (Hyyrö, 2004)."""
    places: dict[str, int] = {}
    bit = 1
    for word in first:
        places[word] = places.get(word, 0) | bit
        bit <<= 1
    row = bit - 1
    for word in second:
        if word in places:
            met = row & places[word]
            row = (row + met) | (row - met)
    return len(first) - (row & (bit - 1)).bit_count()
