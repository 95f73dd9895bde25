"""Generated reports, one a record: `predictions.jsonl` as `rrg generate` writes it, or anyone's JSON lines or CSV."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rrg.data.tables import records, refuse
from rrg.errors import DataError

FILE = "predictions.jsonl"
MAX_REPORT = 1 << 16
"""Characters, as a study's findings."""
_NAN = ("nan", "<na>")


class Exemplar(BaseModel):
    """The training report that a retriever put into the prompt."""

    model_config = ConfigDict(frozen=True)

    id: str
    report: str


class Prediction(BaseModel):
    """One study's generated report; `exemplar` and `probabilities` where the method has them."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(min_length=1)
    report: str = Field(max_length=MAX_REPORT)
    reference: str = Field(default="", max_length=MAX_REPORT)
    exemplar: Exemplar | None = None
    probabilities: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None


def read_predictions(path: Path, allow_empty: bool = True) -> list[Prediction]:
    """The predictions of a file, in its order: JSON lines, or a CSV with columns id, report and perhaps reference.

    allow_empty: a report without text counts as what the model wrote; otherwise it is refused.

    Raises DataError that lists, with line numbers, records that are not JSON, lack a field, hold NaN or something else
    than text, and ids given twice; or says that the file is missing, empty, not UTF-8 or too large to be predictions.
    """
    table = path.name.lower().removesuffix(".gz").endswith(".csv")
    predictions: dict[str, tuple[int, Prediction]] = {}
    problems: list[str] = []
    for number, record in records(path, "predictions", "; `rrg generate` writes it"):
        if isinstance(record, str):
            problems.append(f"line {number}: {record}")
            continue
        if table:
            if missing := [name for name in ("id", "report") if name not in record]:
                raise DataError(
                    f"{path}: no column {' or '.join(missing)}; found {', '.join(map(repr, record))}, "
                    "expected id, report and perhaps reference"
                )
            record = {name: record[name] for name in ("id", "report", "reference") if name in record}
            if nan := [name for name, cell in record.items() if cell.strip().lower() in _NAN]:
                problems.append(f"line {number}: {nan[0]} is {record[nan[0]].strip()}, not text")
                continue
        try:
            prediction = Prediction.model_validate(record)
        except ValidationError as error:
            problems.append(f"line {number}: {_describe(error)}")
            continue
        if not allow_empty and not prediction.report.strip():
            problems.append(f"line {number}: report is empty (if the model wrote nothing, add --allow-empty)")
        first, _ = predictions.setdefault(prediction.id, (number, prediction))
        if first != number:
            problems.append(f"line {number}: id {prediction.id} was already given on line {first}")
    refuse(path, problems, "predictions")
    if not predictions:
        raise DataError(f"{path}: holds no predictions; was `rrg generate` interrupted?")
    return [prediction for _, prediction in predictions.values()]


def _describe(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'the line'}: {item['msg']}"
        for item in error.errors(include_url=False, include_input=False)
    )
