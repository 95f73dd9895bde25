"""`predictions.jsonl`, one generated report a line, as `rrg generate` writes it and `rrg evaluate` reads it."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rrg.errors import DataError

FILE = "predictions.jsonl"
MAX_LINE_BYTES = 4 << 20
MAX_PROBLEMS = 20


class Exemplar(BaseModel):
    """The training report that a retriever put into the prompt."""

    model_config = ConfigDict(frozen=True)

    id: str
    report: str


class Prediction(BaseModel):
    """One study's generated report; `exemplar` and `probabilities` where the method has them."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(min_length=1)
    report: str
    reference: str = ""
    exemplar: Exemplar | None = None
    probabilities: dict[str, float] | None = None


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions of a file, in its order.

    Raises DataError that lists, with line numbers, lines that are not JSON or lack a field and ids given twice; or
    says that the file is missing or empty.
    """
    predictions: dict[str, tuple[int, Prediction]] = {}
    problems: list[str] = []
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB: not predictions")
                try:
                    prediction = Prediction.model_validate(json.loads(line))
                except ValidationError as error:
                    problems.append(f"line {number}: {_describe(error)}")
                except (ValueError, RecursionError) as error:
                    problems.append(f"line {number}: not JSON ({error})")
                else:
                    first, _ = predictions.setdefault(prediction.id, (number, prediction))
                    if first != number:
                        problems.append(f"line {number}: id {prediction.id} was already given on line {first}")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `rrg generate` writes it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if problems:
        more = len(problems) - MAX_PROBLEMS
        shown = problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        raise DataError(f"{path}: {len(problems)} of its lines are not predictions", shown)
    if not predictions:
        raise DataError(f"{path}: holds no predictions; was `rrg generate` interrupted?")
    return [prediction for _, prediction in predictions.values()]


def _describe(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'the line'}: {item['msg']}"
        for item in error.errors(include_url=False, include_input=False)
    )


def read_run(folder: Path) -> dict[str, str]:
    """`data` and `split` of the run.json in a folder, where there is one. Raises DataError if it is corrupt."""
    path = folder / "run.json"
    try:
        run = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(run, dict) or not all(isinstance(run.get(key, ""), str) for key in ("data", "split")):
        raise DataError(f'{path}: expected an object with "data" (a folder) and "split", both strings')
    return {key: run[key] for key in ("data", "split") if key in run}
