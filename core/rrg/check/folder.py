"""Findings that need only the metadata: counts, patients, dates, views."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rrg.check.findings import Finding, by_splits, listed, repeats, some, splits_of
from rrg.data import splits
from rrg.data.study import CARD, METADATA, SPLITS, Study, count

PUBLISHED = {re.sub(r"[^a-z0-9]", "", name.lower()): known for name, known in splits.PUBLISHED.items()}


def lines(card: Mapping[str, Any], studies: Sequence[Study], problems: Sequence[str]) -> Finding:
    """Lines of the metadata that no command reads, and counts that differ from the card's."""
    found, kept = list(problems), card.get("counts")
    if kept is not None and not problems and kept != count(studies):
        found.append(f"{CARD} counts {kept}, but {METADATA} holds {count(studies)}: one of them was changed")
    if not found:
        return Finding("lines", "metadata", "ok", "every line is a sound study")
    return Finding(
        "lines", "metadata", "error", f"{some(len(found), 'problem')}; the lines concerned are left out below",
        "No command opens this folder: mend these lines, or import the collection anew.", found,
        numbers={"problems": len(found)},
    )  # fmt: skip


def counts(card: Mapping[str, Any], studies: Sequence[Study]) -> Finding:
    """Studies or films per split beside the published ones of the card's collection."""
    letters = re.sub(r"[^a-z0-9]", "", str(card["name"]).lower())
    known = next((known for name, known in PUBLISHED.items() if letters.startswith(name)), None)
    if known is None:
        return Finding("counts", "counts", "ok", f"no published counts are known of {card['name']}")
    unit, published = known
    here = {
        "studies": tuple(sum(study.split == split for study in studies) for split in SPLITS),
        "films": tuple(sum(len(study.file_names) for study in studies if study.split == split) for split in SPLITS),
    }
    equal = next((name for name in (unit, "studies", "films") if here[name] == published), None)
    numbers = {"unit": equal or unit, "published": dict(zip(SPLITS, published, strict=True))}
    if equal:
        text = f"{' / '.join(f'{n:,}' for n in published)} {equal} ({' / '.join(SPLITS)}), as published"
        return Finding("counts", "counts", "ok", text, numbers=numbers)
    differences: dict[str, int] = {split: n - p for split, n, p in zip(SPLITS, here[unit], published, strict=True)}
    parts = (
        f"{split} {n:,} ({differences[split]:+,})" if differences[split] else f"{split} {n:,} (equal)"
        for split, n in zip(SPLITS, here[unit], strict=True)
    )
    wanted = " / ".join(f"{n:,}" for n in published)
    return Finding(
        "counts", "counts", "warning",
        f"{unit} compared: {', '.join(parts)}; published are {wanted}{_reasons(card, differences, unit, here)}",
        "Scores on other studies than the published ones do not compare: import with the published split "
        "(annotation.json), or say so beside every score.",
        numbers={**numbers, "differences": differences},
    )  # fmt: skip


def _reasons(
    card: Mapping[str, Any], differences: Mapping[str, int], unit: str, here: Mapping[str, tuple[int, ...]]
) -> str:
    """Why counts differ, where card and counts tell."""
    reasons = []
    skipped = card.get("skipped")
    if isinstance(skipped, dict) and skipped:
        kinds = ", ".join(f"{number} {kind}" for kind, number in skipped.items())
        reasons.append(f"the import left out entries with problems: {kinds}")
    if not sum(differences.values()):
        reasons.append("the sum is the published one, so these are the published studies in another split")
    if "annotation.json" not in (split := str(card.get("split", ""))) and split:
        reasons.append(f"the split is {split}")
    if unit == "films" and here["studies"] != here["films"]:
        reasons.append("published work counts one image an item, and studies here hold several films")
    return f". Likely because {'; '.join(reasons)}" if reasons else ""


def patients(studies: Sequence[Study], card: Mapping[str, Any]) -> Finding:
    """Patients with studies in two splits."""
    groups = [[studies[i] for i in group] for group in repeats(study.patient for study in studies)]
    shared = [group for group in groups if len(splits_of(group)) > 1]
    if not shared:
        who = " (it names none: each study counts as one)" if "names no patients" in str(card.get("patient")) else ""
        return Finding("patients", "patients", "ok", f"none in two splits{who}")
    numbers = by_splits(shared)
    return Finding(
        "patients", "patients", "error", f"{some(len(shared), 'patient')} in two splits: {listed(numbers)}",
        "Split by patient: a model that has seen a patient in training knows the next study's films and report.",
        [f"patient {group[0].patient}: {_studies(group)}" for group in shared], numbers=numbers,
    )  # fmt: skip


def same_time(studies: Sequence[Study]) -> Finding:
    """Studies of one patient with one date: perhaps one study under several ids."""
    keys = ((study.patient, study.date) if study.date else None for study in studies)
    groups = [[studies[i] for i in group] for group in repeats(keys)]
    between = [group for group in groups if len(splits_of(group)) > 1]
    dated = sum(bool(study.date) for study in studies)
    numbers = {"dated": dated, "groups": len(groups), "in_two_splits": len(between)}
    if not groups:
        text = "no two of one patient at one date" if dated else "no dates, so none can be told by them"
        return Finding("same_time", "studies", "ok", text, numbers=numbers)
    text = f"{some(len(groups), 'group')} of studies of one patient at one date, {len(between):,} over two splits"
    return Finding(
        "same_time", "studies", "error" if between else "note", text,
        "These may be one study under several ids: "
        + ("keep them in one split." if between else "they are in one split, so no leak; weigh them as you see fit."),
        [f"patient {group[0].patient}, {group[0].date}: {_studies(group)}" for group in between or groups],
        numbers=numbers,
    )  # fmt: skip


def views(studies: Sequence[Study]) -> Finding:
    """Studies that do not say what their films show."""
    without = [study for study in studies if not any(study.views)]
    numbers = {"without": len(without), "studies": len(studies)}
    if not without:
        return Finding("views", "views", "ok", "every study names its films' views", numbers=numbers)
    return Finding(
        "views", "views", "note", f"{len(without):,} of {some(len(studies), 'study')} name no view",
        "Frontal and lateral films cannot be told apart there; they are taken in their order.",
        [f"study {study.id}" for study in without], numbers=numbers,
    )  # fmt: skip


def _studies(group: Sequence[Study]) -> str:
    return ", ".join(f"{study.id} ({study.split})" for study in group)
