"""Clinical presets: every average against scikit-learn, what each preset is, and what its figures are signed with."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import precision_recall_fscore_support

from rrg.evaluate.clinical import PRESETS, Figure, clinical, figure_score, positives, preset_scores
from rrg.observations import FIVE, OBSERVATIONS

LABELS = st.sampled_from([1.0, 0.0, -1.0, np.nan])
SHAPE = st.tuples(st.integers(1, 7), st.just(14))
PAIRS = SHAPE.flatmap(
    lambda shape: st.tuples(arrays(float, shape, elements=LABELS), arrays(float, shape, elements=LABELS))
)
FIGURES = sorted({figure for preset in PRESETS.values() for figure in preset.figures}, key=str)


@given(PAIRS)
@pytest.mark.parametrize("figure", FIGURES, ids=str)
def test_every_figure_equals_scikit_learns(figure: Figure, pair: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, reference = (positives(labels, figure.uncertain) for labels in pair)
    found = figure_score(figure, predicted, reference)
    columns = [OBSERVATIONS.index(name) for name in FIVE] if figure.observations == 5 else list(range(14))
    average = "samples" if figure.average == "example" else figure.average
    expected = precision_recall_fscore_support(
        reference[:, columns], predicted[:, columns], average=average, zero_division=0
    )
    assert (found.precision, found.recall, found.f1) == pytest.approx(expected[:3], abs=1e-12)
    assert found.support == reference[:, columns].sum()


@given(PAIRS)
def test_presets_and_the_plain_table_agree(pair: tuple[np.ndarray, np.ndarray]) -> None:
    table, presets = clinical(*map(positives, pair)), preset_scores(*pair)
    assert presets["r2gen"]["macro-14|uncertain->0"] == table.macro
    assert presets["cvt2distilgpt2"]["micro-14|uncertain->0"] == table.micro
    assert table.macro.f1 == pytest.approx(np.mean([a.f1 for a in table.observations.values()]))


def test_only_an_uncertain_label_moves_between_policies() -> None:
    labels = np.array([[1.0, 0.0, -1.0, np.nan]])
    assert positives(labels).tolist() == [[True, False, False, False]]
    assert positives(labels, uncertain=1).tolist() == [[True, False, True, False]]


def test_by_hand_the_averages_of_two_reports_differ() -> None:
    """Report 1 finds one of two, report 2 states what is not there: 1 hit, 2 made, 2 there."""
    predicted, reference = np.full((2, 14), np.nan), np.full((2, 14), np.nan)
    edema, fracture = OBSERVATIONS.index("Edema"), OBSERVATIONS.index("Fracture")
    reference[0, [edema, fracture]] = 1
    predicted[[0, 1], edema] = 1
    found = preset_scores(predicted, reference)
    assert found["cvt2distilgpt2"]["micro-14|uncertain->0"].f1 == pytest.approx(1 / 2)
    assert found["promptmrg"]["example-14|uncertain->0"].f1 == pytest.approx((2 / 3 + 0) / 2)
    assert found["r2gen"]["macro-14|uncertain->0"].f1 == pytest.approx(2 / 3 / 14)
    assert found["radeval"]["weighted-14|uncertain->1"].f1 == pytest.approx((2 / 3 + 0) / 2)
    assert found["rgrg"]["micro-5|uncertain->1"].f1 == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "labeler", "figures"),
    [
        ("r2gen", "CheXpert", ["macro-14|uncertain->0", "micro-14|uncertain->0"]),
        ("wcl", "CheXpert", ["macro-14|uncertain->1"]),
        ("organ", "CheXbert", ["macro-14|uncertain->1"]),
        ("promptmrg", "CheXbert", ["example-14|uncertain->0"]),
        ("rgrg", "CheXbert", ["micro-5|uncertain->1", "micro-14|uncertain->1", "example-14|uncertain->0"]),
        ("llm-rg4", "CheXbert", ["micro-14|uncertain->1", "macro-14|uncertain->1"]),
        ("lead", None, ["macro-14|uncertain->0", "macro-14|uncertain->1"]),
    ],
)
def test_presets_are_the_published_ones(name: str, labeler: str | None, figures: list[str]) -> None:
    assert PRESETS[name].labeler == labeler
    assert list(map(str, PRESETS[name].figures)) == figures


def test_a_preset_says_which_labeler_its_paper_has_and_which_was_used() -> None:
    assert (
        PRESETS["promptmrg"]
        .signature("chexpert", "exact")
        .startswith("reports:chexpert|references:exact|paper:CheXbert|rrg")
    )
    assert "paper:not stated" in PRESETS["lead"].signature("chexpert", "exact")
