"""What a check found, and how it finds what occurs more than once."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from rrg.data.study import SPLITS, Study

Level = Literal["ok", "note", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)


class Film(NamedTuple):
    """Film `i` of a study."""

    study: Study
    i: int

    @property
    def name(self) -> str:
        return self.study.file_names[self.i]

    def __str__(self) -> str:
        return f"{self.name} (study {self.study.id}, {self.study.split})"


@dataclass(frozen=True)
class Finding:
    """One question to a data folder, and its answer.

    key: stable, for programs. text: what was found. advice: what to do, where the level is not ok. examples: each place
    in a line. films: those behind it, in groups that belong side by side. numbers: the text's, for programs.
    """

    key: str
    title: str
    level: Level
    text: str
    advice: str = ""
    examples: list[str] = field(default_factory=list)
    films: list[list[Film]] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)


def repeats(keys: Iterable[Hashable]) -> list[list[int]]:
    """The positions of each key that occurs more than once; None is no key."""
    first: dict[Hashable, int] = {}
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        if key is not None and (earlier := first.setdefault(key, i)) != i:
            groups.setdefault(key, [earlier]).append(i)
    return list(groups.values())


def splits_of(studies: Iterable[Study]) -> list[str]:
    """The splits in which these studies are, in order."""
    found = {study.split for study in studies}
    return [split for split in SPLITS if split in found]


def by_splits(groups: Iterable[Sequence[Study]]) -> dict[str, int]:
    """How many groups reach over which splits, such as {"train and test": 3}."""
    return dict(Counter(" and ".join(splits_of(group)) for group in groups))


def listed(counts: dict[str, int]) -> str:
    """Such as `train and test 3, val and test 1`."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def some(count: int, noun: str) -> str:
    """Such as `1 film`, `2,000 films`, `2 studies`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"
