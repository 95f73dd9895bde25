"""The sections of a MIMIC-CXR report, told by their headers.

The rules are those of the data set's own `section_parser.py` and `create_section_files.py` (Johnson et al.,
https://github.com/MIT-LCP/mimic-cxr), which published work takes its findings from; written anew, with headers in mixed
case, without a colon or within a line added. What they decide:

- Where a section stands several times, the last one that has text counts.
- A joint FINDINGS AND IMPRESSION is an impression.
- The name of a view as a header (CHEST, TWO VIEWS) heads findings, where no FINDINGS has text.
- Prose without a header of its own is no section. Below INDICATION, HISTORY and COMPARISON it begins with the first
  blank line: it must not pass for what was known before the films were read.
- What stands before FINAL REPORT (a wet read, an addendum), and an addendum after the report, is not the report.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

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
_VIEWS = re.compile(r"\b(chest|portable|ribs|pa|ap|frontal|lateral|views?)\b")
_LONG = ("findings", "views", "impression")


def _pattern(names: list[str]) -> str:
    """Any of the names, the longest first, with any white space between their words."""
    ordered = sorted(names, key=len, reverse=True)
    return "|".join(re.escape(name).replace("\\ ", "[ \\t]+").replace("/", "[ \\t]*/[ \\t]*") for name in ordered)


_ANY = rf"(?=[A-Z])(?i:{_pattern(list(_KIND))})"
_CAPITALS = _pattern([name.upper() for name in _KIND])
_HEADER = re.compile(
    rf"^[ \t]*(?:(?P<start>{_ANY})[ \t]*(?::|$)"
    rf"|(?P<bare>{_CAPITALS})(?=[ \t]+(?:[\d_]|[A-Z]?[a-z]|A[ \t]))"
    r"|(?P<other>[A-Z][A-Z0-9 ()/,&.-]{1,80}):(?=\s|$)"
    r"|(?P<rule>_{10,})[ \t]*$)"
    rf"|(?<![A-Za-z])(?=[A-Z])(?:(?P<inside>{_CAPITALS})|(?:(?<=[.!?]\s)|(?<=[.!?]\s\s))(?P<sentence>{_ANY}))[ \t]*:",
    re.MULTILINE,
)
_FINAL = re.compile(r"^[ \t]*FINAL REPORT\b(?=\s*\S)", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


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
        new = _kind(header, kind)
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
    if text and kind:
        found[kind] = " ".join((_BLANK_LINE.split(text, 1)[0] if kind in _SHORT else text).split())


def _kind(header: re.Match[str], current: str) -> str | None:
    """The kind of section that begins at a header, "" for one that is not kept; None: it is text of the current one."""
    name = " ".join(header[header.lastgroup or 0].lower().split())
    if header.lastgroup == "rule":
        return ""
    if header.lastgroup != "other":
        return _KIND[re.sub(r" ?/ ?", "/", name)]
    kind = _other_kind(name)
    if kind == current or (current in _LONG and kind is None) or (current == "findings" and kind == "views"):
        return None
    return kind or ""


@lru_cache(1 << 12)
def _other_kind(name: str) -> str | None:
    """What an unlisted header in capitals means: by a word it contains, a view it names, or its misspelling."""
    for word in _CONTAINED:
        if word in name:
            return _KIND[word]
    if _VIEWS.search(name):
        return "views"
    close = get_close_matches(name, _KIND, 1, 0.85)
    return _KIND[close[0]] if close else None
