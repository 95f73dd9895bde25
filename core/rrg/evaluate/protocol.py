"""Protocol `r2gen` (Chen et al., EMNLP 2020): how reports are cleaned, cut and made comparable before they are scored.

It reproduces the published convention as it is, oddities included (`3.5 cm` becomes `35 cm`), so that numbers compare.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from rrg.errors import UsageError

UNKNOWN = "<unk>"
PROTOCOLS = ("r2gen",)

# `:-\[` is a range, so : ; < = > ? @ and [ vanish too, and the hyphen stays.
_DELETED = re.compile(r"[.,?;*!%^&_+():-\[\]{}]")
_QUOTES = str.maketrans("", "", "\"/\\'")
_LIST_NUMBERS = [("1. ", "")]
_LIST_NUMBERS += [(f". {n}. ", ". ") for n in range(2, 6)]
_LIST_NUMBERS += [(f" {n}. ", ". ") for n in range(2, 6)]


@dataclass(frozen=True)
class Rules:
    """A data set's constants: vocabulary threshold, tokens kept (both ends count), and how runs shrink."""

    name: str
    min_count: int
    longest: int
    shrink: tuple[tuple[str, str], ...]


RULES = {
    "iu": Rules("iu", 3, 60, (("..", "."),) * 3),
    "mimic": Rules("mimic", 10, 100, (("\n", " "), *(("__", "_"),) * 7, *(("  ", " "),) * 6, *(("..", "."),) * 8)),
}
_RULES_OF = {"iuxray": "iu", "phantom": "iu", "mimiccxr": "mimic"}


def rules_for(card: dict[str, Any], name: str | None = None) -> Rules:
    """The rules called `name`, or those of the data set that a card names. Raises UsageError where neither is known."""
    if name is None:
        letters = re.sub(r"[^a-z0-9]", "", str(card["name"]).lower())
        name = next((rules for start, rules in _RULES_OF.items() if letters.startswith(start)), None)
        if name is None:
            raise UsageError(
                f"protocol r2gen has no cleaning rules for data set {card['name']!r}; "
                f"choose with --rules {' or --rules '.join(RULES)}"
            )
    if name not in RULES:
        raise UsageError(f"no cleaning rules are named {name!r}; there are: {', '.join(RULES)}")
    return RULES[name]


def clean(report: str, rules: Rules) -> str:
    """Lower-case sentences without marks, each ended by ` . `; empty text gives ` .`."""
    for old, new in (*rules.shrink, *_LIST_NUMBERS):
        report = report.replace(old, new)
    sentences = report.strip().lower().split(". ")
    return " . ".join(_DELETED.sub("", s.translate(_QUOTES).strip()) for s in sentences) + " ."


@dataclass(frozen=True)
class Protocol:
    """Rules and the training split's vocabulary: makes references and hypotheses into the strings that are scored."""

    rules: Rules
    vocabulary: frozenset[str]

    @classmethod
    def of(cls, train: Iterable[str], rules: Rules) -> "Protocol":
        """Keep the words that occur at least `rules.min_count` times in the training reports; add `<unk>`."""
        counts = Counter(word for report in train for word in clean(report, rules).split())
        return cls(rules, frozenset(word for word, n in counts.items() if n >= rules.min_count) | {UNKNOWN})

    @property
    def signature(self) -> str:
        """What was done, in one line, for every table."""
        r = self.rules
        return (
            f"r2gen|clean:{r.name}|vocab:train,min{r.min_count},{len(self.vocabulary)}|"
            f"refs:clean,unk,cut{r.longest - 1}|hyps:clean,uncut|"
            f"bleu+meteor+rouge_l+cider:pycocoevalcap{version('pycocoevalcap')},no-ptb"
        )

    def reference(self, report: str) -> str:
        """Cleaned, rare words as `<unk>`, cut: of `longest` tokens the start takes one, so `longest - 1` remain."""
        words = clean(report, self.rules).split()[: self.rules.longest - 1]
        return " ".join(word if word in self.vocabulary else UNKNOWN for word in words)

    def hypothesis(self, report: str) -> str:
        """Lower case with full stops apart, as published; raw text is cleaned first, as its references were.

        Text that is already in the protocol's form (what R2Gen generates, `<unk>` and cut sentences included) is
        left as it is. Line breaks of every kind become spaces.
        """
        text = " ".join(report.split())
        if not _is_clean(text):
            text = clean(text, self.rules)
        return re.sub(" +", " ", text.replace(".", " .")).lower().strip()


def _is_clean(text: str) -> bool:
    words = text.split(" ")
    return (
        "." in words
        and text == text.lower()
        and all(w in (".", UNKNOWN) or not (_DELETED.search(w) or w != w.translate(_QUOTES)) for w in words)
    )
