"""Expressions: methods and pieces joined by +."""

import pytest

from rrg.composing.grammar import parse
from rrg.errors import UsageError


@pytest.mark.parametrize(
    ("expression", "terms"),
    [
        ("lead", ["lead"]),
        ("lead+dmsr", ["lead", "dmsr"]),
        (" s2d-align + lead.gate ", ["s2d-align", "lead.gate"]),
        ("a1-b2.c3-d", ["a1-b2.c3-d"]),
    ],
)
def test_terms_in_order(expression: str, terms: list[str]) -> None:
    assert parse(expression) == terms


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", "the expression is empty"),
        ("  ", "the expression is empty"),
        ("lead+", "term 2 of 'lead+' is empty"),
        ("lead++dmsr", "term 2 of 'lead++dmsr' is empty"),
        ("Lead", "'Lead' is not a name"),
        ("1lead", "'1lead' is not a name"),
        ("lead.gate.rank", "'lead.gate.rank' is not a name"),
        ("lead dmsr", "'lead dmsr' is not a name"),
        ("lead-", "'lead-' is not a name"),
        ("léad", "'léad' is not a name"),
        ("lead+dmsr+lead", "lead is given 2 times; give it once"),
    ],
)
def test_what_cannot_be_read(expression: str, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(expression)
    assert problem in str(raised.value)


def test_all_problems_of_an_expression_at_once() -> None:
    with pytest.raises(UsageError) as raised:
        parse("A++b+b")
    assert len(raised.value.problems) == 3
