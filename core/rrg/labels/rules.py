"""A rule-based labeler after CheXpert (Irvin et al., AAAI 2019): find mentions, classify each, aggregate per report.

The tables are data: `mentions.toml` says what a mention is, `modifiers.toml` what negates it or makes it uncertain,
`slips.toml` which sentences the original is known to misread.
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from rrg.observations import OBSERVATIONS

PRESENT, ABSENT, UNCERTAIN = 1, 0, -1
NO_FINDING = "No Finding"
LONGEST_SENTENCE = 1000
"""Characters; what runs on longer is no sentence, and is read in pieces so that time stays linear in the text."""

_ABBREVIATION = r"(?<!\bdr)(?<!\bvs)(?<!\bapprox)(?<!\bmr)(?<!\bms)"
_SENTENCE_END = re.compile(rf"{_ABBREVIATION}(?<!\b\d)[.!?]+(?=\s|$)|(?<=[a-z]{{2}})\.(?=[a-z])|\n\s*\n")


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((files("rrg.labels") / name).read_text(encoding="utf-8"))


def _words(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for whole words; a bare symbol such as `;` matches as it is."""
    return re.compile("|".join(rf"\b(?:{p})\b" if re.match(r"[\w(\\]", p) else p for p in patterns))


class _Patterns(NamedTuple):
    """What one observation's mentions look like."""

    by_kind: tuple[tuple[str, re.Pattern[str]], ...]
    exceptions: re.Pattern[str]

    @classmethod
    def of(cls, table: dict[str, list[str]]) -> "_Patterns":
        kinds = tuple((kind, _starts(table[kind])) for kind in ("organ", "mention", "vague") if kind in table)
        return cls(kinds, _starts(table.get("except", [r"(?!)"])))


class _Slip(NamedTuple):
    observation: str
    pattern: re.Pattern[str]
    label: int


def _starts(patterns: Sequence[str]) -> re.Pattern[str]:
    """One expression for what starts at a word's start."""
    return re.compile(rf"\b(?:{'|'.join(patterns)})")


def sentences(report: str) -> list[str]:
    """Lower-case sentences with single spaces; `a/b` reads `a or b`, and a lone line break does not end a sentence."""
    text = re.sub(r"(?<=[a-z])/(?=[a-z])", " or ", report.lower().replace("and/or", "or"))
    whole = [s for part in _SENTENCE_END.split(text) if (s := " ".join(part.split()))]
    return [s[i : i + LONGEST_SENTENCE] for s in whole for i in range(0, len(s), LONGEST_SENTENCE)]


def aggregate(values: Iterable[int]) -> int:
    """The label of a report from those of its mentions: {0, -1} gives -1, and a 1 anywhere gives 1."""
    seen = set(values)
    return next(label for label in (PRESENT, UNCERTAIN, ABSENT) if label in seen)


class RuleLabeler:
    """The `rules` labeler: no weights, deterministic, thousands of reports a second."""

    def __init__(self, slips: bool = True) -> None:
        """`slips` repeats the original labeler's systematic misreadings (slips.toml)."""
        self.name = "rules" if slips else "rules-plain"
        mentions, modifiers = _table("mentions.toml"), _table("modifiers.toml")
        self._patterns = {name: _Patterns.of(table) for name, table in mentions.items()}
        self._words = {
            f"{table}.{key}": _words(patterns) for table, entry in modifiers.items() for key, patterns in entry.items()
        }
        self._slips = [
            _Slip(s["observation"], re.compile(s["pattern"]), s["label"]) for s in _table("slips.toml")["slip"] if slips
        ]
        self._label_sentence = lru_cache(maxsize=100_000)(self._label_sentence_uncached)

    def __call__(self, reports: Sequence[str]) -> np.ndarray:
        """(reports, 14) float32 in {1, 0, -1, nan}; columns in the order of OBSERVATIONS."""
        labels = np.full((len(reports), len(OBSERVATIONS)), np.nan, np.float32)
        for row, report in zip(labels, reports, strict=True):
            for observation, value in self.label(report).items():
                row[OBSERVATIONS.index(observation)] = value
        return labels

    def label(self, report: str) -> dict[str, int]:
        """The observations that one report mentions, with their labels; No Finding = 1 where a text has none present.

        A text without words has no labels at all: silence is not a normal film.
        """
        found: dict[str, list[int]] = {}
        if not (text := sentences(report)):
            return {}
        for sentence in text:
            for observation, value in self._label_sentence(sentence):
                found.setdefault(observation, []).append(value)
        labels = {observation: aggregate(values) for observation, values in found.items()}
        other = labels.pop(NO_FINDING, ABSENT)
        if other == ABSENT and all(v == ABSENT for o, v in labels.items() if o != "Support Devices"):
            labels[NO_FINDING] = PRESENT
        return labels

    def _label_sentence_uncached(self, sentence: str) -> tuple[tuple[str, int], ...]:
        found = []
        for observation, patterns in self._patterns.items():
            skip = [m.span() for m in patterns.exceptions.finditer(sentence)]
            for kind, pattern in patterns.by_kind:
                for match in pattern.finditer(sentence):
                    start, end = match.span()
                    if not any(a < end and start < b for a, b in skip):
                        found.append((observation, self._classify(kind, sentence, start, end)))
        for slip in self._slips:
            if slip.pattern.search(sentence):
                found = [(o, v) for o, v in found if o != slip.observation] + [(slip.observation, slip.label)]
        return tuple(found)

    def _classify(self, kind: str, sentence: str, start: int, end: int) -> int:
        if kind == "organ":
            return self._state_of_organ(sentence, start, end)
        label = self.certainty(sentence, start, end)
        return UNCERTAIN if kind == "vague" and label == PRESENT else label

    def certainty(self, sentence: str, start: int, end: int) -> int:
        """Present, absent or uncertain, by the words around sentence[start:end] within its scope."""
        words = self._words
        ends = [m.span() for m in words["scope.end"].finditer(sentence)]
        before = sentence[max((b for _, b in ends if b <= start), default=0) : start]
        after = sentence[end : min((a for a, _ in ends if a >= end), default=len(sentence))]
        if words["uncertainty.strong_before"].search(before) or words["uncertainty.strong_after"].search(after):
            return UNCERTAIN
        if words["negation.before"].search(before) or words["negation.after"].search(after):
            return ABSENT
        if words["uncertainty.before"].search(before) or words["uncertainty.after"].search(after):
            return UNCERTAIN
        return PRESENT

    def _state_of_organ(self, sentence: str, start: int, end: int) -> int:
        """What the sentence says of an organ: in its own comma-separated part first, then after it, then before it."""
        left, right = sentence.rfind(",", 0, start) + 1, sentence.find(",", end)
        right = len(sentence) if right < 0 else right
        for part in (sentence[left:right], sentence[end:], sentence[:start]):
            if self._words["organ.not_present"].search(part):
                return ABSENT
            if present := self._words["organ.present"].search(part):
                return UNCERTAIN if self._words["uncertainty.before"].search(part[: present.start()]) else PRESENT
            normal, stable = self._words["organ.absent"].search(part), self._words["organ.uncertain"].search(part)
            if normal and (stable is None or normal.start() < stable.start()):
                return ABSENT
            if stable:
                return UNCERTAIN
        return PRESENT
