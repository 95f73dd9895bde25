"""`rrg report`: which cases it shows, and how their sentences are marked."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from report_runs import NORMAL, change, every_case
from rrg.labels import get_labeler
from rrg.report.cases import Tag, chosen, marked, split


def test_findings_are_agreed_missed_or_hallucinated(scored: Path) -> None:
    cases = every_case(scored)
    assert cases["right"].findings == {"Cardiomegaly": "agreed", "Pleural Effusion": "agreed"}
    assert cases["missed"].findings == {"Cardiomegaly": "missed", "Pleural Effusion": "missed"}
    assert cases["half"].findings == {"Cardiomegaly": "agreed", "Pleural Effusion": "missed"}
    assert cases["invented"].findings == {"Pneumothorax": "hallucinated"}
    assert cases["clear"].findings == {}
    assert [name for name, case in cases.items() if case.called_normal] == ["missed"]


def test_cases_are_in_the_order_of_what_went_wrong(scored: Path) -> None:
    cases = every_case(scored)
    assert list(cases) == ["missed", "half", "invented", "made-up", "right", "clear"]  # fewer shared words first
    assert [case.kind for case in cases.values()] == ["missed"] * 2 + ["hallucinated"] * 2 + ["other"] * 2


def test_exact_labels_count_where_the_card_has_them(scored: Path) -> None:
    change(scored.parent / "data" / "dataset.json", labels="exact")
    findings = every_case(scored)["right"].findings  # the labels mention nothing
    assert findings == {"Cardiomegaly": "hallucinated", "Pleural Effusion": "hallucinated"}


def test_sentences_carry_the_findings_that_they_mention_or_deny(scored: Path) -> None:
    case, labeler = every_case(scored)["missed"], get_labeler()
    assert [s.tags for s in marked(case.prediction.report, case, labeler)] == [
        [],
        [Tag("missed", "Pleural Effusion", "absent")],
    ]
    assert [s.tags for s in marked(case.reference, case, labeler)] == [
        [Tag("missed", "Pleural Effusion")],
        [Tag("missed", "Cardiomegaly")],
    ]


def test_a_normal_report_of_a_normal_film_has_no_marks(scored: Path) -> None:
    case = every_case(scored)["clear"]
    assert case.reference == NORMAL
    assert all(not s.tags for s in marked(NORMAL, case, get_labeler()))
    assert np.isclose(case.overlap, 1)


def test_list_numbers_and_abbreviations_end_no_sentence() -> None:
    report = "1. Lungs clear. 2. Seen by Dr. Ray at 3.5 cm.\n\nHeart normal"
    assert split(report) == ["1. Lungs clear.", "2. Seen by Dr. Ray at 3.5 cm.", "Heart normal"]
    assert split(" \n ") == []


@given(st.text(max_size=300))
def test_splitting_loses_nothing_but_spaces(report: str) -> None:
    assert "".join("".join(split(report)).split()) == "".join(report.split())


def test_of_an_endless_report_the_beginning_is_shown() -> None:
    *parts, last = split("a " * 15_000)
    assert sum(map(len, parts)) == 20_000
    assert last == "[and 10,000 more characters]"


def test_at_most_so_many_cases_are_taken_the_worst_of_each_kind(scored: Path) -> None:
    cases = list(every_case(scored).values())
    assert [case.id for case in chosen(cases, 3)] == ["missed", "half", "invented"]
    assert [case.id for case in chosen(cases, 4)] == ["missed", "half", "invented", "made-up"]
    assert [case.id for case in chosen(cases, 1)] == ["missed"]
    assert chosen(cases, 6) == chosen(cases, 99) == cases


def test_a_seed_draws_cases_at_random(scored: Path) -> None:
    cases = list(every_case(scored).values())
    draws = {tuple(case.id for case in chosen(cases, 3, seed)) for seed in range(20)}
    assert len(draws) > 5
    assert chosen(cases, 3, 7) == chosen(cases, 3, 7)
    for seed in range(20):
        taken = chosen(cases, 3, seed)
        assert taken == sorted(taken, key=lambda case: case.order)
