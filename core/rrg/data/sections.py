"""The sections of a MIMIC-CXR report, told by their headers.

The rules are those of the data set's own `section_parser.py` and `create_section_files.py` (Johnson et al.,
https://github.com/MIT-LCP/mimic-cxr), which published work takes its findings from; written anew, with headers in mixed
case, misspelt, without a colon or within a line added. What they decide:

- Where a section stands several times, the last one that states something counts.
- A joint FINDINGS AND IMPRESSION is an impression.
- The name of a view as a header (CHEST, TWO VIEWS) heads findings, where no FINDINGS has text; of several the last.
- Prose without a header of its own is no section. Below INDICATION, HISTORY and COMPARISON it begins with the first
  blank line: it must not pass for what was known before the films were read.
- A report in capitals has the words of the headers in its sentences (IN COMPARISON WITH THE PRIOR STUDY: …). Within
  findings and impressions such a word is a header only where no phrase leads up to it. The scripts cut there.
- What stands before FINAL REPORT (a wet read, an addendum), and an addendum after the report, is not the report.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from rrg.data.voids import stated

_KINDS = {
    "findings": ["findings", "finding"],
    "impression": [
        "impression", "impressions", "conclusion", "conclusions", "findings and impression", "findings and impressions",
        "findings & impression", "findings/impression", "impression and findings", "impression/findings",
    ],
    "indication": [
        "indication", "indications", "clinical indication", "clinical indications", "reason", "reason for exam",
        "reason for examination", "reason for this exam", "reason for this examination", "reason for study",
    ],
    "history": ["history", "clinical history", "patient history", "clinical information"],
    "comparison": [
        "comparison", "comparisons", "comparison exam", "comparison film", "comparison films", "comparison study",
        "comparison studies", "reference exam",
    ],
    "addendum": ["addendum", "final addendum"],
    "": [
        "examination", "exam", "type of examination", "type of exam", "study", "date", "procedure", "technique",
        "notification", "notifications", "recommendation", "recommendations", "recommendation(s)", "comment",
        "comments", "wet read", "wetread", "pfi", "pfi report", "provisional findings impression",
        "provisional findings impression (pfi)",
    ],
}  # fmt: skip
_KIND = {name: kind for kind, names in _KINDS.items() for name in names}
_SHORT = ("indication", "history", "comparison")
_CONTAINED = ("impression", "finding", "history", "comparison", "indication", "addendum")
_LONG = ("findings", "views", "impression")
# Nouns of sentences too, so what comes before them decides.
_NOUNS = frozenset(
    ["finding", "findings", "history", "comparison", "comparisons", "study", "exam", "examination", "date", "procedure"]
)
_LEADS = re.compile(
    r"(?:^|[^\w'’-])(?:a|an|the|this|that|these|those|todays|today['’]s|current|prior|previous|preceding|earlier|last|"
    r"recent|initial|outside|same|other|old|new|no|in|on|of|for|from|by|with|to|at|as|and|or|than|per|since)"
    r"[ \t]*\n?[ \t]*$",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"^(?:in|on|at|as|by|from|with|when|since|compared|the|this|these|there|no)\b|\b(?:is|are|was|were|has|have|with)\b"
    r"|^comparison to\b"
)
_VIEWS = re.compile(r"\b(?:chest|portable|pa|ap|frontal|lateral|views?)\b")
_PARTS = re.compile(r"\b(?:wall|tubes?|ports?|drains?|window|diameter|angles?|sulcus|ribs)\b(?!.*\bviews?\b)")


def _pattern(names: list[str]) -> str:
    """Any of the names, the longest first, with any white space between their words."""
    ordered = sorted(names, key=len, reverse=True)
    return "|".join(re.escape(name).replace("\\ ", "[ \\t]+").replace("/", "[ \\t]*/[ \\t]*") for name in ordered)


_ANY = rf"(?=[A-Z])(?i:{_pattern(list(_KIND))})"
_CAPITALS = _pattern([name.upper() for name in _KIND])
_FEW = r"[A-Z][A-Za-z]{3,15}(?:[ /&]{1,3}[A-Za-z]{2,15}){0,3}"
_HEADER = re.compile(
    rf"^[ \t]*(?:(?P<start>{_ANY})[ \t]*(?:[:;]|$)"
    rf"|(?P<bare>{_CAPITALS})(?:[ \t]*[-–—]+(?=\s)"
    r"|(?=[ \t]+(?:[\d_]|[A-Z]?[a-z]|A[ \t]+[a-z\d_]))(?![ \t]+(?:is|are|was|were|has|have|of|to|with|made)\b))"
    r"|(?P<other>[A-Z][A-Z0-9 ()/,&.-]{1,80}):(?=\s|$)"
    rf"|(?P<misspelt>{_FEW})[ \t]*(?::|$)"
    r"|(?P<rule>_{10,})[ \t]*$)"
    rf"|(?<![A-Za-z])(?=[A-Z])(?:(?P<inside>{_CAPITALS})"
    rf"|(?:(?<=[.!?]\s)|(?<=[.!?]\s\s))(?:(?P<sentence>{_ANY})|(?P<within>{_FEW})))[ \t]*:",
    re.MULTILINE,
)
_FINAL = re.compile(r"^[ \t]*FINAL REPORT\b(?=\s*\S)", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_TEXT = re.compile(r"\S")
_CAPITAL_WORD = re.compile(r"(?:^|\s)[^\sa-z\d_.!?]+\s*$")


@dataclass(frozen=True, slots=True)
class Sections:
    """A report's sections, each in one line with single spaces; empty where the report has none."""

    findings: str = ""
    impression: str = ""
    indication: str = ""
    history: str = ""
    comparison: str = ""


def read_sections(text: str) -> Sections:
    """The sections of a report. Each is a stretch of the report, word for word: `___` and list numbers stay."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if titles := list(_FINAL.finditer(text)):
        text = text[titles[-1].end() :]
    found: dict[str, str] = {}
    kind, start = "", 0
    for header in _HEADER.finditer(text):
        new = _kind(header, kind, start)
        if new is None:
            continue
        _keep(found, kind, text[start : header.start()])
        kind, start = new, header.end()
        if kind == "addendum" and not found.keys().isdisjoint(_LONG):
            break
    else:
        _keep(found, kind, text[start:])
    found.setdefault("findings", found.get("views", ""))
    return Sections(**{name: found.get(name, "") for name in Sections.__slots__})


def _keep(found: dict[str, str], kind: str, text: str) -> None:
    text = text.strip()
    if kind in _SHORT:
        text = _BLANK_LINE.split(text, 1)[0]
    if kind and stated(text, kind == "comparison"):
        found[kind] = " ".join(text.split())


def _kind(header: re.Match[str], current: str, start: int) -> str | None:
    """The kind of section that begins at a header, "" for one that is not kept; None: it is text of the current one.

    start: where the current section's text begins.
    """
    group = header.lastgroup or ""
    name = " ".join(header[group].lower().split())
    if group == "rule":
        return ""
    if group in ("misspelt", "within"):
        return _misspelt(name)
    empty = not _TEXT.search(header.string, start, header.start())
    if group == "other":
        return _of_other(name, current, empty)
    kind = _KIND[re.sub(r" ?/ ?", "/", name)]
    if current in _LONG and name in _NOUNS and _leads_up(header, group, start):
        return None
    if current in _LONG and group == "inside" and empty and kind not in _LONG:  # behind a header, on its line
        return None
    return kind


def _leads_up(header: re.Match[str], group: str, start: int) -> bool:
    """Whether the words before a noun make it a sentence's: an article, a preposition, or capitals on its line."""
    before = header.string[max(start, header.start() - 40) : header.start()]
    return bool(_LEADS.search(before) or (group == "inside" and _CAPITAL_WORD.search(before)))


def _of_other(name: str, current: str, empty: bool) -> str | None:
    """`_kind` of an unlisted header in capitals. empty: the current section has no text yet."""
    if current in _LONG and _PHRASE.search(name):
        return None
    kind = _other_kind(name)
    if kind == "views" and current in ("findings", "views"):
        part = "finding" in name or _PARTS.search(name)
        return None if part or (current == "findings" and not empty) else kind
    if kind == "views" and current == "impression" and empty:
        return None
    if kind == current or (current in _LONG and kind is None):
        return None
    return kind or ""


@lru_cache(1 << 12)
def _other_kind(name: str) -> str | None:
    """What an unlisted header in capitals means: by a word it contains, a view it names, or its misspelling.

    Of OTHER FINDINGS and the like the text is findings where no FINDINGS has text, as below a view.
    """
    if (kind := _misspelt(name)) is not None:
        return kind
    for word in _CONTAINED:
        if word in name:
            return "views" if word == "finding" else _KIND[word]
    return "views" if _VIEWS.search(name) or "ribs" in name else None


@lru_cache(1 << 12)
def _misspelt(name: str) -> str | None:
    """The kind of the listed header of as many words that this is nearly; None where it is none."""
    close = get_close_matches(name, [known for known in _KIND if known.count(" ") == name.count(" ")], 1, 0.85)
    return _KIND[close[0]] if close else None
