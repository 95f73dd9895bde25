"""What a report says more than once within itself: sentences, and phrases over and over.

Clinical scores don't see it: a finding counts once, however often it is said.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_ENDS = re.compile(r"[.!?;]+(?=\s|$)|\n")  # not within 3.5
_WORD = re.compile(r"[^\W_]+(?:['.,/-][^\W_]+)*")
# A phrase of one word to eight, three times in a row: reports that people wrote hardly have it.
_LOOP = re.compile(r"(?<!\S)(\S+(?: \S+){0,7}?)(?: \1){2,}(?!\S)")


@dataclass(frozen=True)
class Repetition:
    """sentences: the share that is said more than once within its report. reports: how many reports have such a
    sentence, or a phrase three times in a row.
    """

    sentences: float
    reports: int

    @classmethod
    def of(cls, reports: Sequence[str]) -> "Repetition":
        """Of one report or more, as they were written."""
        counts = [Counter(_sentences(report)) for report in reports]
        again = sum(n for found in counts for n in found.values() if n > 1)
        return cls(again / max(1, sum(map(Counter.total, counts))), sum(bool(repeats(report)) for report in reports))


def repeats(report: str) -> list[str]:
    """The sentences that a report says more than once, then its phrases three times in a row; in lower case, bare."""
    sentences = _sentences(report)
    found = [sentence for sentence, n in Counter(sentences).items() if n > 1]
    loops = (match[1] for sentence in dict.fromkeys(sentences) for match in _LOOP.finditer(sentence))
    return list(dict.fromkeys([*found, *(loop for loop in loops if set(loop) != {"x"})]))  # XXXX: a name left out


def _sentences(report: str) -> list[str]:
    """Their words; without those that have no letter, such as the number of a list."""
    found = (" ".join(_WORD.findall(part)) for part in _ENDS.split(report.lower()))
    return [sentence for sentence in found if re.search(r"[^\W\d]", sentence)]
