"""How sure a score is: intervals by resampling, and tests of two systems on the same studies.

Every metric here is a function of sums over reports, so that a resample costs a row of a matrix product instead of a
pass over texts. Where patients are known they are resampled and swapped whole, for their reports are not independent.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rrg.errors import UsageError

RESAMPLES, PERMUTATIONS, LEVEL = 1000, 10_000, 0.95
CELLS = 1 << 20
"""Numbers of a matrix of weights at a time: 8 MiB."""
# Differences of equal sums in another order of addition; far below what any score is printed with.
_ROUNDING = 1e-12

ByMetric = dict[str, np.ndarray]


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of some metrics.

    values: (reports, columns) float64. score: from their sums over any reports, (..., columns), each metric (...).
    """

    values: np.ndarray
    score: Callable[[np.ndarray], ByMetric]

    def scores(self) -> dict[str, float]:
        """The metrics over all reports."""
        return {name: float(value) for name, value in self.score(self.values.sum(axis=0)).items()}

    def of(self, reports: np.ndarray) -> "Statistics":
        """The same of some reports: indices, or a mask."""
        return Statistics(self.values[reports], self.score)


@dataclass(frozen=True)
class Difference:
    """A metric of one system less that of another, the difference's bootstrap interval, and p before any correction."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


def join(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of the same reports side by side, with all their metrics. Raises ValueError where a name repeats."""
    edges = np.cumsum([0, *(part.values.shape[1] for part in parts)])

    def score(sums: np.ndarray) -> ByMetric:
        found = [part.score(sums[..., i:j]) for part, i, j in zip(parts, edges, edges[1:], strict=False)]
        joined = {name: value for scores in found for name, value in scores.items()}
        if len(joined) < sum(map(len, found)):
            raise ValueError(f"a metric stands in two of the parts: {[list(scores) for scores in found]}")
        return joined

    return Statistics(np.concatenate([part.values for part in parts], axis=1), score)


def clinical_statistics(predicted: np.ndarray, reference: np.ndarray) -> Statistics:
    """f1_macro, f1_micro and f1_example of two (reports, observations) bool arrays of what is stated.

    Macro: the mean over observations; example: over reports. A division by zero gives 0.
    """
    hits, both = predicted & reference, predicted.astype(float) + reference
    example = _f1(hits.sum(axis=1), both.sum(axis=1))[:, None]
    width = hits.shape[1]

    def score(sums: np.ndarray) -> ByMetric:
        h, b = sums[..., :width], sums[..., width : 2 * width]
        return {
            "f1_macro": _f1(h, b).mean(axis=-1),
            "f1_micro": _f1(h.sum(axis=-1), b.sum(axis=-1)),
            "f1_example": sums[..., -2] / sums[..., -1],
        }

    return Statistics(np.hstack([hits, both, example, np.ones_like(example)]), score)


def _f1(hits: np.ndarray, both: np.ndarray) -> np.ndarray:
    """hits: true positives; both: predicted and reference positives together."""
    return 2 * hits / np.where(both == 0, 1, both)


def intervals(
    statistics: Statistics,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap interval of each metric (Efron and Tibshirani, 1993, chapter 13).

    clusters: one per report, such as its patient; clusters are drawn whole. Without them every report is drawn alone.
    Whatever the statistics took from all reports stays as it is: CIDEr's document frequencies are those of the whole
    reference set in every resample. Empty where there is but one cluster, since nothing can be drawn from it.
    """
    sums = _by_cluster(statistics.values, clusters)
    if len(sums) < 2:
        return {}
    return _percentiles(statistics.score(_resampled(sums, seed, resamples)), level)


def differences(
    first: Statistics,
    second: Statistics,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    *,
    permutations: int = PERMUTATIONS,
    resamples: int = RESAMPLES,
) -> dict[str, Difference]:
    """Two systems on the same reports in the same order, metric by metric.

    The difference's interval is that of `intervals`, both systems resampled alike. p is two-sided, by approximate
    randomisation (Noreen, 1989): where the systems do not differ, their outputs for a cluster may be swapped; p is
    (c + 1) / (permutations + 1), where c permutations differ at least as much as the systems do. Raises ValueError for
    statistics of different shapes, or of fewer than two clusters.
    """
    if first.values.shape != second.values.shape:
        raise ValueError(f"statistics of shapes {first.values.shape} and {second.values.shape} are not of one set")
    ours, theirs = _by_cluster(first.values, clusters), _by_cluster(second.values, clusters)
    if len(ours) < 2:
        raise ValueError("fewer than two clusters: there is nothing to draw or to swap")
    a, b = first.scores(), second.scores()
    wide = _resampled(np.hstack([ours, theirs]), seed, resamples)
    drawn = [first.score(half) for half in np.split(wide, 2, axis=1)]
    bounds = _percentiles({name: drawn[0][name] - drawn[1][name] for name in a}, LEVEL)
    found = _swapped(first, ours, theirs, {name: abs(a[name] - b[name]) for name in a}, seed, permutations)
    return {name: Difference(a[name], b[name], a[name] - b[name], *bounds[name], found[name]) for name in a}


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, 1979), in the order given."""
    order = np.argsort(p, kind="stable")
    stepped = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(stepped))
    return [float(value) for value in corrected]


def check_seed(seed: int) -> None:
    """Raises UsageError for a negative one."""
    if seed < 0:
        raise UsageError(f"seed {seed}: expected 0 or more")


def _by_cluster(values: np.ndarray, clusters: Sequence[Hashable] | None) -> np.ndarray:
    """(clusters, columns): sums over the reports of each, in order of first appearance."""
    if clusters is None:
        return values
    place: dict[Hashable, int] = {}
    rows = [place.setdefault(cluster, len(place)) for cluster in clusters]
    sums = np.zeros((len(place), values.shape[1]))
    np.add.at(sums, rows, values)
    return sums


def _chunks(rows: int, width: int) -> Iterator[int]:
    """How many rows of a matrix to make at a time."""
    step = max(1, CELLS // width)
    yield from (min(step, rows - start) for start in range(0, rows, step))


def _resampled(sums: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """(resamples, columns): sums over as many clusters as there are, drawn with replacement."""
    rng, n, parts = np.random.default_rng(seed), len(sums), []
    for rows in _chunks(resamples, n):
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        parts.append(np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float) @ sums)
    return np.concatenate(parts)


def _percentiles(scores: Mapping[str, np.ndarray], level: float) -> dict[str, tuple[float, float]]:
    tail = (1 - level) / 2
    return {
        name: (float(low), float(high))
        for name, (low, high) in ((name, np.quantile(drawn, [tail, 1 - tail])) for name, drawn in scores.items())
    }


def _swapped(
    form: Statistics, ours: np.ndarray, theirs: np.ndarray, observed: dict[str, float], seed: int, permutations: int
) -> dict[str, float]:
    """p of each metric: how often a random swap of whole clusters differs as much as was observed."""
    rng, n = np.random.default_rng([seed, 1]), len(ours)
    change, a, b = theirs - ours, ours.sum(axis=0), theirs.sum(axis=0)
    reached = dict.fromkeys(observed, 0)
    for rows in _chunks(permutations, n):
        bits = np.unpackbits(rng.integers(256, size=(rows, -(-n // 8)), dtype=np.uint8), axis=1)[:, :n]
        moved = bits.astype(float) @ change
        one, other = form.score(a + moved), form.score(b - moved)
        for name, seen in observed.items():
            reached[name] += int((abs(one[name] - other[name]) >= seen - _ROUNDING).sum())
    return {name: (c + 1) / (permutations + 1) for name, c in reached.items()}
