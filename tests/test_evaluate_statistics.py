"""Intervals and tests: known small examples, coverage, p-values without a difference, patients kept whole."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from rrg.evaluate.language import language_statistics
from rrg.evaluate.statistics import (
    PERMUTATIONS,
    RESAMPLES,
    ByMetric,
    Statistics,
    clinical_statistics,
    differences,
    holm,
    intervals,
    join,
)


def mean_of(values: np.ndarray) -> Statistics:
    """The metric `mean` of one number per report."""
    columns = np.stack([values, np.ones(len(values))], axis=1).astype(float)
    return Statistics(columns, lambda sums: {"mean": sums[..., 0] / sums[..., 1]})


def test_clinical_f1_by_hand() -> None:
    predicted = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
    reference = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    found = clinical_statistics(predicted, reference)
    # By observation 2·1/(1+2), 2·1/(2+1) and 0 of nothing; by report 2·1/(2+1), 1, 0 and 0 of nothing.
    expected = {"f1_macro": (2 / 3 + 2 / 3 + 0) / 3, "f1_micro": 2 * 2 / (3 + 3), "f1_example": (2 / 3 + 1) / 4}
    assert found.scores() == pytest.approx(expected)
    assert found.of(np.array([1, 1])).scores() == pytest.approx({"f1_macro": 1 / 3, "f1_micro": 1, "f1_example": 1})
    assert found.of(np.array([3])).scores() == {"f1_macro": 0, "f1_micro": 0, "f1_example": 0}


def test_clinical_f1_is_that_of_the_table() -> None:
    from rrg.evaluate.clinical import clinical

    rng = np.random.default_rng(0)
    predicted, reference = rng.random((2, 50, 14)) < 0.2
    scores, table = clinical_statistics(predicted, reference).scores(), clinical(predicted, reference)
    assert scores["f1_macro"] == pytest.approx(table.macro.f1)
    assert scores["f1_micro"] == pytest.approx(table.micro.f1)


def test_statistics_are_joined_side_by_side() -> None:
    made = language_statistics(["a b", "c d e"], ["a b c", "c d"])
    clinical = clinical_statistics(np.eye(2, 14, dtype=bool), np.ones((2, 14), bool))
    joined = join([made, clinical])
    assert joined.scores() == made.scores() | clinical.scores()
    with pytest.raises(ValueError, match="stands in two"):
        join([made, made]).scores()


def test_an_interval_is_between_the_percentiles_of_the_resampled_means() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = intervals(mean_of(values))["mean"]
    expected = values.mean() + values.std() / 20 * np.array([-1.96, 1.96])
    assert [low, high] == pytest.approx(expected, abs=0.03)
    narrow = intervals(mean_of(values), level=0.5)["mean"]
    assert low < narrow[0] < narrow[1] < high


def test_the_seed_decides_the_interval() -> None:
    values = mean_of(np.random.default_rng(2).normal(size=30))
    assert intervals(values, seed=4) == intervals(values, seed=4) != intervals(values, seed=5)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, trials = np.random.default_rng(3), 400
    covered = 0
    for _ in range(trials):
        low, high = intervals(mean_of(rng.exponential(size=120)), seed=int(rng.integers(1 << 30)), resamples=400)[
            "mean"
        ]
        covered += low <= 1 <= high
    # A percentile interval of 120 skewed numbers covers a little less than 95 %.
    assert binom.ppf(0.001, trials, 0.92) <= covered <= binom.ppf(0.999, trials, 0.955)


def test_patients_are_resampled_whole() -> None:
    values = np.repeat(np.random.default_rng(4).normal(size=50), 8)  # eight like reports of each of 50 patients
    low, high = intervals(mean_of(values))["mean"]
    patients = [f"p{i // 8}" for i in range(400)]
    wide_low, wide_high = intervals(mean_of(values), patients)["mean"]
    assert (wide_high - wide_low) / (high - low) == pytest.approx(8**0.5, rel=0.15)
    assert intervals(mean_of(values), range(400)) == intervals(mean_of(values))


def test_patients_of_different_sizes_keep_the_mean_a_mean() -> None:
    found = intervals(mean_of(np.full(7, 3.0)), list("aaaabbc"))
    assert found == {"mean": (3, 3)}


@pytest.mark.parametrize("clusters", [["p"] * 5, [1] * 5])
def test_one_patient_gives_no_interval(clusters: list[object]) -> None:
    assert intervals(mean_of(np.arange(5)), clusters) == {}
    with pytest.raises(ValueError, match="fewer than two clusters"):
        differences(mean_of(np.arange(5)), mean_of(np.arange(5)), clusters)


def test_p_of_a_small_case_is_that_of_all_swaps() -> None:
    # Differences 1, 2, 3, 4: of 16 swaps 2 reach |10| and 4 reach |8|.
    first, second = mean_of(np.array([1, 2, 3, 4])), mean_of(np.zeros(4))
    assert differences(first, second, permutations=40_000)["mean"].p == pytest.approx(2 / 16, abs=0.006)
    first = mean_of(np.array([-1, 2, 3, 4]))
    assert differences(first, second, permutations=40_000)["mean"].p == pytest.approx(4 / 16, abs=0.008)


def test_p_counts_the_observed_among_the_permutations() -> None:
    first, second = mean_of(np.arange(1, 61)), mean_of(np.zeros(60))
    assert differences(first, second, permutations=99)["mean"].p == 1 / 100  # no swap of 60 reaches it: (0 + 1) / 100


def test_equal_systems_do_not_differ() -> None:
    same = language_statistics(["a b c", "d e", "f"], ["a b", "d e", "f g"])
    for found in differences(same, same, permutations=50).values():
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_difference_is_the_first_less_the_second_and_reverses() -> None:
    rng = np.random.default_rng(5)
    first, second = mean_of(rng.normal(1, 1, 80)), mean_of(rng.normal(0, 1, 80))
    forth, back = differences(first, second)["mean"], differences(second, first)["mean"]
    assert forth.low < forth.difference < forth.high
    assert forth.low > 0
    assert (back.difference, back.low, back.high) == pytest.approx((-forth.difference, -forth.high, -forth.low))
    assert forth.p == back.p < 0.001


def test_a_paired_difference_is_surer_than_the_systems_themselves() -> None:
    rng = np.random.default_rng(6)
    hard = rng.normal(0, 5, 100)
    first, second = mean_of(hard + rng.normal(0.3, 0.5, 100)), mean_of(hard)
    found = differences(first, second)["mean"]
    low, high = intervals(first)["mean"]
    assert found.high - found.low < (high - low) / 5
    assert found.p < 0.001


def test_without_a_difference_p_is_uniform() -> None:
    rng = np.random.default_rng(7)
    ps = []
    for _ in range(300):
        first, second = rng.normal(size=(2, 40))
        ps.append(
            differences(mean_of(first), mean_of(second), seed=int(rng.integers(1 << 30)), permutations=199)["mean"].p
        )
    assert kstest(ps, "uniform").pvalue > 0.01


def test_swapping_whole_patients_keeps_p_honest() -> None:
    """Reports of a patient are alike: swapped one by one they would count as many, and p would be too small."""
    rng = np.random.default_rng(8)
    patients, by_patient, by_report = [i // 10 for i in range(200)], [], []
    for _ in range(100):
        first, second = np.repeat(rng.normal(size=(2, 20)), 10, axis=1)
        options = {"seed": int(rng.integers(1 << 30)), "permutations": 199, "resamples": 2}
        by_patient.append(differences(mean_of(first), mean_of(second), patients, **options)["mean"].p)
        by_report.append(differences(mean_of(first), mean_of(second), **options)["mean"].p)
    assert np.mean(np.array(by_patient) <= 0.05) <= 0.12
    assert np.mean(np.array(by_report) <= 0.05) >= 0.3


def test_statistics_of_different_studies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(4, 2\)"):
        differences(mean_of(np.arange(3)), mean_of(np.arange(4)))


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1 are .04 .06 .06 .04; none may be below the one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p: list[float]) -> None:
    found = holm(p)
    assert all(raw <= corrected <= min(1, raw * len(p)) for raw, corrected in zip(p, found, strict=True))
    assert [found[i] for i in np.argsort(p, kind="stable")] == sorted(found)


def test_a_resample_of_a_large_test_set_costs_no_pass_over_its_texts() -> None:
    rng, words = random.Random(0), [f"w{i}" for i in range(300)]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(3858)]
    labels = np.random.default_rng(0).random((2, 3858, 14)) < 0.3
    found = join([language_statistics(texts, texts[1:] + texts[:1]), clinical_statistics(*labels)])
    patients = [rng.randrange(3000) for _ in texts]
    rows: list[int] = []  # scored at a time

    def score(sums: np.ndarray) -> ByMetric:
        rows.append(sums.size // sums.shape[-1])
        return found.score(sums)

    counted = Statistics(found.values, score)
    assert len(intervals(counted, patients)) == 9
    assert rows == [RESAMPLES]
    assert len(differences(counted, counted, patients)) == 9
    assert sum(rows[1:]) == 2 + 2 * RESAMPLES + 2 * PERMUTATIONS
    assert len(rows) < 100
