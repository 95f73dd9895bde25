"""A study and a folder of studies, as every command of `rrg` reads them.

On disk: `metadata.jsonl` (one `Study` a line), `dataset.json` (the card) and the films. `file_names` follows the
imagefolder convention of Hugging Face, and `README.md` gives the fields' types, so `datasets.load_dataset(FOLDER)`
opens it too (as one split; "split" is a column). `load_dataset("imagefolder", data_dir=FOLDER)` does so as well, and
takes types from the first 10 MB, and film names with `train`, `val` or `test` as a word for splits: avoid them.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from rrg.data.voids import stated
from rrg.errors import DataError, UsageError
from rrg.observations import OBSERVATIONS

METADATA, CARD = "metadata.jsonl", "dataset.json"
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

MAX_METADATA_BYTES = 2 << 30
MAX_LINE_BYTES = 2 << 20
MAX_CARD_BYTES = 16 << 20
MAX_FILM_BYTES = 256 << 20
MAX_TEXT = 1 << 16
MAX_PHRASES, MAX_PHRASE = 256, 512

# Together they keep a study's line below MAX_LINE_BYTES.
_Name = Annotated[str, Field(min_length=1, max_length=256)]
_NULL = BeforeValidator(lambda text: "" if text is None else text)
_Text = Annotated[str, Field(max_length=MAX_TEXT), _NULL, AfterValidator(stated)]
_Comparison = Annotated[str, Field(max_length=MAX_TEXT), _NULL, AfterValidator(lambda text: stated(text, True))]
# Null in JSON: readers that infer a column's type from its first lines take dates for times, and "" for a text.
_Date = Annotated[
    str,
    Field(pattern=r"^(\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d)?)?$"),
    _NULL,
    PlainSerializer(lambda date: date or None, str | None, when_used="json"),
]
_View = Annotated[str, Field(max_length=256), AfterValidator(stated)]

_NAMES = frozenset(OBSERVATIONS)
_VALUES = frozenset({1.0, 0.0, -1.0, None})


def relative_name(name: str) -> str:
    """`name` if it is a plain relative POSIX path that stays below its folder; ValueError otherwise."""
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or {"", ".", ".."} & set(parts):
        raise ValueError(f"{name!r} is not a plain path below the data folder, such as 'images/film.png'")
    return name


class Study(BaseModel):
    """One study: one or several films of one patient at one time, with the report that was written on them.

    `labels` holds every one of the 14 observations: 1 present, 0 absent, -1 uncertain, None not mentioned.
    `views` is empty, or names the view of each film ("frontal", "lateral", or whatever the source says); `positions`
    likewise the patient's ("erect", "recumbent"). `date` is ISO 8601, as the source shifted it ("2180-05-06" or
    "2180-05-06T21:30:14"); empty, and null in the file, where it is not known.
    A text that states nothing, such as "nan" or ".", is read as empty (`rrg.data.voids`); findings stay as they are,
    for `rrg data check` to show, and no folder that has such opens otherwise.
    `phrases` are the key phrases of the findings (`rrg data phrases`); None: not drawn out yet.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: _Name
    patient: _Name
    split: Split
    file_names: Annotated[list[Annotated[_Name, AfterValidator(relative_name)]], Field(min_length=1, max_length=64)]
    findings: Annotated[str, Field(max_length=MAX_TEXT), _NULL]
    impression: _Text = ""
    indication: _Text = ""
    history: _Text = ""
    comparison: _Comparison = ""
    date: _Date = ""
    views: list[_View] = []
    positions: list[_View] = []
    labels: dict[str, float | None]
    phrases: Annotated[list[Annotated[str, Field(max_length=MAX_PHRASE)]], Field(max_length=MAX_PHRASES)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.findings.strip():
            raise ValueError("findings is empty")
        for name in ("views", "positions"):
            if (given := getattr(self, name)) and len(given) != len(self.file_names):
                raise ValueError(f"{len(given)} {name} for {len(self.file_names)} films")
        if self.labels.keys() != _NAMES:
            missing, unknown = sorted(_NAMES - self.labels.keys()), sorted(self.labels.keys() - _NAMES)
            raise ValueError(f"labels must hold the 14 observations: missing {missing}, unknown {unknown}")
        if not _VALUES.issuperset(self.labels.values()):
            wrong = {name: value for name, value in self.labels.items() if value not in _VALUES}
            raise ValueError(f"labels must be 1, 0, -1 or null, not {wrong}")
        return self


@dataclass(frozen=True)
class StudyFolder:
    """A validated folder of studies.

    Attributes: path; card (dataset.json: "name", "labels" = "exact" or the labeler's name, "source", "licence",
    "counts"); studies in file order; warnings, such as a patient with studies in two splits.
    """

    path: Path
    card: dict[str, Any]
    studies: list[Study]
    warnings: list[str] = field(default_factory=list)

    def split(self, name: str) -> list[Study]:
        """The studies of one split, in file order. Raises UsageError for a name that is no split."""
        if name not in SPLITS:
            raise UsageError(f"split {name!r} is none of {', '.join(SPLITS)}")
        return [study for study in self.studies if study.split == name]

    def film_path(self, study: Study, i: int = 0) -> Path:
        """Where film `i` of `study` lies."""
        return self.path / study.file_names[i]

    @classmethod
    def open(cls, path: Path | str) -> "StudyFolder":
        """Read and validate a folder.

        Raises DataError that lists every problem with its line number: a line that is not JSON or not a `Study`, an
        id given twice, a study in two splits, findings that state nothing, a film that is missing or absurdly large,
        counts unlike the card's.
        Films are looked up, not decoded: `read_film` and the importers do that.
        """
        path = Path(path)
        card, lines, problems = read_folder(path)
        studies = list(lines.values())
        problems += [
            f"line {number}: findings of study {study.id} state nothing: {study.findings.strip()[:40]!r}"
            for number, study in lines.items()
            if not stated(study.findings)
        ]
        problems += _missing_films(path, lines)
        found = count(studies)
        if "counts" in card and not problems and card["counts"] != found:
            problems.append(f"{CARD} counts {card['counts']}, but {METADATA} holds {found}: one of them was changed")
        if problems:
            raise DataError(f"{path}: {len(problems)} problems in this data folder", problems)
        return cls(path, card, studies, _patients_across_splits(studies))


def read_folder(path: Path) -> tuple[dict[str, Any], dict[int, Study], list[str]]:
    """A folder's card, its sound studies by line number, and what is wrong with the other lines.

    Raises DataError where it is no data folder.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such data folder; make one with `rrg data import` or `rrg data phantom`")
    card = _read_card(path / CARD)
    problems: list[str] = []
    lines = _read_lines(path / METADATA, problems)
    if not lines and not problems:
        problems.append(f"{METADATA} holds no study")
    return card, lines, problems


def count(studies: Iterable[Study]) -> dict[str, int]:
    """Studies per split, films and patients, as the card keeps them."""
    splits, films, patients = Counter[str](), 0, set()
    for study in studies:
        splits[study.split] += 1
        films += len(study.file_names)
        patients.add(study.patient)
    return {**{split: splits[split] for split in SPLITS}, "films": films, "patients": len(patients)}


def describe(error: ValidationError) -> str:
    """Pydantic's findings in one line, without the input they concern (a report may be long)."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ").replace("Value error, ", "")
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _read_card(path: Path) -> dict[str, Any]:
    try:
        if _size(path) > MAX_CARD_BYTES:
            raise DataError(f"{path}: larger than {MAX_CARD_BYTES >> 20} MiB, so not a data folder's card")
        card = json.loads(path.read_bytes())
        json.dumps(card, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{path}: holds half a surrogate pair (\\ud800 to \\udfff), which is no character") from None
    except FileNotFoundError:
        raise DataError(f"{path}: missing, so {path.parent} is no data folder of rrg") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(card, dict):
        raise DataError(f"{path}: expected a JSON object, found a {type(card).__name__}")
    absent = [key for key in ("name", "labels", "source", "licence") if not isinstance(card.get(key), str)]
    if absent:
        raise DataError(f"{path}: the card lacks {', '.join(absent)} (each a string)")
    return card


def _size(path: Path) -> int:
    """Bytes of a plain file; a pipe or device would be waited for without end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: no plain file, as a data folder holds; write it anew with rrg data import")
    return found.st_size


def _read_lines(path: Path, problems: list[str]) -> dict[int, Study]:
    """Line number → study, for the lines that are sound; the others are added to `problems`."""
    lines: dict[int, Study] = {}
    first: dict[str, int] = {}
    try:
        if _size(path) > MAX_METADATA_BYTES:
            raise DataError(f"{path}: larger than {MAX_METADATA_BYTES >> 30} GiB, which is refused")
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB, which is refused"
                    )
                try:
                    study = Study.model_validate_json(line)
                except ValidationError as error:
                    problems.append(f"line {number}: {describe(error)}")
                    continue
                if study.id in first:
                    earlier = lines[first[study.id]]
                    where = f"already on line {first[study.id]}"
                    if earlier.split != study.split:
                        where += f", in split {earlier.split} there and {study.split} here"
                    problems.append(f"line {number}: study {study.id} is {where}")
                else:
                    first[study.id] = number
                    lines[number] = study
    except FileNotFoundError:
        raise DataError(f"{path}: missing, so {path.parent} is no data folder of rrg") from None
    return lines


def _missing_films(path: Path, lines: dict[int, Study]) -> list[str]:
    problems = []
    root = os.fspath(path)
    for number, study in lines.items():
        for name in study.file_names:
            try:
                status = os.stat(f"{root}/{name}")
            except (OSError, ValueError):
                problems.append(f"line {number}: film {name} of study {study.id} is missing")
                continue
            if not stat.S_ISREG(status.st_mode):
                problems.append(f"line {number}: film {name} of study {study.id} is not a file")
            elif status.st_size > MAX_FILM_BYTES:
                problems.append(f"line {number}: film {name} is larger than {MAX_FILM_BYTES >> 20} MiB")
    return problems


def _patients_across_splits(studies: list[Study]) -> list[str]:
    splits: dict[str, set[str]] = {}
    for study in studies:
        splits.setdefault(study.patient, set()).add(study.split)
    return [f"patient {name} has studies in {', '.join(sorted(s))}" for name, s in splits.items() if len(s) > 1]
