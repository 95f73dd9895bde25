"""Labelers: report text in, the 14 CheXpert observations out. `get_labeler("rules")` is the bundled one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from rrg.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


class Labeler(Protocol):
    """Reads observations from reports. `name` goes into every table that used it."""

    name: str

    def __call__(self, reports: Sequence[str]) -> "np.ndarray":
        """(reports, 14) float32: 1 present, 0 absent, -1 uncertain, nan not mentioned; columns as OBSERVATIONS."""
        ...


def _rules(slips: bool) -> Labeler:
    from rrg.labels.rules import RuleLabeler

    return RuleLabeler(slips)


LABELERS: dict[str, Callable[[], Labeler]] = {"rules": partial(_rules, True), "rules-plain": partial(_rules, False)}


def get_labeler(name: str = "rules") -> Labeler:
    """The labeler of that name. Raises UsageError that lists the names there are."""
    if name not in LABELERS:
        raise UsageError(f"no labeler is named {name!r}; there are: {', '.join(sorted(LABELERS))}")
    return LABELERS[name]()
