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

from rrg.observations import OBSERVATIONS

PRESENT, ABSENT, UNCERTAIN = 1, 0, -1
NO_FINDING = "No Finding"
LONGEST_SENTENCE = 1000
"""Characters; what runs on longer is no sentence, and is read in pieces so that time stays linear in the text."""
REACH = 400
"""Characters before and after a mention in which words deny or doubt it."""

_ABBREVIATION = r"(?<!\bdr)(?<!\bvs)(?<!\bapprox)(?<!\bmr)(?<!\bms)"
_SENTENCE_END = re.compile(rf"{_ABBREVIATION}(?<!\b\d)[.!?]+(?=\s|$)|(?<=[a-z]{{2}})\.(?=[a-z])|\n\s*\n")
_NOTHING = r"(?!)"


class _Mention(NamedTuple):
    """What one observation's mentions look like."""

    by_kind: tuple[tuple[str, re.Pattern[str]], ...]
    exceptions: re.Pattern[str]


class _Reading(NamedTuple):
    observation: str
    pattern: re.Pattern[str]
    label: int


def sentences(report: str) -> list[str]:
    """Lower-case sentences with single spaces; `a/b` reads `a or b`, and a lone line break does not end a sentence."""
    text = re.sub(r"(?<=[a-z])/(?=[a-z])", " or ", report.lower().replace("and/or", "or"))
    whole = [s for part in _SENTENCE_END.split(text) if (s := " ".join(part.split()))]
    return [s[i : i + LONGEST_SENTENCE] for s in whole for i in range(0, len(s), LONGEST_SENTENCE)]


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
        self._silent: int | None = table["mode"].get("silent_organ")
        self._stable: int | None = table["mode"].get("stable_organ")
        start = table["mode"]["word_start"]
        self._mentions = {
            observation: _Mention(
                tuple((kind, _any(found, start)) for kind, found in entry.items() if kind != "except"),
                _any(entry.get("except", [_NOTHING]), start),
            )
            for observation, entry in table["mention"].items()
        }
        self._words = {
            f"{name}.{key}": _words(patterns)
            for name in ("organ", "negation", "uncertainty")
            for key, patterns in table[name].items()
        }
        self._readings = [
            _Reading(entry["observation"], re.compile(entry["pattern"]), entry["label"])
            for entry in table.get("reading", [])
        ]
        self._label_sentence = lru_cache(maxsize=100_000)(self._label_sentence_uncached)
        self._ends = lru_cache(maxsize=4)(self._ends_uncached)

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
        mention, labels = self._mentions[observation], set[int]()
        skip = [m.span() for m in mention.exceptions.finditer(sentence)]
        for kind, pattern in mention.by_kind:
            for match in pattern.finditer(sentence):
                start, end = match.span()
                if any(a < end and start < b for a, b in skip):
                    continue
                if (label := self._classify(kind, sentence, start, end)) is not None:
                    labels.add(label)
        return labels

    def _classify(self, kind: str, sentence: str, start: int, end: int) -> int | None:
        """The label of one mention; None where it says nothing of the observation."""
        start, end = _whole_words(sentence, start, end)
        if kind == "organ":
            return self._state_of_organ(sentence, start, end)
        label = self.certainty(sentence, start, end)
        if kind == "implied":
            return None if label == ABSENT else UNCERTAIN
        return UNCERTAIN if kind == "vague" and label == PRESENT else label

    def certainty(self, sentence: str, start: int, end: int) -> int:
        """Present, absent or uncertain, by the words around sentence[start:end] within their scope."""
        words = self._words
        before, after = self._scope("uncertainty.end", sentence, start, end)
        if words["uncertainty.first_before"].search(before) or words["uncertainty.first_after"].search(after):
            return UNCERTAIN
        if self._is_negated(sentence, start, end):
            return ABSENT
        if words["uncertainty.before"].search(before) or words["uncertainty.after"].search(after):
            return UNCERTAIN
        return PRESENT

    def _is_negated(self, sentence: str, start: int, end: int) -> bool:
        before, after = self._scope("negation.end", sentence, start, end)
        return bool(self._words["negation.before"].search(before) or self._words["negation.after"].search(after))

    def _scope(self, which: str, sentence: str, start: int, end: int) -> tuple[str, str]:
        """What stands before and after sentence[start:end], up to the words that end its scope."""
        ends = self._ends(which, sentence)
        left = max((b for _, b in ends if b <= start), default=0)
        right = min((a for a, _ in ends if a >= end), default=len(sentence))
        return sentence[max(left, start - REACH) : start], sentence[end : min(right, end + REACH)]

    def _ends_uncached(self, which: str, sentence: str) -> list[tuple[int, int]]:
        return [match.span() for match in self._words[which].finditer(sentence)]

    def _state_of_organ(self, sentence: str, start: int, end: int) -> int | None:
        """What the sentence says of an organ: in its own comma-separated part first, then after it, then before it."""
        left, right = sentence.rfind(",", 0, start) + 1, sentence.find(",", end)
        right = len(sentence) if right < 0 else right
        words = self._words
        for part in (sentence[left:right], sentence[end:], sentence[:start]):
            if words["organ.not_present"].search(part):
                return ABSENT
            present, absent = words["organ.present"].search(part), words["organ.absent"].search(part)
            stable = words["organ.stable"].search(part)
            if absent and (present is None or absent.start() < present.start()):
                return ABSENT
            if stable and (present is None or self._stable is not None):
                return self._stable
            if present:
                return UNCERTAIN if words["uncertainty.before"].search(part[: present.start()]) else PRESENT
        return self._silent


def _whole_words(sentence: str, start: int, end: int) -> tuple[int, int]:
    """The span with the rest of the words that it begins and ends in."""
    while start and sentence[start - 1 : start + 1].isalnum():
        start -= 1
    while end < len(sentence) and sentence[end - 1 : end + 1].isalnum():
        end += 1
    return start, end


def _any(patterns: Sequence[str], start: str) -> re.Pattern[str]:
    return re.compile(rf"{start}(?:{'|'.join(patterns)})")


def _words(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for whole words; a bare symbol such as `;` matches as it is."""
    return re.compile("|".join(rf"\b(?:{p})\b" if re.match(r"[\w(\\]", p) else p for p in patterns))
