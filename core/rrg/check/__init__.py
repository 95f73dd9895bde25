"""`rrg data check`: what is wrong with a data folder, and what leaks between its splits, before it becomes a result."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrg.check import films as on_films
from rrg.check import folder as on_folder
from rrg.check import texts as on_texts
from rrg.check.findings import LEVELS, Film, Finding, Level
from rrg.data.study import SPLITS, Study, StudyFolder, read_folder

__all__ = ["Check", "Film", "Finding", "Level", "check_folder"]


@dataclass(frozen=True)
class Check:
    """The findings on a folder, its sound studies, and numbers by split. opened: films were decoded."""

    folder: StudyFolder
    opened: bool
    findings: list[Finding]
    numbers: dict[str, dict[str, Any]]
    words: dict[str, list[int]]

    @property
    def levels(self) -> dict[Level, int]:
        """How many findings there are of each level."""
        counts = Counter(finding.level for finding in self.findings)
        return {level: counts[level] for level in LEVELS}

    @property
    def table(self) -> list[tuple[str, list[str]]]:
        """Rows for people: a name, and a text for each split."""
        columns = [_said(numbers) for numbers in self.numbers.values()]
        return [(name, [column[name] for column in columns]) for name in columns[0]]

    def as_json(self) -> dict[str, Any]:
        """For programs: every example and every film, by stable keys."""
        findings = [
            {**vars(finding), "films": [[film.name for film in group] for group in finding.films]}
            for finding in self.findings
        ]
        return {
            "path": str(self.folder.path),
            "name": self.folder.card["name"],
            "opened": self.opened,
            "levels": self.levels,
            "splits": self.numbers,
            "findings": findings,
        }


def check_folder(path: Path | str, *, quick: bool = False, workers: int | None = None, progress: bool = True) -> Check:
    """Check a data folder. quick: open no film.

    Raises: DataError where `path` is no data folder.
    """
    path = Path(path)
    card, lines, problems = read_folder(path)
    studies = list(lines.values())
    films = [Film(study, i) for study in studies for i in range(len(study.file_names))]
    known, torn = on_films.source_hashes(path)
    looks = on_films.unlooked(path, films, known) if quick else on_films.look_at(path, films, known, workers, progress)
    reports = on_texts.Reports(studies, on_texts.rules_of(card), progress)
    numbers = _numbers(studies, reports)
    findings = [
        on_folder.lines(card, studies, problems),
        on_folder.counts(card, studies),
        on_folder.patients(studies, card),
        on_folder.same_time(studies),
        on_films.manifest(films, known, torn),
        on_films.unreadable(films, looks, path, not quick),
        *([] if quick else [on_films.constant(films, looks), on_films.shapes(films, looks)]),
        *on_films.identical(films, looks, pixels=not quick),
        on_texts.empty(reports),
        on_texts.in_train(reports, numbers),
        on_texts.repeated(reports),
        on_texts.shift(numbers),
        on_folder.views(studies),
        on_films.lateral_first(studies, films, looks),
    ]
    words: dict[str, list[int]] = {split: reports.words[reports.of(split)].tolist() for split in SPLITS}
    return Check(StudyFolder(path, card, studies), not quick, findings, numbers, words)


def _numbers(studies: Sequence[Study], reports: on_texts.Reports) -> dict[str, dict[str, Any]]:
    """Split → its studies, films, patients, films a study, reports, words, and the prevalence of each observation."""
    prevalence = on_texts.prevalence(studies)
    numbers: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        own = [study for study in studies if study.split == split]
        films = Counter(len(study.file_names) for study in own)
        numbers[split] = {
            "studies": len(own),
            "films": sum(n * studies for n, studies in films.items()),
            "patients": len({study.patient for study in own}),
            "films_a_study": {str(n): films[n] for n in sorted(films)},
            **reports.numbers(split),
            "prevalence": prevalence[split],
        }
    return numbers


def _said(numbers: Mapping[str, Any]) -> dict[str, str]:
    """One split's numbers for people."""
    films, same = list(numbers["films_a_study"]), numbers["in_train"]
    shares = {way: same and numbers["studies"] and f"{same[way] / numbers['studies']:.1%}" for way in on_texts.WAYS}
    return {
        **{name: f"{numbers[name]:,}" for name in ("studies", "films", "patients")},
        "films a study": " to ".join(dict.fromkeys(films[:1] + films[-1:])),
        "distinct reports": f"{numbers['distinct_reports']:,}",
        "word for word in train": shares["as_is"] or "",
        "word for word in train, cleaned": shares["cleaned"] or "",
        **{f"words a report, {name}": f"{value:,.0f}" for name, value in numbers["words"].items()},
    }
