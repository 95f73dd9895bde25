"""Key phrases of a report for S2D-Align's third stage: extracted by rules, or composed of RadGraph's annotation.

The paper composes the entities of RadGraph (Jain et al., NeurIPS 2021 Datasets and Benchmarks) whose relation is
positive into short descriptions, which a language model refines. `key_phrases` stands in for RadGraph where its weights
are not at hand: the lexicon is `phrases.toml`, and the rule-based labeler says what is negated or uncertain.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from rrg.data.study import describe
from rrg.errors import DataError
from rrg.labels.context import PRESENT
from rrg.labels.rules import RuleLabeler
from rrg.labels.text import sentences

MAX_BYTES = 2 << 30
SIDES = {"left", "right", "bilateral"}
_LABELER = RuleLabeler("strict")
_TABLE = tomllib.loads((files("rrg.data") / "phrases.toml").read_text(encoding="utf-8"))
REFINE: str = _TABLE["refine"]["prompt"]
"""Asks a language model to refine `{phrases}`, a line each. Wording and examples are ours: the paper's prompt is a
figure that its text lacks, and its examples are drawn for each report from a pool that three radiologists wrote."""

_LEXICON: dict[str, str] = {word: table["letter"] for table in _TABLE.values() for word in table.get("words", [])}
_SEVERAL = "|".join(sorted((word for word in _LEXICON if " " in word), key=len, reverse=True))
# A measure is one word, however it is written: 1.5-cm, 3 x 4 mm, 1.5- to 2-cm, 10 %, .5 cm-thick.
_NUMBER = r"(?:\d+(?:[.,]\d+)?|(?<![\w.])[.,]\d+)"
_UNIT = "(?:mm|cm|ml|cc|millimet(?:er|re)s?|centimet(?:er|re)s?|inch(?:es)?|percent|%)"
_MEASURE = (
    f"{_NUMBER}(?:(?: ?-?{_UNIT})? ?-?(?: (?:by|to|or)|[x×/–-]) ?{_NUMBER}){{0,3}} ?-? ?{_UNIT}(?!\\w)(?:-[a-z]+)*"
)
_WORD = re.compile(rf"\b(?:{_SEVERAL})s?\b|{_MEASURE}|\d+(?:\.\d+)+(?:-[a-z][\w'-]*)?|\w[\w'-]*|[^\w\s]")
_STOP = re.compile(rf"\b(?:{'|'.join(_TABLE['stop']['patterns'])})\b")

# A phrase is a regular expression over the letters of a sentence's words, as phrases.toml gives them; X is any other.
_AND = "(?<=[MB])C(?=[MBA])"
_NOUN = f"(?>(?:[MBAZFH]|{_AND})*[AZ](?:CZ)*)(?!H)"
_SUBJECT = f"{_NOUN}(?:P{_NOUN})?"
_PLACE = f"[VF]*P(?:[PVFM]*P)?V*{_NOUN}(?:C{_NOUN}(?![VQKROG]))?"
_TAIL = f"(?:{_NOUN}(?=[,XCUD]|$)|(?:{_PLACE}){{0,2}})(?:[VF]*D)?"
_PHRASE = re.compile(
    "T[QKMBAZFH]*[ORG]"  # what is referred to was said before
    f"|(?P<finding>(?:[QKMBAZFH]|{_AND})*(?:O[ORG]*|[KBA][MFH]*[RG]+|R(?={_PLACE}|{_NOUN}(?:[,XCUD]|$)))){_TAIL}"
    f"|(?<![PFHMB])(?P<subject>{_SUBJECT}(?:(?:,C?|C)(?:{_SUBJECT}|[MBF]*H+))*)"
    "(?P<states>(?:[FPM]*+V[VFPM]*+[QK]|[FPM]*+[QK](?![MBKQFC]*[AROG]))(?P<measure>(?:F*P?F*Z(?:CZ)*)?)"
    "(?:F*[,CU]+[VFM]*[QK](?![MBKQFC]*[AROGZ]))*)"
    f"|[MBF]*(?:[QK]C(?=[MF]*[QK]))?[MF]*(?P<state>[QK])[QKMBFH]*{_NOUN}(?:C{_NOUN}(?![VQK]))?{_TAIL}"
)
_STATE, _PLACES = re.compile("M*[QK]"), re.compile(_SUBJECT)
# RadGraph-XL's text has its marks as tokens: "3 . 5 cm", "right - sided", "port - a - cath", "10 %".
_TOKEN_MARK = re.compile(
    r"(?<=\d) (?=[.,] \d)|(?<=\d [.,]) (?=\d)|(?<=\w) (?=[-–/'’] \w)|(?<=\w [-–/'’]) (?=\w)|(?<=\d) (?=%)"
)
_LABEL = "^(OBS|ANAT)-(DP|DA|U)$|^(Observation|Anatomy)(::measurement)?::(definitely (present|absent)|uncertain)$"
_BULLET = re.compile(r"(?:\s*(?:[-*•–]|\(?\d{1,3}[.):](?!\d)))*\s*")


class _Word(NamedTuple):
    text: str
    letter: str
    start: int
    end: int


def key_phrases(report: str) -> list[str]:
    """Short lower-case phrases of what a report says is present, in the order of the text, each once.

    A finding comes with its modifiers and anatomy in the text's order, without articles and verbs ("opacity in left
    lower lobe"), a state before the anatomy that it is said of ("enlarged heart"). "Normal" and "clear" are present, as
    in RadGraph. What is negated, uncertain, advised or not in the lexicon gives nothing.
    """
    return list(dict.fromkeys(phrase for sentence in sentences(report) for phrase in _of_sentence(sentence)))


@lru_cache(maxsize=50_000)
def _of_sentence(sentence: str) -> tuple[str, ...]:
    stop = _STOP.search(sentence)
    found = _WORD.finditer(sentence, 0, stop.start() if stop else len(sentence))
    words = [_Word(match[0], _letter(match[0]), *match.span()) for match in found]
    phrases: list[str] = []
    for match in _PHRASE.finditer("".join([word.letter for word in words])):
        head = max(match.end("finding"), match.end("state")) - 1
        if match["subject"]:
            phrases += _states(sentence, words, match)
        elif head >= 0 and re.search("[ABORG]", match[0]) and _is_present(sentence, words[head]):
            phrases.append(_join(words[slice(*match.span())]))
    return tuple(phrases)


@lru_cache(maxsize=1 << 14)
def _letter(word: str) -> str:
    if letter := _LEXICON.get(word) or (len(word) > 3 and _LEXICON.get(word.removesuffix("s"))):
        return letter
    if re.fullmatch(r"[ctls]\d{1,2}(?:-[ctls]?\d{1,2})?", word):  # a vertebra
        return "A"
    _, hyphen, last = word.rpartition("-")
    return "M" if re.match(r"[.,]?\d", word) else _letter(last) if hyphen and last else "X"


def _states(sentence: str, words: Sequence[_Word], match: re.Match[str]) -> Iterator[str]:
    """Each state before each place that it is said of; what the sentence denies before the last comma is no matter."""
    comma = sentence.rfind(",", 0, words[match.start()].start) + 1
    places = [m for m in _PLACES.finditer(match.string, *match.span("subject")) if re.search("[AB]", m[0])]
    for state in _STATE.finditer(match.string, *match.span("states")):
        if _is_present(sentence, words[state.end() - 1], comma):
            for place in places:
                measure = [w for w in words[slice(*match.span("measure"))] if w.letter != "P" and place[0][-1] != "Z"]
                yield _join([*words[slice(*state.span())], *words[slice(*place.span())], *measure])


def _join(words: Sequence[_Word]) -> str:
    return " ".join([word.text for word in words if word.letter not in "FVH"])


def _is_present(sentence: str, word: _Word, since: int = 0) -> bool:
    return _LABELER.certainty(sentence[since:], word.start - since, word.end - since) == PRESENT


class _Entity(BaseModel):
    tokens: str
    label: Annotated[str, Field(pattern=_LABEL)]
    start_ix: int
    end_ix: int
    relations: list[tuple[str, str]]

    @property
    def is_place(self) -> bool:
        return self.label.startswith("A")

    def targets(self, *names: str) -> list[str]:
        return [target for name, target in self.relations if name in names]


class _Annotation(BaseModel):
    text: str = ""
    entities: dict[str, _Entity]


def phrases_of_annotation(annotation: Mapping[str, Any]) -> list[str]:
    """One phrase for each observation of a RadGraph annotation that is definitely present, in the order of the text.

    It holds the observation, what modifies it, and the anatomy it is located at with what modifies that, if present.
    What modifies an observation, and a measurement, give none of their own. Each part keeps the text's order. Anatomy
    right beside the observation stays there ("small left pleural effusion"), anatomy of a state or before a verb comes
    last ("enlarged heart"), and later anatomy is joined by the text's preposition or else by "in" ("opacity in left
    lower lobe"). Raises DataError for what has not RadGraph's labels ("OBS-DP") or RadGraph-XL's ("Observation::...").
    """
    try:
        parsed = _Annotation.model_validate(annotation)
    except ValidationError as error:
        raise DataError(f"expected a RadGraph annotation, text and entities: {describe(error)[:300]}") from None
    entities, tokens = parsed.entities, parsed.text.lower().split()
    ordered = sorted(entities.items(), key=lambda item: item[1].start_ix)
    present = {name: entity for name, entity in ordered if entity.label.endswith(("-DP", "definitely present"))}
    phrases = [
        _compose(present, name, tokens)
        for name, entity in present.items()
        if not (entity.is_place or "measurement" in entity.label)
        and all(entities[target].is_place for target in entity.targets("modify") if target in entities)
    ]
    return list(dict.fromkeys(phrase for phrase in phrases if _content(phrase)))


def _compose(present: Mapping[str, _Entity], name: str, tokens: Sequence[str]) -> str:
    head, observation = present[name], _modified(present, [name])
    places = [target for target in head.targets("located_at", "modify") if target in present]
    for place in places:
        places += [target for target in present[place].targets("modify") if target in present and target not in places]
    anatomy = [entity for entity in _modified(present, places) if entity.is_place and entity not in observation]
    lead = [e for e in anatomy if e.start_ix < observation[0].start_ix]
    later = [e for e in anatomy if e.start_ix > head.start_ix]
    is_state = _letter(head.tokens.lower() or "-") in "QK"
    apart = lead if lead and (is_state or lead[-1].end_ix + 1 < observation[0].start_ix) else []
    near = [e for e in present.values() if e in observation or (e in anatomy and e not in [*apart, *later])]
    phrase = f"{_text(near, tokens)} {_text(apart, tokens)}"
    if later:
        between = [token for token in tokens[head.end_ix + 1 : later[0].start_ix] if _letter(token) == "P"]
        joint = "" if is_state or later[0].start_ix <= head.end_ix + 1 else "in"
        phrase += f" {between[-1] if between else joint} {_text(later, tokens)}"
    return " ".join(phrase.split())


def _modified(present: Mapping[str, _Entity], names: Sequence[str]) -> list[_Entity]:
    """These entities and all that modify them, in the order of the text."""
    found = list(names)
    for name in found:
        found += [other for other, entity in present.items() if name in entity.targets("modify") and other not in found]
    return [entity for name, entity in present.items() if name in found]


def _text(entities: Sequence[_Entity], tokens: Sequence[str]) -> str:
    joints = [_joint(a, b, tokens) for a, b in pairwise(entities)]
    whole = " ".join(joint + entity.tokens.lower() for joint, entity in zip(["", *joints], entities, strict=False))
    return _TOKEN_MARK.sub("", whole)


def _joint(a: _Entity, b: _Entity, tokens: Sequence[str]) -> str:
    """What of the text stands between two parts of a phrase: "and", or the hyphen of a word in two entities."""
    between = tokens[a.end_ix + 1 : b.start_ix]
    first, last = a.tokens.lower().rpartition(" ")[2], b.tokens.lower().partition(" ")[0]
    if between == ["and"] or (between == ["-"] and (f"{first}-{last}" in _LEXICON or first.isdigit())):
        return f"{between[0]} "
    return ""


def _content(phrase: str) -> set[str]:
    """The words that name a finding or a place, or that the lexicon does not know."""
    return {word for word in re.findall(r"\w[\w'-]*", phrase) if _letter(word) not in "FHPCVMTUD"}


def read_annotations(path: Path) -> dict[str, list[str]]:
    """Phrases by report from a JSON file of RadGraph annotations by report key, or by split or source and then key.

    Of a key that is a path ("p10/p10000032/s50414267.txt", as PhysioNet's) the stem counts ("s50414267"); others stay,
    such as "0" of the `radgraph` package. Of two radiologists' annotations (RadGraph's test set) the first is read.
    A list of annotations (CheXpert Plus's radgraph-XL-annotations/section_findings.json) has no keys: `text_key` of
    their text takes their place.
    Raises DataError for a file that is missing, larger than MAX_BYTES, not JSON or of another form, for a label that
    neither RadGraph nor RadGraph-XL has, and for two reports of one name.
    """
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: no JSON file of RadGraph annotations of at most {MAX_BYTES >> 30} GiB")
    try:  # annotations become phrases while they are read: those of all MIMIC-CXR at once would fill many GiB
        content = json.loads(path.read_bytes(), object_hook=_phrases_or_error)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if isinstance(content, list) and content:
        content = _by_text(content)
    reports: dict[str, list[str]] = {}
    groups = content.items() if isinstance(content, dict) else [("", content)]
    for key, value in [pair for k, v in groups for pair in (v.items() if isinstance(v, dict) else [(k, v)])]:
        if not isinstance(value, _Annotated):
            problem = value if isinstance(value, DataError) else f"expected an annotation, not {type(value).__name__}"
            raise DataError(f"{path}: report {key!r}: {problem}")
        name = PurePosixPath(key).stem if "/" in key or key.endswith(".txt") else key
        if name in reports:
            raise DataError(f"{path}: two reports are named {name!r}")
        reports[name] = value.phrases
    return reports


def text_key(text: str) -> str:
    """A report by its letters and digits alone, since RadGraph's text is split into tokens."""
    return re.sub(r"[\W_]", "", text).lower()


class _Annotated(NamedTuple):
    text: str
    phrases: list[str]


def _by_text(found: list[Any]) -> dict[str, Any]:
    """An annotation, or the `radgraph` package's {"0": annotation}, for each text; of the same texts the first."""
    bare = [item["0"] if isinstance(item, dict) and item.keys() == {"0"} else item for item in found]
    keys = [text_key(item.text) if isinstance(item, _Annotated) else str(number) for number, item in enumerate(bare)]
    return dict(zip(reversed(keys), reversed(bare), strict=True))


def _phrases_or_error(found: dict[str, Any]) -> Any:
    if isinstance(found.get("labeler_1"), _Annotated | DataError):
        return found["labeler_1"]
    if "entities" not in found:
        return found
    try:
        phrases = phrases_of_annotation(found)
        return _Annotated(found["text"], phrases)
    except DataError as error:
        return error


def parse_refined(text: str, given: Sequence[str]) -> list[str]:
    """A language model's answer to REFINE: a phrase for each given, lower case, without bullets, numbers, duplicates.

    Line i answers given[i], blank lines apart. The given phrase stays where its line is missing or empty, denies or
    doubts, brings a side of its own, or shares no word with it, modifiers and particles aside: what was made up is no
    target.
    """
    lines = text.strip("\n").splitlines()
    if len(lines) != len(given):
        lines = [line for line in lines if line.strip() and not line.rstrip().endswith(":")]
    phrases = list(given)
    for i, line in enumerate(lines[: len(given)]):
        phrase = " ".join(_BULLET.sub("", line.lower(), count=1).strip(" \t.;\"'`*").split())
        known = bool(_content(phrase) & _content(given[i])) and SIDES & set(phrase.split()) <= set(given[i].split())
        if known and _is_present(phrase, _Word(phrase, "X", len(phrase), len(phrase))):
            phrases[i] = phrase
    return list(dict.fromkeys(phrases))
