"""What every importer shares: entries of a source, their problems, and the copy into a new data folder."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from rrg.data.films import verify_film
from rrg.data.study import Study, StudyFolder, describe
from rrg.data.write import new_folder, write_metadata
from rrg.errors import DataError
from rrg.labels import Labeler
from rrg.observations import OBSERVATIONS

IMAGES = "images"


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
    """One sound study of a source, not labelled yet, and where its films lie."""

    where: str
    study: Study
    sources: tuple[Path, ...]


class Entries:
    """The entries of a source, sound ones and problems, with what holds between entries checked as they come."""

    def __init__(self) -> None:
        self.sound: list[Entry] = []
        self.problems: list[Problem] = []
        self._ids: dict[str, Entry] = {}
        self._films: dict[Path, str] = {}

    def reject(self, where: str, kind: str, text: str) -> None:
        self.problems.append(Problem(where, kind, text))

    def add(self, where: str, sources: Sequence[Path], **fields: Any) -> None:
        """Add a study from its `Study` fields. The first of two entries that contradict each other stays."""
        try:
            study = Study(labels=dict.fromkeys(OBSERVATIONS), **fields)
        except ValidationError as error:
            return self.reject(where, "malformed entry", describe(error))
        entry = Entry(where, study, tuple(sources))
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
    skip_bad: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> StudyFolder:
    """Verify every film by decoding it, copy the bytes unchanged, label the findings and write the data folder.

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
                    sound.append(entry.study)
        finally:
            pool.shutdown(cancel_futures=True)
        if problems and not skip_bad:
            raise DataError(
                f"{summary(problems)}; nothing was written. Mend the source, or leave these studies out by --skip-bad",
                [str(problem) for problem in problems],
            )
        if not sound:
            raise DataError("no sound study to import; nothing was written", [str(problem) for problem in problems])
        studies = _label(sound, labeler, progress)
        skipped = {"skipped": dict(Counter(problem.kind for problem in problems))} if problems else {}
        write_metadata(folder, studies, {**card, "labels": labeler.name, **skipped})
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
            contents.append(verify_film(source))
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
