"""Labelers: report text in, the 14 CheXpert observations out. `get_labeler()` is the default, `chexpert`."""

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


def _rules(mode: str) -> Labeler:
    from rrg.labels.rules import RuleLabeler

    return RuleLabeler(mode)


LABELERS: dict[str, Callable[[], Labeler]] = {mode: partial(_rules, mode) for mode in ("chexpert", "strict")}


def get_labeler(name: str = "chexpert") -> Labeler:
    """The labeler of that name. Raises UsageError that lists the names there are."""
    if name not in LABELERS:
        raise UsageError(f"no labeler is named {name!r}; there are: {', '.join(sorted(LABELERS))}")
    return LABELERS[name]()
