"""Protocols by name: how reports are cleaned, cut and made comparable before they are scored.

They reproduce published conventions as they are, oddities included (`3.5 cm` becomes `35 cm`), so that numbers compare:

- `r2gen`: Chen et al., EMNLP 2020 (modules/tokenizers.py of its code). References lose rare words and are cut.
- `r2gengpt`: Wang et al., Meta-Radiology 2023 (dataset/data_helper.py), also of MambaXray-VL and R2GenCSR: on MIMIC-CXR
  and CheXpert Plus colons, angle brackets, `@` and `=` stay; on IU X-Ray as R2Gen. No vocabulary.
- `raw`: nothing but runs of white space made one space.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from rrg import __version__
from rrg.data.study import Study
from rrg.errors import UsageError

UNKNOWN = "<unk>"
PROTOCOLS = ("r2gen", "r2gengpt", "raw")
SECTIONS = ("findings", "impression", "findings+impression")

_QUOTES = str.maketrans("", "", "\"/\\'")
_LIST_NUMBERS = [("1. ", "")]
_LIST_NUMBERS += [(f". {n}. ", ". ") for n in range(2, 6)]
_LIST_NUMBERS += [(f" {n}. ", ". ") for n in range(2, 6)]


@dataclass(frozen=True)
class Rules:
    """A data set's constants: vocabulary threshold, tokens kept (both ends count), how runs shrink, marks deleted.

    `apart`: colons are set apart, after runs have shrunk. By default they vanish with `; < = > ? @` and `[`, since
    `:-\\[` in the published expression is a range; the hyphen stays.
    """

    name: str
    min_count: int
    longest: int
    shrink: tuple[tuple[str, str], ...]
    deleted: re.Pattern[str] = re.compile(r"[.,?;*!%^&_+():-\[\]{}]")
    apart: bool = False


RULES = {
    "iu": Rules("iu", 3, 60, (("..", "."),) * 3),
    "mimic": Rules("mimic", 10, 100, (("\n", " "), *(("__", "_"),) * 7, *(("  ", " "),) * 6, *(("..", "."),) * 8)),
}
_GPT = replace(RULES["mimic"], deleted=re.compile(r"[.,?;*!%^&_+()\[\]{}]"), apart=True)
_RULES_BY_PROTOCOL = {"r2gen": RULES, "r2gengpt": {"iu": RULES["iu"], "mimic": _GPT}}
_RULES_OF = {"iuxray": "iu", "phantom": "iu", "mimiccxr": "mimic", "chexpertplus": "mimic"}


def rules_for(card: Mapping[str, Any] | None, name: str | None = None, protocol: str = "r2gen") -> Rules:
    """The rules called `name`, or those of the data set that a card names. Raises UsageError where neither is known."""
    known = _RULES_BY_PROTOCOL[protocol]
    if name is None and card is None:
        raise UsageError(
            f"protocol {protocol} cleans by data set, and no data are given: add --data DIR, "
            f"or --rules {' or --rules '.join(known)}"
        )
    if name is None and card is not None:
        letters = re.sub(r"[^a-z0-9]", "", str(card["name"]).lower())
        name = next((rules for start, rules in _RULES_OF.items() if letters.startswith(start)), None)
        if name is None:
            raise UsageError(
                f"protocol {protocol} has no cleaning rules for data set {card['name']!r}; "
                f"choose with --rules {' or --rules '.join(known)}"
            )
    if name not in known:
        raise UsageError(f"no cleaning rules are named {name!r}; there are: {', '.join(known)}")
    return known[name]


def clean(report: str, rules: Rules) -> str:
    """Lower-case sentences without marks, each ended by ` . `; empty text gives ` .`."""
    for old, new in (*rules.shrink, *_LIST_NUMBERS):
        report = report.replace(old, new)
    if rules.apart:
        report = report.replace(":", " :")
    sentences = report.strip().lower().split(". ")
    return " . ".join(rules.deleted.sub("", s.translate(_QUOTES).strip()) for s in sentences) + " ."


def section_of(study: Study, section: str) -> str:
    """A study's text that is to be generated; empty where the study has none."""
    parts = {"findings": study.findings, "impression": study.impression}
    return " ".join(text for name in section.split("+") if (text := parts[name].strip()))


@dataclass(frozen=True)
class Protocol:
    """A protocol on one data set: makes references and hypotheses into the strings that are scored.

    `rules` is None for `raw`; `vocabulary` (the training split's) is None where the protocol uses none or no training
    split is given.
    """

    rules: Rules | None
    vocabulary: frozenset[str] | None
    name: str = "r2gen"
    target: str = "findings"

    @classmethod
    def of(
        cls, train: Iterable[str] | None, rules: Rules | None, name: str = "r2gen", target: str = "findings"
    ) -> "Protocol":
        """`r2gen` keeps words that occur `rules.min_count` times or more in the training reports, and `<unk>`."""
        if name != "r2gen" or rules is None or train is None:
            return cls(rules, None, name, target)
        counts = Counter(word for report in train for word in clean(report, rules).split())
        kept = frozenset(word for word, n in counts.items() if n >= rules.min_count)
        return cls(rules, kept | {UNKNOWN}, name, target)

    @property
    def signature(self) -> str:
        """What was done, in one line, for every table."""
        scorers = f"bleu+meteor+rouge_l+cider:pycocoevalcap{version('pycocoevalcap')},no-ptb"
        ends = f"target:{self.target}|{scorers}|rrg{__version__}"
        if self.rules is None:
            return f"{self.name}|clean:none,one-space|vocab:none|refs:uncut|hyps:uncut|{ends}"
        r, vocabulary, refs = self.rules, "vocab:none", "clean,uncut"
        if self.name == "r2gen":
            vocabulary = "vocab:none,no-train"
            if self.vocabulary is not None:
                vocabulary = f"vocab:train,min{r.min_count},{len(self.vocabulary)}"
            refs = f"clean,{'unk,' if self.vocabulary is not None else ''}cut{r.longest - 1}"
        return f"{self.name}|clean:{r.name}|{vocabulary}|refs:{refs}|hyps:clean,uncut|{ends}"

    def reference(self, report: str) -> str:
        """As the protocol scores it.

        `r2gen`: cleaned, rare words as `<unk>`, cut: of `longest` tokens the start takes one, so `longest - 1` remain.
        """
        if self.rules is None:
            return " ".join(report.split())
        text = clean(report, self.rules)
        if self.name == "r2gengpt":
            return _one_line(text)
        words = text.split()[: self.rules.longest - 1]
        return " ".join(w if self.vocabulary is None or w in self.vocabulary else UNKNOWN for w in words)

    def hypothesis(self, report: str) -> str:
        """Raw text is cleaned as its references were; text already in the protocol's form is left as it is.

        `r2gen` also sets full stops apart and lower-cases, as published. Line breaks of every kind become spaces. A
        report without text stays empty.
        """
        text = _one_line(report)
        if self.rules is None or not text:
            return " ".join(text.split())
        if self.name == "r2gen":
            text = " ".join(text.split())
        if not _is_clean(text, self.rules):
            text = clean(text, self.rules).strip()
        return text if self.name == "r2gengpt" else re.sub(" +", " ", text.replace(".", " .")).lower().strip()


def protocol_for(
    name: str, card: Mapping[str, Any] | None, rules: str | None, train: Iterable[str] | None, target: str
) -> Protocol:
    """The protocol called `name` for a data set's card and training reports; both are None where no data are given.

    Raises UsageError for an unknown name or rules.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol is named {name!r}; there are: {', '.join(PROTOCOLS)}")
    if name not in _RULES_BY_PROTOCOL:
        if rules is not None:
            raise UsageError(f"protocol {name} cleans nothing: leave --rules out")
        return Protocol.of(train, None, name, target)
    return Protocol.of(train, rules_for(card, rules, name), name, target)


def _one_line(text: str) -> str:
    """Each white-space character a space; none at the ends."""
    return re.sub(r"\s", " ", text).strip()


def _is_clean(text: str, rules: Rules) -> bool:
    words = text.split(" ")
    return "." in words and text == text.lower() and all(w in (".", UNKNOWN) or not _has_marks(w, rules) for w in words)


def _has_marks(word: str, rules: Rules) -> bool:
    marked = rules.deleted.search(word) or word != word.translate(_QUOTES)
    return bool(marked) or (rules.apart and ":" in word[1:])
