"""The expression: `spec := term ("+" term)*`, `term := alias | method | piece | method.piece`."""

import re

from rrg.errors import UsageError
from rrg.pieces import NAME

TERM = re.compile(rf"{NAME}(?:\.{NAME})?")


def parse(expression: str) -> list[str]:
    """Split an expression into its terms, in order.

    Raises UsageError for an empty expression, an empty term, a term that is no name, or one given twice.
    """
    if not expression.strip():
        raise UsageError("the expression is empty; give methods or pieces joined by +, such as: rrg compose lead+dmsr")
    terms = [term.strip() for term in expression.split("+")]
    problems = []
    for index, term in enumerate(terms):
        if not term:
            problems.append(f"term {index + 1} of {expression!r} is empty")
        elif not TERM.fullmatch(term):
            problems.append(f"{term!r} is not a name: lower case, digits and hyphens, such as lead or lead.gate")
    problems += [
        f"{term} is given {terms.count(term)} times; give it once"
        for term in dict.fromkeys(terms)
        if term and terms.count(term) > 1
    ]
    if problems:
        raise UsageError(f"cannot read the expression {expression!r}", problems)
    return terms
