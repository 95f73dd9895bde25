"""What the words around a mention say of it: present, absent or uncertain."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

PRESENT, ABSENT, UNCERTAIN = 1, 0, -1
NOTHING = r"(?!)"
REACH = 400
"""Characters before and after a mention in which words deny or doubt it."""

_NAME = r"(?:(?!(?:no|not|without|with|is|are|was|were|has|have|but)\b)[\w-]++ ?+)"
_SIDE = r"[ (\[]*(?:(?:left|right|[lr])[ :-]+)?(?=\S)"
_VALUE = re.compile(  # "effusion, left: none", "edema (no)"; "effusion, consolidation or edema: none"
    rf"^ ?{_NAME}{{0,4}}(?:(?:is|are)\b)?(?: ?\([\w ,-]+\))? ?(?:[:=?]| - |[(\[]){_SIDE}"
    rf"|^(?:,? ?{_NAME}){{1,12}}[:=]{_SIDE}"
)
# "Removal of A and left B": of what is gone, "and" begins nothing new.
_GONE_TOGETHER = re.compile(r"\b((?:removal|resolution|clearing|withdrawal) of (?:(?!with\b|and\b)[\w-]++ ){1,6})and\b")


class Context:
    """Reads mentions in lower-case sentences by the tables [scope], [negation], [uncertainty], [value] and [organ].

    A list that a table lacks matches nothing, so a mode has the mechanisms whose words it names.
    """

    def __init__(self, table: dict[str, Any]) -> None:
        lists = {f"{name}.{key}": value for name in _TABLES for key, value in table.get(name, {}).items()}
        self._has = {name: words(lists.get(name, [NOTHING])) for name in (*_OPTIONAL, *lists)}
        self._is_strict = "scope" in table
        self._silent: int | None = table["mode"].get("silent_organ")
        self._stable: int | None = table["mode"].get("stable_organ")
        self._ends = lru_cache(maxsize=4)(self._ends_uncached)
        self._plain = lru_cache(maxsize=4)(self._plain_uncached)

    def certainty(self, sentence: str, start: int, end: int) -> int:
        """Present, absent or uncertain, by the words around sentence[start:end] within their scope."""
        has, text = self._has, self._plain(sentence)
        if (value := self._value(text, start, end)) is not None:
            return value
        before, after = self._scope("uncertainty", text, start, end)
        if has["scope.subject"].search(after):
            before = ""
        if has["uncertainty.first_before"].search(before) or self._said_behind("uncertainty.first_after", after):
            return UNCERTAIN
        if self._is_negated(text, start, end):
            return ABSENT
        if has["uncertainty.before"].search(before) or self._said_behind("uncertainty.after", after):
            return UNCERTAIN
        return PRESENT

    def organ(self, sentence: str, start: int, end: int) -> int | None:
        """What the sentence says of an organ: in its own comma-separated part first, then after it, then before it."""
        left, right = sentence.rfind(",", 0, start) + 1, sentence.find(",", end)
        right = len(sentence) if right < 0 else right
        has = self._has
        if more := has["organ.more"].match(sentence, right):
            right = more.end()
        for part in (sentence[left:right], sentence[end:], sentence[:start]):
            if has["organ.not_present"].search(part):
                return ABSENT
            present, absent = has["organ.present"].search(part), has["organ.absent"].search(part)
            stable = has["organ.stable"].search(part)
            if absent and (present is None or absent.start() < present.start()):
                return ABSENT
            if stable and (present is None or self._stable is not None):
                return self._stable
            if present:
                return UNCERTAIN if has["uncertainty.before"].search(part[: present.start()]) else PRESENT
        return self._silent

    def _is_negated(self, text: str, start: int, end: int) -> bool:
        before, after = self._scope("negation", text, start, end)
        return bool(self._has["negation.before"].search(before)) or self._said_behind("negation.after", after)

    def _said_behind(self, which: str, after: str) -> bool:
        """Whether `after` says it of the mention before it, not of another behind a comma: "effusion, A not seen"."""
        if (match := self._has[which].search(after)) is None:
            return False
        between = after[: match.start()]
        elsewhere = (between.count(",") == 1 and between.strip(" ,")) or ")," in between
        apart = elsewhere and not re.search(r"\b(?:and|or)\b", between)
        return not (self._is_strict and apart)

    def _value(self, text: str, start: int, end: int) -> int | None:
        """The label of a name by its value, as in `effusion (left): none`; None where it has none, or a plain one."""
        if not self._is_strict or (name := _VALUE.match(text[end : end + REACH])) is None:
            return None
        value = text[end + name.end() :]
        if self._has["value.absent"].match(value):
            if "," in name[0] and self._has["scope.end_before"].search(f", {text[:start]}"):
                return None  # "Mild edema, effusion: none."
            return PRESENT if self._has["value.other_side"].search(value) else ABSENT
        first = re.split(r"[,;/(]| with | and ", value, maxsplit=1)[0]
        doubts = ("uncertainty.first_before", "uncertainty.first_after", "uncertainty.before", "uncertainty.after")
        return UNCERTAIN if any(self._has[doubt].search(first) for doubt in doubts) else None

    def _scope(self, which: str, text: str, start: int, end: int) -> tuple[str, str]:
        """What stands before and after text[start:end], up to the words that end its scope."""
        before, both = self._ends(which, text)
        left = max((b for _, b in before + both if b <= start), default=0)
        right = min((a for a, _ in both if a >= end), default=len(text))
        after = text[end : min(right, end + REACH)]
        verbs = self._has["scope.verb"].finditer(after)
        next(verbs, None)  # the mention's own
        if other := next(verbs, None):
            after = after[: other.start()]
        return text[max(left, start - REACH) : start], after

    def _ends_uncached(self, which: str, text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Spans of the words that end a scope: those before a mention alone, those on both sides."""
        found = (
            _spans((self._has[f"{which}.{key}"], self._has[f"scope.{key}"]), text) for key in ("end_before", "end")
        )
        return next(found), next(found)

    def _plain_uncached(self, sentence: str) -> str:
        """The sentence with its phrases that deny no finding ("no change in") blotted out."""
        text = self._has["scope.void"].sub(lambda match: "_" * len(match[0]), sentence)
        return _GONE_TOGETHER.sub(r"\1nor", text) if self._is_strict and " of " in text else text


_TABLES = ("organ", "scope", "negation", "uncertainty", "value")
_OPTIONAL = (
    *(f"{name}.{key}" for name in ("scope", "negation", "uncertainty") for key in ("end", "end_before")),
    *("scope.verb", "scope.void", "scope.subject", "organ.more"),
)


def _spans(patterns: Sequence[re.Pattern[str]], text: str) -> list[tuple[int, int]]:
    return [match.span() for pattern in patterns for match in pattern.finditer(text)]


def words(patterns: Sequence[str]) -> re.Pattern[str]:
    """One expression for whole words; a bare symbol such as `;` matches as it is."""
    symbols = [p for p in patterns if not re.match(r"[\w(\\]", p)]
    whole = [p for p in patterns if p not in symbols]
    return re.compile("|".join([*([rf"\b(?:{'|'.join(f'(?:{p})' for p in whole)})\b"] if whole else []), *symbols]))
