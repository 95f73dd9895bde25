"""Generated reports, one a record: `predictions.jsonl` as `rrg generate` writes it, or anyone's table or JSON."""

import math
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rrg.data.documents import rows
from rrg.data.fields import Taken, known, take
from rrg.data.tables import refuse
from rrg.data.voids import stated
from rrg.errors import DataError

MAX_REPORT = 1 << 16
"""Characters, as a study's findings."""
_COUNTED = re.compile(r"\d+\.0+")
_NAN = ("nan", "<na>")  # what programs write for an id that is missing
_Report = Annotated[str, Field(max_length=MAX_REPORT), AfterValidator(stated)]


class Exemplar(BaseModel):
    """The training report that a retriever put into the prompt."""

    model_config = ConfigDict(frozen=True)

    id: str
    report: str


class Prediction(BaseModel):
    """One study's generated report; `exemplar` and `probabilities` where the method has them.

    A report or reference that states nothing, such as "nan" or ".", is read as empty (`rrg.data.voids`).
    """

    model_config = ConfigDict(frozen=True)

    id: str = Field(min_length=1)
    report: _Report
    reference: _Report = ""
    exemplar: Exemplar | None = None
    probabilities: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None


def read_predictions(
    path: Path, allow_empty: bool = True, section: str = "findings", notes: list[str] | None = None
) -> list[Prediction]:
    """The predictions of a file, in its order: a table, JSON lines or a JSON document, its fields known by their names.

    allow_empty: a report without text counts as what the model wrote; otherwise it is refused. section: which of a
    file's sections are its texts, as `evaluate`'s. notes: gets what was taken for what, where names are others.

    Raises DataError where the file is missing, empty, not UTF-8 or too large to be predictions, has no id or report or
    several that could be it; or that lists, with their places, records that are broken, lack a field, hold NaN or
    something else than text, and ids given twice.
    """
    found = list(rows(path, "predictions", known, "; `rrg generate` writes it"))
    records = [record for _, record in found if isinstance(record, dict)]
    if not records:
        refuse(path, [f"{where}: {wrong}" for where, wrong in found], "predictions")
        raise DataError(f"{path}: holds no predictions; was `rrg generate` interrupted?")
    names = dict.fromkeys(name for record in records for name in record)
    taken = take(path, names, section, lambda name: any(isinstance(_one(r.get(name)), str) for r in records))
    counted = all(_COUNTED.fullmatch(str(record.get(taken.id))) for record in records)
    places: dict[str, str] = {}
    predictions, problems = [], []
    for where, record in found:
        if isinstance(record, str):
            problems.append(f"{where}: {record}")
            continue
        fields = _fields(record, taken)
        if counted:
            fields["id"] = fields["id"].partition(".")[0]
        if isinstance(name := fields.get("id"), str) and name.strip().lower() in _NAN:
            problems.append(f"{where}: id is {name.strip()}, not text")
            continue
        try:
            prediction = Prediction.model_validate(fields)
        except ValidationError as error:
            problems.append(f"{where}: {_describe(error)}")
            continue
        if not allow_empty and not prediction.report:
            given = str(fields["report"]).strip()
            state = f"{given[:40]}, not text" if given else "empty"
            problems.append(f"{where}: report is {state} (if the model wrote nothing, add --allow-empty)")
        if prediction.id in places:
            problems.append(f"{where}: id {prediction.id} was already given on {places[prediction.id]}")
        places.setdefault(prediction.id, where)
        predictions.append(prediction)
    refuse(path, problems, "predictions")
    if notes is not None and taken.said:
        notes.append(f"in {path.name}, {taken.said}")
    return predictions


def _fields(record: dict[str, Any], taken: Taken) -> dict[str, Any]:
    """A prediction's fields, as the record gives them. A reference that is null or void is none."""
    found: dict[str, Any] = {name: record[name] for name in ("exemplar", "probabilities") if name in record}
    if taken.id in record:
        found["id"] = _id(record[taken.id])
    for role, names in (("report", taken.report), ("reference", taken.reference)):
        texts = [_one(record[name]) for name in names if name in record]
        if role == "reference" or len(texts) > 1:
            texts = [text for text in texts if text is not None and (not isinstance(text, str) or stated(text))]
        if texts:
            found[role] = texts[0] if len(texts) == 1 else " ".join(map(str, texts))
    return found


def _one(value: Any) -> Any:
    """The text of a list that holds but one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _id(value: Any) -> Any:
    """Text of a number, without the `.0` that a column with gaps gets."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value) if value == int(value) else value)
    return _one(value)


def _describe(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'the record'}: {item['msg']}"
        for item in error.errors(include_url=False, include_input=False)
    )
