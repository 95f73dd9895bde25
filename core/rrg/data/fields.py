"""Which field of someone's file is the id, which the generated report and which the reference, by its name.

A name is read by its words: `gt_report`, `groundTruth` and `Reference Text` say the same. What could be two things is
refused.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rrg.data.documents import KEY
from rrg.errors import DataError


def _any(words: str) -> frozenset[str]:
    return frozenset(words.split())


# By rank: of several, the first rank that is there counts. Patients are not among them: they have many studies.
IDS = (
    _any("id"),
    frozenset({KEY.replace(" ", "")}),
    _any("studyid uid study caseid case examid exam reportid accession accessionnumber sampleid"),
    _any("imageid dicomid image imagepath imagename imagefile filename filepath file"),
    _any("idx index"),
)
MADE = _any(
    "prediction predictions predicted pred preds generated generation gen hypothesis hypotheses hyp hyps hypo "
    "candidate candidates output outputs response decoded res"
)
GIVEN = _any(
    "reference references ref refs groundtruth truth gt gts gold target targets true original real radiologist expert "
    "human actual expected"
)
TEXT = _any("report reports text texts caption captions findings finding impression")
BESIDE = _any("model ground section full")
"""Words that say nothing alone."""
_SECTIONS = {"findings": "findings", "finding": "findings", "impression": "impression"}


@dataclass(frozen=True)
class Taken:
    """The field of each role; of a report in two sections both. No reference: ()."""

    id: str
    report: tuple[str, ...]
    reference: tuple[str, ...]

    @property
    def said(self) -> str:
        """What was taken for what, in a line; nothing where every field has its plain name."""
        found = {"id": (self.id,), "report": self.report, "reference": self.reference}
        if all(names in ((), (role,)) for role, names in found.items()):
            return ""
        return ", ".join(
            f"{role} = {' + '.join(map(_shown, names)) if names else 'none'}" for role, names in found.items()
        )


def known(name: str) -> bool:
    """Whether a field of that name could be an id or a text."""
    return is_id(name) or _role(name) is not None


def is_id(name: str) -> bool:
    return any(_plain(name) in rank for rank in IDS)


def take(path: Path, names: Collection[str], section: str, holds_text: Callable[[str], bool]) -> Taken:
    """Raises DataError where a role has no field or could be of several. section: whose texts are scored."""
    own_id = take_id(path, names)
    roles = {role: [name for name in names if _role(name) == role] for role in ("made", "given", "plain")}
    reports = [name for name in roles["plain"] if _plain(name) in ("report", "reports")]
    report = _one(path, "the generated report", _whole(roles["made"], section) + [(n,) for n in reports], holds_text)
    sections = [name for name in roles["plain"] if _sections(name)]
    reference = _one(path, "the reference", _whole(roles["given"], section), holds_text)
    if report and not reference and report[0] in roles["made"]:
        # Beside what a model made, a section is the radiologist's, as in ReXrank's files.
        reference = _one(path, "the reference", _whole(sections, section), holds_text)
    elif not report:
        report = _one(path, "the generated report", _whole(roles["plain"], section), holds_text)
    lacking = [role for role, found in (("id", own_id), ("report", report)) if not found]
    if lacking:
        shown = ", ".join(map(repr, list(names)[:20])) or "no fields"
        raise DataError(
            f"{path}: no {' or '.join(lacking)} among {shown}; expected id, report and perhaps reference, or names "
            "that say the same, such as study_id, prediction, ground_truth"
        )
    return Taken(own_id, report, reference)


def take_id(path: Path, names: Collection[str]) -> str:
    """The field that is the id; "" where there is none. Raises DataError where it could be one of several."""
    for rank in IDS:
        if found := [name for name in names if _plain(name) in rank]:
            if len(found) > 1:
                _refuse(path, "the id", [(name,) for name in found])
            return found[0]
    return ""


def _one(path: Path, role: str, found: Sequence[tuple[str, ...]], holds_text: Callable[[str], bool]) -> tuple[str, ...]:
    if len(found) > 1:
        found = [names for names in found if any(map(holds_text, names))] or found
    if len(found) > 1:
        _refuse(path, role, found)
    return found[0] if found else ()


def _refuse(path: Path, role: str, found: Sequence[tuple[str, ...]]) -> None:
    shown = " or ".join(" + ".join(map(_shown, names)) for names in found)
    raise DataError(
        f"{path}: {shown} could be {role}; name the one that is {role.split()[-1]!r}, and leave the others out"
    )


def _whole(names: Sequence[str], section: str) -> list[tuple[str, ...]]:
    """What could be the whole text: names of no section or of all that are scored, or one name for each of these."""
    wanted = section.split("+")
    found: list[tuple[str, ...]] = [(name,) for name in names if _sections(name) in (set(), set(wanted))]
    parts = [[name for name in names if _sections(name) == {part}] for part in wanted]
    if len(wanted) > 1 and all(len(part) == 1 for part in parts):
        found.append(tuple(part[0] for part in parts))
    return found


def _words(name: str) -> set[str]:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return set(re.findall(r"[a-z]+|[^\sa-z\d_.-]+", apart.lower()))


def _role(name: str) -> str | None:
    """`made` by a model, `given` by a radiologist, `plain` text of either; None for a name of something else."""
    words = _words(name)
    made, given = bool(words & MADE), bool(words & GIVEN)
    if not words <= MADE | GIVEN | TEXT | BESIDE or (made and given) or not words - BESIDE:
        return None
    return "made" if made else "given" if given else "plain"


def _sections(name: str) -> set[str]:
    return {_SECTIONS[word] for word in _words(name) if word in _SECTIONS}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _shown(name: str) -> str:
    return name if name == KEY else repr(name)
