"""Findings on reports and labels: what stands word for word in train, repeats, empty reports, lengths, prevalence.

A report is the findings section, which is what models are trained to write. Two are the same word for word if they are
equal in lower case with white space evened out (`as_is`), or as the evaluation protocol `r2gen` cleans them
(`cleaned`: without punctuation too), which is how scores count it. `with_impression` is the latter for findings and
impression together.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from rrg.check.findings import Finding, some
from rrg.data.study import SPLITS, Split, Study
from rrg.data.voids import stated
from rrg.errors import UsageError
from rrg.evaluate.protocol import RULES, Rules, clean, rules_for
from rrg.observations import OBSERVATIONS

COMMON = 0.05
"""Share of a split's reports in train from which scores are about memory too."""
SHIFT, ERRORS = 0.10, 3.0
"""A prevalence differs between train and test: by that much, and by so many standard errors."""
WAYS = {"as_is": "as they are", "cleaned": "cleaned", "with_impression": "with the impression"}


def rules_of(card: Mapping[str, Any]) -> Rules:
    """The protocol's rules for this data set; IU X-Ray's where it has none."""
    try:
        return rules_for(card)
    except UsageError:
        return RULES["iu"]


class Reports:
    """The reports of every study: hashes in both `WAYS`, words, and their numbers by split."""

    def __init__(self, studies: Sequence[Study], rules: Rules, progress: bool) -> None:
        self.studies, self.rules = studies, rules
        self.split = np.array([SPLITS.index(study.split) for study in studies], np.int8)
        self.words = np.array([len(study.findings.split()) for study in studies], np.int64)
        self.empty: list[int] = []
        self.hashes: dict[str, list[bytes]] = {way: [] for way in WAYS}
        bar = tqdm(studies, "reports", unit="report", leave=False, disable=None if progress else True)
        for i, study in enumerate(bar):
            cleaned = " ".join(clean(study.findings, rules).split())
            if not (stated(study.findings) and any(map(str.isalnum, cleaned))):
                self.empty.append(i)
            self.hashes["as_is"].append(_hash(" ".join(study.findings.lower().split())))
            self.hashes["cleaned"].append(_hash(cleaned))
            if study.impression:
                cleaned = " ".join(clean(f"{study.findings} {study.impression}", rules).split())
            self.hashes["with_impression"].append(_hash(cleaned))

    def of(self, split: Split) -> list[int]:
        return np.flatnonzero(self.split == SPLITS.index(split)).tolist()

    def numbers(self, split: Split) -> dict[str, Any]:
        """Of one split: distinct reports, how many stand in train, words a report."""
        own = self.of(split)
        known = {way: {self.hashes[way][i] for i in self.of("train")} for way in WAYS}
        quantiles = np.quantile(self.words[own], [0, 0.25, 0.5, 0.75, 1]).tolist() if own else [0] * 5
        return {
            "distinct_reports": len({self.hashes["as_is"][i] for i in own}),
            "in_train": None
            if split == "train"
            else {way: sum(self.hashes[way][i] in known[way] for i in own) for way in WAYS},
            "words": dict(zip(("min", "q1", "median", "q3", "max"), quantiles, strict=True)),
        }


def in_train(reports: Reports, numbers: Mapping[str, Mapping[str, Any]]) -> Finding:
    """Reports of test and val that stand word for word in train."""
    parts: list[str] = []
    shares = [0.0]
    found: dict[str, Any] = {}
    for split in SPLITS[:0:-1]:
        n = numbers[split]["studies"]
        if n:
            same = numbers[split]["in_train"]
            shares += [same["as_is"] / n, same["cleaned"] / n]
            found[split] = {"reports": n, **same}
            counts = [f"{same[way]:,} ({same[way] / n:.1%}) {name}" for way, name in WAYS.items()]
            parts.append(f"{split}, of {n:,}: {', '.join(counts)}")
    places: dict[tuple[str, bytes], list[int]] = {}
    for i in reports.of("train"):
        for way in ("as_is", "cleaned"):
            places.setdefault((way, reports.hashes[way][i]), []).append(i)
    groups = []
    for i in (i for split in SPLITS[:0:-1] for i in reports.of(split)):
        same_as = (places.get((way, reports.hashes[way][i])) for way in ("cleaned", "as_is"))
        if there := next(filter(None, same_as), None):
            groups.append([i, *there])
    if not groups:
        return Finding("reports_in_train", "reports in train", "ok", "none of test or val", numbers=found)
    return Finding(
        "reports_in_train", "reports in train", "warning" if max(shares) >= COMMON else "note",
        f"{'; '.join(parts)} stand word for word in train. Cleaned: as r2gen does, rules {reports.rules.name}",
        "Memory alone earns these: give their share beside every score.",
        [_same(reports.studies, group) for group in groups], numbers=found,
    )  # fmt: skip


def repeated(reports: Reports) -> Finding:
    """Reports that occur more than once within a split."""
    parts, examples = [], []
    numbers: dict[str, Any] = {}
    for split in SPLITS:
        own = reports.of(split)
        counts = Counter(reports.hashes["as_is"][i] for i in own)
        numbers[split] = {"reports": len(own), "distinct": len(counts)}
        if len(counts) < len(own):
            parts.append(f"{split} {len(counts):,} distinct of {len(own):,}")
            first = {reports.hashes["as_is"][i]: i for i in reversed(own)}
            examples += [
                (count, f"{split}, {count:,} times: {_short(reports.studies[first[text]].findings)}")
                for text, count in counts.most_common(20)
                if count > 1
            ]
    if not parts:
        return Finding("reports_repeated", "repeated reports", "ok", "none within a split", numbers=numbers)
    return Finding(
        "reports_repeated", "repeated reports", "note", "; ".join(parts),
        "The most frequent ones are what a model falls back to: compare with the best constant of rrg evaluate.",
        [text for _, text in sorted(examples, key=lambda e: -e[0])], numbers=numbers,
    )  # fmt: skip


def empty(reports: Reports) -> Finding:
    """Reports without a word, or with a program's word for no text alone."""
    found = [reports.studies[i] for i in reports.empty]
    if not found:
        return Finding("empty", "empty reports", "ok", "none, before or after cleaning", numbers={"reports": 0})
    return Finding(
        "empty", "empty reports", "error",
        f"{some(len(found), 'report')} without a letter or digit after cleaning, or of a void such as 'nan' and 'None'",
        "Leave these studies out: there is nothing to learn or to score.",
        [f"study {study.id} ({study.split}): {_short(study.findings)}" for study in found],
        numbers={"reports": len(found)},
    )  # fmt: skip


def prevalence(studies: Sequence[Study]) -> dict[str, dict[str, float]]:
    """Split → observation → share of its studies labelled present (0 for an empty split)."""
    shares: dict[str, dict[str, float]] = {}
    for split in SPLITS:
        own = [study for study in studies if study.split == split]
        shares[split] = {name: sum(s.labels[name] == 1 for s in own) / max(len(own), 1) for name in OBSERVATIONS}
    return shares


def shift(numbers: Mapping[str, Mapping[str, Any]]) -> Finding:
    """The largest difference of an observation's prevalence between train and test."""
    train, test = numbers["train"], numbers["test"]
    if not (train["studies"] and test["studies"]):
        return Finding("prevalence", "prevalence", "ok", "no train or no test to compare")
    pairs = {name: (train["prevalence"][name], test["prevalence"][name]) for name in OBSERVATIONS}
    large = [name for name, (p, q) in pairs.items() if _differs(p, train["studies"], q, test["studies"])]
    largest = max(OBSERVATIONS, key=lambda name: abs(pairs[name][1] - pairs[name][0]))
    p, q = pairs[largest]
    text = f"largest shift from train to test: {largest}, {p:.1%} to {q:.1%}" if p != q else "as in train in test"
    found = {"largest": largest, "train": p, "test": q, "shifted": large}
    if not large:
        return Finding("prevalence", "prevalence", "ok", text, numbers=found)
    return Finding(
        "prevalence", "prevalence", "warning", text,
        "Test is another mix of cases than train: look at the scores by observation and on the abnormal studies.",
        [f"{name}: {pairs[name][0]:.1%} of train, {pairs[name][1]:.1%} of test" for name in large], numbers=found,
    )  # fmt: skip


def _differs(p: float, n: int, q: float, m: int) -> bool:
    pooled = (p * n + q * m) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return abs(p - q) > max(SHIFT, ERRORS * error)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _same(studies: Sequence[Study], group: Sequence[int]) -> str:
    first, others = studies[group[0]], [studies[i].id for i in group[1:4]]
    more = f" and {len(group) - 4:,} more" if len(group) > 4 else ""
    return f"{first.split} {first.id} = train {', '.join(others)}{more}: {_short(first.findings)}"


def _short(text: str, longest: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 2]} …"
