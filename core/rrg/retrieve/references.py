"""Reference reports (S2D-Align, PAG stage 2): another study's report beside each film of train and val."""

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rrg.data.study import Study, StudyFolder
from rrg.feed.texts import Reference
from rrg.model.model import RRGModel
from rrg.retrieve.index import Entry, Index, keys_of

PATIENT, NEAREST = "another study of the patient", "nearest film of another patient"


def choose_references(model: RRGModel, folder: StudyFolder, workers: int | None = None) -> dict[str, Reference]:
    """A reference report for each study of train and val.

    The patient's newest study of an earlier date, the next one for the first; of the same split. Where a patient has
    a study without a date, the folder's order stands for it. Where a patient has no study of another time, as in IU
    X-Ray: the training study of another patient whose film is nearest, by the cosine of the mean patch vectors under
    the weights of the moment. S2D-Align names the first; the second is not stated.
    """
    chosen: dict[str, Reference] = {}
    for split in ("train", "val"):
        patients: dict[str, list[Study]] = defaultdict(list)
        for study in folder.split(split):
            patients[study.patient].append(study)
        for studies in patients.values():
            for study, other in _neighbours(studies):
                chosen[study.id] = Reference(other.id, PATIENT, other.findings)
    alone = [s for split in ("train", "val") for s in folder.split(split) if s.id not in chosen]
    if alone:
        train = folder.split("train")
        index = Index(
            keys_of(model, folder, train, "films", model.visual_key, workers),
            [Entry(study.id, study.patient, study.findings) for study in train],
        )
        found = index.search(keys_of(model, folder, alone, "references", model.visual_key, workers), alone)
        for study, best in zip(alone, found, strict=True):
            if best:
                entry = best[0][0]
                chosen[study.id] = Reference(entry.id, NEAREST, entry.report)
    return chosen


def _neighbours(studies: list[Study]) -> Iterator[tuple[Study, Study]]:
    """Each of a patient's studies and the one before it in time, else the one after; none of the same time."""
    times: list[Any] = list(range(len(studies)))
    if all(study.date for study in studies):
        studies = sorted(studies, key=lambda study: study.date)
        times = [study.date for study in studies]
    for study, time in zip(studies, times, strict=True):
        before, after = bisect_left(times, time), bisect_right(times, time)
        if before:
            yield study, studies[before - 1]
        elif after < len(times):
            yield study, studies[after]


def save_references(references: dict[str, Reference], path: Path) -> None:
    """Write references.jsonl: each study, whose report it was shown beside its film, and why."""
    lines = [json.dumps({"id": study, "reference": r.study, "why": r.why}) for study, r in references.items()]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def summary(references: dict[str, Reference], folder: StudyFolder) -> str:
    """One line: how many studies have a reference, and why that one."""
    counts = Counter(reference.why for reference in references.values())
    without = sum(len(folder.split(split)) for split in ("train", "val")) - len(references)
    parts = [*(f"{n} by {why}" for why, n in counts.items()), *([f"{without} studies without"] if without else [])]
    return f"references: {', '.join(parts)}"
