"""`write_page`: everything of a run that `rrg report` shows, as one HTML file that needs nothing else."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from tqdm import tqdm

from rrg.composing.recipe import Recipe
from rrg.data.files import check_output, write_output
from rrg.data.study import CARD, METADATA, Study, StudyFolder, describe
from rrg.errors import DataError, RRGError, UsageError
from rrg.evaluate import Prediction, read_predictions
from rrg.labels import Labeler, get_labeler
from rrg.report.casebook import casebook
from rrg.report.cases import Case, cases_of, chosen
from rrg.report.internals import Internals
from rrg.report.markup import text
from rrg.report.scores import Metrics, read_metrics
from rrg.report.sections import findings, summary
from rrg.report.sheet import BEGINS, whole
from rrg.runs.folder import METRICS, PAGE, PREDICTIONS, RECIPE, read_run, run_data


def write_page(
    run: Path,
    output: Path | None = None,
    *,
    data: Path | None = None,
    cases: int = 40,
    seed: int | None = None,
    internals: bool = True,
) -> Path:
    """Write the page of an evaluated run, by default RUN/report.html, and say where it lies.

    data: the data folder (default: the one it was trained on). cases: at most so many. seed: draw them at random
    instead of taking the worst. internals: load the model and let it re-read the cases.

    Raises UsageError where `run` holds no run, DataError where its predictions, metrics or data are missing or corrupt,
    RRGError where the page cannot be written.
    """
    if cases < 1:
        raise UsageError(f"--cases {cases}: give 1 or more")
    if output is not None:
        check_output(output, BEGINS, "a page of rrg")
    state = read_run(run)
    predictions, metrics = read_predictions(run / PREDICTIONS), read_metrics(run / METRICS)
    folder = read_studies(data or run_data(run), predictions)
    labeler, notes = _labeler(metrics)
    notes += _mismatch(metrics, predictions, folder)
    every = cases_of(predictions, folder, labeler, {report.id: report for report in metrics.scores.reports})
    taken = chosen(every, cases, seed)
    found, note = _internals(run, folder, taken) if internals else ({}, "Without the model's internals, as asked for.")
    how = "worst first" if seed is None or len(taken) == len(every) else f"drawn at random (seed {seed}), worst first"
    body = [
        _header(run, state, metrics, notes),
        "<main>",
        summary(metrics),
        findings(metrics),
        casebook(taken, every, how, folder, labeler, found, note),
        "</main>",
    ]
    output = output or run / PAGE
    write_output(output, whole(f"{run.resolve().name}: radiology reports", "\n".join(body)))
    return output


def read_studies(path: Path, predictions: Sequence[Prediction]) -> StudyFolder:
    """The predictions' studies, whether their films are there or not.

    Raises DataError where `path` is no data folder or has none of the studies.
    """
    wanted = {prediction.id for prediction in predictions}
    try:
        card = json.loads((path / CARD).read_bytes())
        lines = (path / METADATA).read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; give the run's data folder with --data") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no data folder of rrg: {CARD}: {error}; give the run's with --data") from error
    if not isinstance(card, dict):
        raise DataError(f"{path}: no data folder of rrg: {CARD} holds no object; give the run's with --data")
    studies = []
    for number, line in enumerate(lines, 1):
        try:
            study = Study.model_validate_json(line)
        except ValidationError as error:
            reason = f"{METADATA}, line {number}: {describe(error)}"
            raise DataError(f"{path}: no data folder of rrg: {reason}; give the run's with --data") from error
        if study.id in wanted:
            studies.append(study)
    if not studies:
        raise DataError(
            f"{path}: none of the {len(wanted)} predicted studies is in it; give the right folder with --data"
        )
    return StudyFolder(path, card, studies)


def _labeler(metrics: Metrics) -> tuple[Labeler, list[str]]:
    """The labeler that the scores were made with, where it needs nothing more; else the bundled one."""
    labeler, name = get_labeler(), metrics.scores.labeler
    try:
        return get_labeler(name), []
    except RRGError:
        return labeler, [f"sentences are marked by the labeler {labeler.name}, not by {name}, which made the scores"]


def _mismatch(metrics: Metrics, predictions: Sequence[Prediction], folder: StudyFolder) -> list[str]:
    notes = []
    if (n := metrics.scores.n) != len(predictions):
        notes.append(
            f"{METRICS} scores {n} studies, {PREDICTIONS} has {len(predictions)}; score anew with rrg evaluate"
        )
    if absent := len(predictions) - len(folder.studies):
        notes.append(f"{absent} of the predicted studies are not in the data folder")
    return notes


def _internals(run: Path, folder: StudyFolder, cases: Sequence[Case]) -> tuple[dict[str, Internals | str], str]:
    """What the model's modules see of each case, or why not; and a note for all."""
    from rrg.report.reader import Reader

    try:
        reader = Reader(run, folder)
    except Exception as error:  # weights, plugins and libraries may fail in any way, and the rest of the page stands
        reason = (str(error).strip() or type(error).__name__).replace(f"{run}{os.sep}", "")
        return {}, f"Without the model's internals: the run could not be loaded. {reason}"
    if not reader.has_something:
        return {}, ""
    found: dict[str, Internals | str] = {}
    for case in tqdm(cases, desc="re-read", unit="case", leave=False, disable=None):
        try:
            found[case.id] = reader.read(case) if case.study else "it is not in the data folder"
        except RRGError as error:
            found[case.id] = error.message.removeprefix(f"{folder.path}/")
    return found, ""


def _header(run: Path, state: dict[str, object], metrics: Metrics, notes: Sequence[str]) -> str:
    try:
        expression = Recipe.open(run / RECIPE).expression
    except RRGError:
        expression = ""
    finished = str(state.get("finished", "")).replace("T", " ")
    split = metrics.scores.split
    about = [f"split {split} of {metrics.scores.data}" if split else metrics.scores.data]
    about += [f"trained until {finished}"] if finished else []
    said = "".join(f'<p class="note">{text(note)}.</p>' for note in notes)
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in ("summary", "findings", "cases"))
    return (
        f"<header><h1>{text(run.resolve().name)}</h1>"
        + (f'<p class="expression">{text(expression)}</p>' if expression else "")
        + f"<p>{text(', '.join(about))}</p>{said}"
        '<p class="source">Generated reports are for research, not for care.</p>'
        f"<nav>{links}</nav></header>"
    )
