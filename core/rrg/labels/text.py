"""A report's text as sentences: as the CheXpert labeler splits it, and as a reader does, lists and all."""

import re
from collections.abc import Iterator

LONGEST_SENTENCE = 1000
"""Characters; what runs on longer is no sentence, and is read in pieces so that time stays linear in the text."""
NARROWEST_COLUMN = 40
"""Characters; text without capitals that is set narrower than this is a list, not lines that an editor wrapped."""

# Patterns begin with the stop itself and look back from behind it, for a search is fast then.
_ABBREVIATION = r"(?<!\bdr.)(?<!\bvs.)(?<!\bapprox.)(?<!\bmr.)(?<!\bms.)"
_SENTENCE_END = re.compile(
    rf"[.!?\n](?:(?<!\n){_ABBREVIATION}(?<!\b\d.)[.!?]*(?=\s|$)|(?<=[a-z]{{2}}\.)(?=[a-z])|(?<=\n)\s*\n)"
)
_STOP = re.compile(
    rf"[.!\n](?:(?<=\n)|{_ABBREVIATION}(?<!\be\.g.)(?<!\bi\.e.)[.!]*(?=\s|$)|(?<=[a-z\d][a-z)]\.)(?=[a-z])|(?<=\.)\.+)"
)
_ANSWER = re.compile(
    r"\?+\s*(?=(?:yes|no|none|nil|absent|present|neg(?:ative)?|pos(?:itive)?|possibl[ey]|probabl[ey]|likely|unlikely|not|"
    r"resolved|stable|unchanged|improved|worse|trace|tiny|small|mild|minimal|moderate|large|severe|bilateral|cannot)\b"
    r"(?:,? (?:on|in|at|the|left|right|both|sided?|bases?|seen|present|identified|evidence|be|excluded|small|mild)\b)*"
    r"(?:-sided)?\s*(?:[.,;!)\n]|$))"
)
_QUESTION = re.compile(r"(?<=[\w)])\?+(?=\s|$)")
_INLINE_ITEM = re.compile(
    r"(?:^|(?<=[\s.,;:!?]))(?:#\d\b|\(?(?:\d{1,2}(?:[.)](?!\d)|\s?-\s)|[a-h]\)))[ ]*(?=[a-z])|\s[*•●▪]\s"
)
_BULLET = re.compile(
    r"(?:[-–—*•●○▪◦·>+→#]+(?=\s|[^\W\d])|\(?\d{1,2}(?:[.)/:](?!\d)|\s*[-–—](?=\s))|\(?(?:[a-z]|[ivx]{1,4})[.)](?=\s))\s*",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"(?:[,:(/&-]|\b(?:an?|the|of|in|on|at|to|for|from|by|with|without|and|or|nor|is|are|was|were|has|have|been|be|may|"
    r"could|than|which|that|this|there|via|per|(?P<value>no|not|any|focal|acute|pleural|definite|significant|large|small|"
    r"left|right|pulmonary|evidence|lower|upper|visible)))$",
    re.IGNORECASE,
)
_NAMED = re.compile(r"[:=?]| [-–—] ")
_RUN_ON = re.compile(r" (?<=[a-z] )(?=[A-Z][a-z]+\b)(?!Swan|Port|Hickman|Dob|Kerley|Foley|Dr|Mr|Ms)")
_SHORT_FORM = re.compile(r"\b(?:(?:w/o|s/p|r/o|h/o|c/w|d/t)\b|w/(?=[ a-z]))")
_IN_FULL = {
    "w/o": "without", "w/": "with ", "s/p": "status post", "r/o": "rule out", "h/o": "history of",
    "c/w": "consistent with", "d/t": "due to",
}  # fmt: skip
_DASH = re.compile(r"\s*[–—→]\s*|\s+[-=]+>?\s+|(?<=\w)--(?=\w)")
_LEADERS = re.compile(r"[\s:]*(?:[\t|]+|\.{4,}|(?<=\s)\.{3,}(?=\s))\s*")
_HEAD_OF_LIST = re.compile(
    r"\b(no|of|for|without|out|excluded|absent|there (?:is|are))(?: the following)?\s*:\s*(?=\w)"
)
_NONE_OF = re.compile(r"\bnone of the following [\w ]{0,40}:\s*|(?:^|(?<=[.;\n]) ?)absent:\s*(?=[\w-]+[, ])")
_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_CHECKED = re.compile(r"\[([ x]?)\]\s*([^\[\]\n]+?)\s*(?=\[|\n|$)")
_WORD = re.compile(r"\w")
_NOT_SEEN_HERE = re.compile(
    r"^(?:(?:clinical |patient |relevant )?(?:history|information|indications?|details|question|data)|comparisons?|"
    r"technique|referral|reason for [\w ]+)\s*:"
)


def sentences(report: str) -> list[str]:
    """Lower-case sentences with single spaces; `a/b` reads `a or b`, and a lone line break does not end a sentence."""
    return _pieces(_SENTENCE_END.split(_or_for_slash(report.lower())))


def statements(report: str) -> list[str]:
    """The same for a reader: what stands on a line or in a list by itself is a sentence, and `?` stays in its own.

    A line break ends a sentence unless the line was wrapped; bullets, `1.`, `2)`, `(3)` and `a.` always begin one. A
    list's own heading ("Negative for:") is said of each item. What a study was done for and compared with is left out.
    """
    text = report.strip().replace("**", "").replace('"', "")
    text = _BREAK.sub("\n", text) if "<" in text else text
    text = "\n".join(_unwrapped(text.splitlines())) if "\n" in text or "\r" in text else _without_bullet(text)
    text = _RUN_ON.sub(_break_unless_it_goes_on, text).lower()
    if "/" in text:
        text = _SHORT_FORM.sub(lambda match: _IN_FULL[match[0]], text).replace(
            " / ", "; " if ":" in text or "(" in text else " or "
        )
    if "-" in text or not text.isascii():
        text = _DASH.sub(" - ", text)
    if "\t" in text or "|" in text or "..." in text:
        text = _LEADERS.sub(": ", text)
    if text.startswith(("[ ]", "[]", "[x]")):
        text = _CHECKED.sub(lambda match: f"{match[2]}: {'yes' if match[1] == 'x' else 'no'}\n", text)
    if ":" in text:
        text = _HEAD_OF_LIST.sub(r"\1 ", _NONE_OF.sub("no ", text))
    if "?" in text:
        text = _QUESTION.sub(" ?\n", _ANSWER.sub(": ", text))
    text = re.sub(r"(?<=\d) \. (?=\d)", ".", text) if " . " in text else text
    text = _INLINE_ITEM.sub("\n", _or_for_slash(text))
    pieces = _pieces(_STOP.split(text))
    return [s for s in pieces if (s[0].isalnum() or _WORD.search(s)) and not (":" in s and _NOT_SEEN_HERE.match(s))]


def _or_for_slash(text: str) -> str:
    return re.sub(r"(?<=[a-z])/(?=[a-z])", " or ", text.replace("and/or", "or")) if "/" in text else text


def _pieces(parts: list[str]) -> list[str]:
    whole = [s for part in parts if (s := " ".join(part.split()))]
    return [s[i : i + LONGEST_SENTENCE] for s in whole for i in range(0, len(s), LONGEST_SENTENCE)]


def _break_unless_it_goes_on(match: re.Match[str]) -> str:
    """A capital behind a finished phrase begins a sentence ("is seen No effusion")."""
    return " " if _GOES_ON.search(match.string, max(0, match.start() - 20), match.start()) else "\n"


def _without_bullet(line: str) -> str:
    return line[match.end() :] if (match := _BULLET.match(line)) else line


def _unwrapped(lines: list[str]) -> Iterator[str]:
    """The lines without bullets, with those joined that an editor wrapped and each item under its list's heading."""
    lines = [line.strip() for line in lines]
    whole = " ".join(lines)
    has_case = whole not in (whole.upper(), whole.lower())
    width = max(map(len, lines))
    is_prose = width >= NARROWEST_COLUMN and any(line.endswith((".", ";")) for line in lines)
    heading = held = ""
    length = 0  # of the last line of what is held
    for line in lines:
        bullet = _BULLET.match(line)
        first = line.split(" ", 1)[0]
        wrapped = is_prose and length + 1 + len(first) > width
        if has_case:
            wrapped = first[:1].islower() or (wrapped and not first.istitle())
        cut_off = _GOES_ON.search(held, max(0, len(held) - 20))
        if cut_off and cut_off["value"] and _NAMED.search(held, max(0, len(held) - 100)):
            cut_off = None  # "Effusion: small left" is whole.
        goes_on = held and line and not bullet and held[-1] not in ".!?;" and len(held) < LONGEST_SENTENCE
        if goes_on and (wrapped or cut_off):
            held, length = f"{held} {line}", len(line)
            continue
        if bullet and held.endswith(":"):
            heading, held = held, ""
        elif line and not bullet:
            heading = ""
        if held:
            yield held
        item = line[bullet.end() :] if bullet else line
        held, length = f"{heading} {item}" if bullet and heading else item, len(line)
    if held:
        yield held
