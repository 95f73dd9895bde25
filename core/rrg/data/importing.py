"""What every importer shares: entries of a source, their problems, and the new data folder that they become.

A collection is a module with `read(src, seed, given) -> Reading`; `import_collection` does the rest.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from rrg.data.archives import Member
from rrg.data.parallel import cores
from rrg.data.store import Fit, Format, Wanted, open_store
from rrg.data.study import Study, StudyFolder, describe
from rrg.data.voids import stated, void
from rrg.data.write import write_metadata
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
MEND = "Mend the source, or leave these studies out by --skip-bad"
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
        if not stated(study.findings):
            return self.reject(where, "no findings", f"study {study.id} has an empty report{void(study.findings)}")
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

    def take(self) -> list[Entry]:
        """The sound entries, which are then held here no longer."""
        taken, self.sound = self.sound, []
        self._ids.clear()
        self._films.clear()
        return taken


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
    size: int | None = None,
    fit: Fit = "squash",
) -> Import:
    """Import `src`, a copy of one of `COLLECTIONS` in any form that its reader knows, into the new data folder `dest`.

    labeler: `given` takes the labels that the source ships (`given:NAME` one of several), and a labeler of ours for
    studies without; the name of a labeler has it label all. seed: draws a split where the source has none. size, fit:
    how films are stored, see `Format`.

    An import that was stopped goes on where it stopped when it is called again.

    Raises: UsageError where `src` is missing or `dest` holds something; DataError where the form is unknown, and,
    unless `skip_bad`, with every problem of the source's entries.
    """
    src, dest, form = Path(src), Path(dest), Format(size, fit)
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
    if given and reading.labels is None:
        raise UsageError(f"given:{given}: {reading.card['name']} has no labels of its own; give chexpert or strict")
    card = {"labels_from": "findings", **reading.card, "split": reading.split}
    notes = list(reading.notes)
    folder = copy_studies(
        dest,
        src,
        reading.entries,
        card,
        labeler,
        form=form,
        given=reading.labels,
        skip_bad=skip_bad,
        workers=workers,
        progress=progress,
        notes=notes,
    )
    return Import(folder, reading.form, reading.split, reading.entries.problems, notes)


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
    src: Path,
    entries: Entries,
    card: Mapping[str, Any],
    labeler: Labeler,
    *,
    form: Format,
    given: str | None,
    skip_bad: bool,
    workers: int | None,
    progress: bool,
    notes: list[str],
) -> StudyFolder:
    """Store every film as `form` says, label the findings and write the data folder, from where a run before ended.

    given: where the labels of labelled entries come from. notes: gets what else to say.

    Problems end in a DataError that lists them: those of `entries` before any film is opened, those of films when all
    others are stored. With `skip_bad` their studies are left out and the card's "skipped" counts them by kind.
    """
    problems = entries.problems
    sound = _renamed(entries, form)
    if problems and not skip_bad:
        raise DataError(f"{summary(problems)}; nothing was written. {MEND}", [str(problem) for problem in problems])
    if not sound:
        raise DataError("no sound study to import; nothing was written", [str(problem) for problem in problems])
    films = [
        Wanted(name, source, number)
        for number, entry in enumerate(sound)
        for name, source in zip(entry.study.file_names, entry.sources, strict=True)
    ]
    with open_store(dest, src, card["name"], form, films) as store:
        if store.done:
            notes.append(f"{len(store.done):,} of {len(films):,} films were stored by an earlier run")
        broken = store.fill(workers or cores(), progress)
        problems += [Problem(sound[film.entry].where, why.kind, why.text) for film, why in broken]
        if problems and not skip_bad:
            raise DataError(f"{summary(problems)}. {MEND}", [str(problem) for problem in problems])
        bad = {film.entry for film, _ in broken}
        sound = [entry for number, entry in enumerate(sound) if number not in bad]
        if not sound:
            raise DataError("no sound study to import", [str(problem) for problem in problems])
        store.finish([name for entry in sound for name in entry.study.file_names])
        by_us = sum(not entry.labelled for entry in sound)
        names = [given] * (by_us < len(sound)) + [labeler.name] * bool(by_us)
        skipped = {"skipped": dict(Counter(problem.kind for problem in problems))} if problems else {}
        card = {**card, "labels": ", else ".join(map(str, names)), "films": form.card(films), **skipped}
        write_metadata(store.folder, _labelled(sound, labeler, by_us, progress), card)
    del films, sound, store  # before the new folder's studies are read: both would not fit a small machine
    return StudyFolder.open(dest)


def summary(problems: Sequence[Problem]) -> str:
    """Such as `3 problems (2 missing film, 1 no findings)`."""
    kinds = Counter(problem.kind for problem in problems).most_common()
    noun = "problem" if len(problems) == 1 else "problems"
    return f"{len(problems)} {noun} ({', '.join(f'{number} {kind}' for kind, number in kinds)})"


def _renamed(entries: Entries, form: Format) -> list[Entry]:
    """The sound entries, by the names that their films get. Where two would get the same, the first study stays."""
    kept: list[Entry] = []
    taken: dict[str, Film] = {}
    left = entries.take()[::-1]
    while left:  # an entry goes when its copy is made
        entry = left.pop()
        names = [form.name(name) for name in entry.study.file_names]
        given = dict(zip(names, entry.sources, strict=True))
        if again := [name for i, name in enumerate(names) if name in taken or name in names[:i]]:
            other = taken.get(again[0], entry.sources[names.index(again[0])])
            text = f"a film would be stored as {again[0]}, as {other} is"
            entries.reject(entry.where, "two films of one name", text)
            continue
        taken |= given
        kept.append(replace(entry, study=entry.study.model_copy(update={"file_names": names})))
    return kept


def _labelled(entries: Sequence[Entry], labeler: Labeler, by_us: int, progress: bool) -> Iterator[Study]:
    """The studies; those without labels of their source's with what the labeler reads from their findings."""
    with tqdm(total=by_us, desc="labels", unit="study", leave=False, disable=None if progress else True) as bar:
        for start in range(0, len(entries), 256):
            batch = entries[start : start + 256]
            reports = [entry.study.findings for entry in batch if not entry.labelled]
            rows = iter(labeler(reports).tolist() if reports else ())
            for entry in batch:
                if entry.labelled:
                    yield entry.study
                else:
                    known = [None if math.isnan(value) else value for value in next(rows)]
                    labels = dict(zip(OBSERVATIONS, known, strict=True))
                    yield entry.study.model_copy(update={"labels": labels})
            bar.update(len(reports))
