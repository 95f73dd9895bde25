"""A rule-based labeler after CheXpert (Irvin et al., AAAI 2019) and NegBio (Peng et al., AMIA Summits 2018).

Find the mentions of each observation in each sentence, classify each by the words around it, aggregate per report. The
rules are data: `chexpert.toml` and `strict.toml` each hold a mode.
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from rrg.labels.context import ABSENT, NOTHING, PRESENT, UNCERTAIN, Context
from rrg.labels.text import sentences, statements
from rrg.observations import OBSERVATIONS

NO_FINDING = "No Finding"


class _Mention(NamedTuple):
    """What one observation's mentions look like."""

    by_kind: tuple[tuple[str, re.Pattern[str]], ...]
    exceptions: re.Pattern[str]


class _Reading(NamedTuple):
    observation: str
    pattern: re.Pattern[str]
    label: int


def aggregate(values: Iterable[int]) -> int:
    """The label of a report from those of its mentions: {0, -1} and {0, -1, 1} give -1, {0, 1} and {-1, 1} give 1."""
    seen = set(values)
    if PRESENT in seen and not {ABSENT, UNCERTAIN} <= seen:
        return PRESENT
    return UNCERTAIN if UNCERTAIN in seen else ABSENT


class RuleLabeler:
    """No weights, deterministic, thousands of reports a second. `name` is the mode."""

    def __init__(self, mode: str = "chexpert") -> None:
        """`chexpert` reads as the CheXpert labeler does, misreadings included; `strict` as a clinician would."""
        self.name = mode
        table: dict[str, Any] = tomllib.loads((files("rrg.labels") / f"{mode}.toml").read_text(encoding="utf-8"))
        table = _with_parts(table, table.pop("part", {}))
        self._context = Context(table)
        self._sentences = {"sentences": sentences, "statements": statements}[table["mode"]["split"]]
        start = table["mode"]["word_start"]
        self._mentions = {
            observation: _Mention(
                tuple((kind, _any(found, start)) for kind, found in entry.items() if kind != "except"),
                _any([*entry.get("except", []), *table["mode"].get("except", [])] or [NOTHING], start),
            )
            for observation, entry in table["mention"].items()
        }
        self._readings = [
            _Reading(entry["observation"], re.compile(entry["pattern"]), entry["label"])
            for entry in table.get("reading", [])
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
        if not (text := self._sentences(report)):
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
        found = {
            (observation, label) for observation in self._mentions for label in self._mentioned(observation, sentence)
        }
        for reading in self._readings:
            if reading.pattern.search(sentence):
                found = {(o, v) for o, v in found if o != reading.observation}
                found.add((reading.observation, reading.label))
        return tuple(found)

    def _mentioned(self, observation: str, sentence: str) -> set[int]:
        """The labels that an observation's mentions in a sentence have."""
        mention, labels, skip = self._mentions[observation], set[int](), None
        for kind, pattern in mention.by_kind:
            for match in pattern.finditer(sentence):
                start, end = match.span()
                if skip is None:
                    skip = [m.span() for m in mention.exceptions.finditer(sentence)]
                if any(a < end and start < b for a, b in skip):
                    continue
                if (label := self._classify(kind, sentence, start, end)) is not None:
                    labels.add(label)
        return labels

    def certainty(self, sentence: str, start: int, end: int) -> int:
        """Present, absent or uncertain: what the sentence says of sentence[start:end]."""
        return self._context.certainty(sentence, start, end)

    def _classify(self, kind: str, sentence: str, start: int, end: int) -> int | None:
        """The label of one mention; None where it says nothing of the observation."""
        start, end = _whole_words(sentence, start, end)
        if kind == "organ":
            return self._context.organ(sentence, start, end)
        label = self._context.certainty(sentence, start, end)
        if kind == "implied":
            return None if label == ABSENT else UNCERTAIN
        return UNCERTAIN if kind == "vague" and label == PRESENT else label


def _whole_words(sentence: str, start: int, end: int) -> tuple[int, int]:
    """The span with the rest of the words that it begins and ends in."""
    while start and sentence[start - 1 : start + 1].isalnum():
        start -= 1
    while end < len(sentence) and sentence[end - 1 : end + 1].isalnum():
        end += 1
    return start, end


def _any(patterns: Sequence[str], start: str) -> re.Pattern[str]:
    return re.compile(rf"{start}(?:{'|'.join(patterns)})")


def _with_parts(entry: Any, parts: dict[str, str | list[str]]) -> Any:
    """A table of patterns with each `{name}` in them replaced by the part of that name, or by any of a list."""
    if isinstance(entry, dict):
        return {key: _with_parts(value, parts) for key, value in entry.items()}
    if isinstance(entry, list):
        return [_with_parts(value, parts) for value in entry]
    while isinstance(entry, str) and (name := re.search(r"\{([a-z_]+)\}", entry)):
        part = parts[name[1]]
        entry = entry.replace(name[0], part if isinstance(part, str) else f"(?:{'|'.join(part)})")
    return entry
