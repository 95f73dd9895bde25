"""What every importer shares: entries of a source, their problems, and the copy into a new data folder.

A collection is a module with `read(src, seed, given) -> Reading`; `import_collection` does the rest.
"""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from rrg.data.archives import Member
from rrg.data.films import verify_film
from rrg.data.study import Study, StudyFolder, describe
from rrg.data.write import new_folder, write_metadata
from rrg.errors import DataError, UsageError
from rrg.labels import Labeler, get_labeler
from rrg.observations import OBSERVATIONS

IMAGES = "images"
COLLECTIONS = {
    "chexpert-plus": "rrg.data.chexpert_plus",
    "iu-xray": "rrg.data.iu_xray",
    "mimic-cxr": "rrg.data.mimic_cxr",
}
GIVEN = "given"
Film = Path | Member
"""Where a film of a source lies: a file, or a member of an archive."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one entry: where it stands in the source, the kind (to count by) and the details."""

    where: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class Unsound(Exception):
    """Raised by a reader for one entry; `Entries.add` turns it into a `Problem`."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind, self.text = kind, text
        super().__init__(text)


@dataclass(frozen=True)
class Entry:
    """One sound study of a source, where its films lie, and whether the source gave its labels."""

    where: str
    study: Study
    sources: tuple[Film, ...]
    labelled: bool


class Entries:
    """The entries of a source, sound ones and problems, with what holds between entries checked as they come."""

    def __init__(self) -> None:
        self.sound: list[Entry] = []
        self.problems: list[Problem] = []
        self._ids: dict[str, Entry] = {}
        self._films: dict[Film, str] = {}

    def reject(self, where: str, kind: str, text: str) -> None:
        self.problems.append(Problem(where, kind, text))

    def add(
        self, where: str, sources: Sequence[Film], labels: Mapping[str, float | None] | None = None, **fields: Any
    ) -> None:
        """Add a study from its `Study` fields. The first of two entries that contradict each other stays.

        labels: the source's own; None: a labeler reads the findings.
        """
        try:
            study = Study(labels=dict(labels or dict.fromkeys(OBSERVATIONS)), **fields)
        except ValidationError as error:
            return self.reject(where, "malformed entry", describe(error))
        entry = Entry(where, study, tuple(sources), labels is not None)
        if earlier := self._ids.get(study.id):
            text = f"study {study.id} is already at {earlier.where}"
            if earlier.study.split == study.split:
                return self.reject(where, "duplicate id", text)
            return self.reject(
                where, "study in two splits", f"{text}, in {earlier.study.split} there and {study.split} here"
            )
        for source in sources:
            if source in self._films:
                return self.reject(where, "film used twice", f"film {source} is already used at {self._films[source]}")
            self._films[source] = where
        self._ids[study.id] = entry
        self.sound.append(entry)


@dataclass(frozen=True)
class Reading:
    """What a collection's reader found in a source, before any film is opened.

    card: for dataset.json, with "name", "source" and "licence". form: the layout that was found. split: where the split
    comes from. labels: where the entries' own labels come from; None: they have none. notes: what else to say, such as
    counts unlike the published ones.
    """

    entries: Entries
    card: dict[str, Any]
    form: str
    split: str
    labels: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Import:
    """What an import did: the new folder, the form that was found, where the split came from, and the problems."""

    folder: StudyFolder
    form: str
    split: str
    problems: list[Problem]
    notes: list[str]


def import_collection(
    collection: str,
    src: Path | str,
    dest: Path | str,
    *,
    labeler: str | Labeler = GIVEN,
    skip_bad: bool = False,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Import:
    """Import `src`, a copy of one of `COLLECTIONS` in any form that its reader knows, into the new data folder `dest`.

    labeler: `given` takes the labels that the source ships (`given:NAME` one of several), and a labeler of ours for
    studies without; the name of a labeler has it label all. seed: draws a split where the source has none.

    Raises: UsageError where `src` is missing or `dest` holds something; DataError where the form is unknown, and,
    unless `skip_bad`, with every problem of the source's entries.
    """
    src, dest = Path(src), Path(dest)
    given: str | None = None
    if isinstance(labeler, str):
        name, _, which = labeler.partition(":")
        given = which if name == GIVEN else None
        labeler = get_labeler("chexpert" if name == GIVEN else labeler)
    if not src.exists():
        raise UsageError(f"{src}: no such file or folder; give the copy of {collection} that you downloaded")
    try:
        reading: Reading = import_module(COLLECTIONS[collection]).read(src, seed, given)
    except OSError as error:
        raise DataError(f"{src}: cannot be read: {error}") from error
    card = {"labels_from": "findings", **reading.card, "split": reading.split}
    folder = copy_studies(
        dest,
        reading.entries,
        card,
        labeler,
        given=reading.labels,
        skip_bad=skip_bad,
        workers=workers,
        progress=progress,
    )
    return Import(folder, reading.form, reading.split, reading.entries.problems, reading.notes)


def find_film(root: Path, name: str) -> Path:
    """The file `name` below `root`. Raises Unsound where it is missing, or where a link leads out of `root`."""
    path = root / name
    try:
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(os.path.realpath(root)):
            raise Unsound("unsafe path", f"film {name!r} leads out of {root}, to {real}")
        if not real.is_file():
            raise Unsound("missing film", f"film {path} is missing")
    except OSError as error:
        raise Unsound("missing film", f"film {path} cannot be reached: {error.strerror}") from error
    return path


def copy_studies(
    dest: Path,
    entries: Entries,
    card: Mapping[str, Any],
    labeler: Labeler,
    *,
    given: str | None = None,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> StudyFolder:
    """Verify every film by decoding it, copy the bytes unchanged, label the findings and write the data folder.

    given: where the labels of labelled entries come from.

    Problems, those of `entries` and those found here, end in a DataError that lists them all and no folder; with
    `skip_bad` their studies are left out and the card's "skipped" counts them by kind.
    """
    problems = entries.problems
    with new_folder(Path(dest)) as folder:
        sound = []
        pool = ThreadPoolExecutor(workers or os.cpu_count())
        try:
            tasks = [pool.submit(_copy_films, folder, entry) for entry in entries.sound]
            for entry, task in zip(
                tqdm(entries.sound, "films", unit="study", disable=None if progress else True), tasks, strict=True
            ):
                found = task.result()
                problems += found
                if not found:
                    sound.append(entry)
        finally:
            pool.shutdown(cancel_futures=True)
        if problems and not skip_bad:
            raise DataError(
                f"{summary(problems)}; nothing was written. Mend the source, or leave these studies out by --skip-bad",
                [str(problem) for problem in problems],
            )
        if not sound:
            raise DataError("no sound study to import; nothing was written", [str(problem) for problem in problems])
        by_us = [entry.study for entry in sound if not entry.labelled]
        labelled = {study.id: study for study in _label(by_us, labeler, progress)}
        studies = [labelled.get(entry.study.id, entry.study) for entry in sound]
        names = [given] * (len(by_us) < len(sound)) + [labeler.name] * bool(by_us)
        skipped = {"skipped": dict(Counter(problem.kind for problem in problems))} if problems else {}
        write_metadata(folder, studies, {**card, "labels": ", else ".join(map(str, names)), **skipped})
    return StudyFolder.open(dest)


def summary(problems: Sequence[Problem]) -> str:
    """Such as `3 problems (2 missing film, 1 no findings)`."""
    kinds = Counter(problem.kind for problem in problems).most_common()
    noun = "problem" if len(problems) == 1 else "problems"
    return f"{len(problems)} {noun} ({', '.join(f'{number} {kind}' for kind, number in kinds)})"


def _copy_films(folder: Path, entry: Entry) -> list[Problem]:
    """Copy a study's films, all or none of them."""
    contents, problems = [], []
    for source in entry.sources:
        try:
            contents.append(verify_film(source))  # type: ignore[arg-type]
        except DataError as error:
            problems.append(Problem(entry.where, "broken film", error.message))
    if not problems:
        for name, content in zip(entry.study.file_names, contents, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return problems


def _label(studies: list[Study], labeler: Labeler, progress: bool) -> list[Study]:
    """The studies with the labels that the labeler reads from their findings."""
    labeled = []
    with tqdm(total=len(studies), desc="labels", unit="study", disable=None if progress else True) as bar:
        for batch in (studies[start : start + 256] for start in range(0, len(studies), 256)):
            values = labeler([study.findings for study in batch])
            for study, row in zip(batch, values, strict=True):
                known = [None if math.isnan(value) else value for value in row.tolist()]
                labels = dict(zip(OBSERVATIONS, known, strict=True))
                labeled.append(Study.model_validate({**study.model_dump(), "labels": labels}))
            bar.update(len(batch))
    return labeled
