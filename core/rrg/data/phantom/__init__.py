"""Synthetic chest radiographs with findings, reports and labels that are known exactly: the embedded data set.

A patient is drawn as a chest in millimetres (`anatomy`), findings are placed in it (`findings`), frontal and lateral
films are projected from that one scene (`film`), and the report says what was placed (`reports`).
"""

from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from rrg.data.parallel import cores, parallel
from rrg.data.phantom.anatomy import sample_anatomy
from rrg.data.phantom.film import draw_film, encode, sample_technique
from rrg.data.phantom.findings import sample_findings
from rrg.data.phantom.reports import write_report
from rrg.data.study import Split, Study, StudyFolder
from rrg.data.write import new_folder, write_metadata
from rrg.errors import UsageError

GENERATOR = "1"
"""Version of the generator: the same seed gives the same folder only within one."""
MAX_STUDIES = 1_000_000
SHARES: dict[Split, float] = {"train": 0.7, "val": 0.1, "test": 0.2}
VIEWS = (("frontal",), ("frontal", "lateral"), ("lateral",))


class Plan(NamedTuple):
    """One study to draw."""

    patient: int
    number: int  # of the patient's studies, from 0
    split: Split


def make_phantom(
    dest: Path, studies: int = 2000, seed: int = 0, workers: int | None = None, progress: bool = True
) -> StudyFolder:
    """Draw `studies` studies into a new folder and open it.

    The same `seed` and `studies` give byte-identical folders whatever `workers` (default: one a core) is. Patients
    have one to three studies and never cross splits, 70/10/20.

    Raises: UsageError for a count, seed or number of workers that makes no sense, or where `dest` holds something.
    """
    if not 0 < studies <= MAX_STUDIES:
        raise UsageError(f"{studies} phantom studies: give a number from 1 to {MAX_STUDIES:,}")
    if seed < 0:
        raise UsageError(f"seed {seed}: give 0 or a positive number")
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers: give 1 or more, or nothing for one a core")
    card = {
        "name": "phantom",
        "labels": "exact",
        "source": "drawn by rrg data phantom",
        "licence": "CC0-1.0",
        "seed": seed,
        "generator": GENERATOR,
    }
    with new_folder(dest) as folder:
        (folder / "images").mkdir()
        plans = plan_studies(studies, seed)
        with closing(
            parallel(partial(draw_study, folder, seed), plans, min(workers or cores(), studies // 32 + 1))
        ) as drawn:
            made = list(tqdm(drawn, "phantom", total=studies, unit="study", disable=None if progress else True))
        write_metadata(folder, made, card)
    return StudyFolder.open(dest)


def plan_studies(studies: int, seed: int) -> list[Plan]:
    """Which patient has which study in which split. One patient in five has two or three studies."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    counts: list[int] = []
    while (left := studies - sum(counts)) > 0:
        counts.append(min(left, int(rng.choice([1, 2, 3], p=[0.8, 0.14, 0.06]))))
    wanted, taken = {split: share * studies for split, share in SHARES.items()}, Counter[Split]()
    splits: dict[int, Split] = {}
    for patient in rng.permutation(len(counts)):
        split = max(SHARES, key=lambda s: wanted[s] - taken[s])
        splits[int(patient)] = split
        taken[split] += counts[patient]
    return [Plan(patient, number, splits[patient]) for patient, n in enumerate(counts) for number in range(n)]


def draw_study(folder: Path, seed: int, plan: Plan) -> Study:
    """Draw one study's films below `folder`: the seed, the patient and the study's number alone decide on them."""
    anatomy = sample_anatomy(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, plan.patient))))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, plan.patient, plan.number)))
    findings = sample_findings(rng)
    report = write_report(findings, rng)
    views = VIEWS[rng.choice(3, p=[0.49, 0.48, 0.03])]
    name, file_names = f"p{plan.patient:06d}-s{plan.number + 1}", []
    for view in views:
        technique = sample_technique(rng)
        film = draw_film(anatomy, findings, view, technique, int(rng.integers(2**31)))
        extension, data = encode(film, technique)
        file_names.append(f"images/{name}-{view}.{extension}")
        (folder / file_names[-1]).write_bytes(data)
    return Study(
        id=name,
        patient=name.split("-")[0],
        split=plan.split,
        file_names=file_names,
        findings=report.findings,
        impression=report.impression,
        indication=report.indication,
        views=list(views),
        labels=report.labels,
    )
