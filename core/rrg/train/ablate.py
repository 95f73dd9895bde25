"""Comparisons that papers print, as tables of compositions: each row trained and scored over several seeds."""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrg.composing.composition import compose
from rrg.composing.recipe import Recipe
from rrg.composing.registry import registry
from rrg.composing.resolve import did_you_mean
from rrg.composing.settings import parse_setting
from rrg.data.study import StudyFolder
from rrg.errors import DataError, UsageError
from rrg.pieces import RESERVED
from rrg.runs.folder import METRICS, RECIPE, RUN, fingerprint, read_run

if TYPE_CHECKING:
    from rrg.evaluate import Scores

SHOWN = {"CIDEr": "cider", "BLEU-4": "bleu_4", "ROUGE-L": "rouge_l"}


@dataclass(frozen=True)
class Table:
    """A comparison of registry.toml. rows: by name, what stands behind `rrg run` or `rrg compose`."""

    name: str
    title: str
    rows: dict[str, str]


def tables() -> dict[str, Table]:
    """Every table of registry.toml, by name."""
    return {t["name"]: Table(t["name"], t["title"], dict(t["rows"])) for t in registry()["tables"]}


def table_of(name: str) -> Table:
    """A table by name. Raises UsageError for an unknown one."""
    known = tables()
    if name not in known:
        raise UsageError(f"no table {name}{did_you_mean(name, known)}; tables: {', '.join(known)}")
    return known[name]


def recipe_of(
    row: str, host: str | None = None, settings: Mapping[str, Any] | None = None, steps: int | None = None
) -> Recipe:
    """The recipe of a row. settings: over the row's own. steps: optimizer steps in all, shared by its epochs among the
    stages, one at least for each.
    """
    from rrg.composing.options import composition_of

    given = composition_of(row)
    changed = {**given.pop("settings"), **(settings or {})}
    recipe = compose(**given, host=host, settings=changed)
    if steps is None:
        return recipe
    if steps < len(recipe.stages):
        raise UsageError(f"steps={steps}: {row!r} has {len(recipe.stages)} stages; give one step for each at least")
    epochs = [float(recipe.pieces[name]["epochs"]) for name in recipe.stages]
    spare = steps - len(epochs)  # beside the one of each stage
    ends = [round(spare * sum(epochs[: place + 1]) / sum(epochs)) for place in range(len(epochs))]
    share = {
        f"{name}.max_steps": 1 + end - before
        for name, before, end in zip(recipe.stages, [0, *ends], ends, strict=False)
    }
    return compose(**given, host=host, settings={**changed, **share})


def run_table(
    table: Table,
    folder: StudyFolder,
    out: Path,
    *,
    host: str | None = None,
    settings: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    steps: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run every row with every seed into out/ROW/seed-N; what is finished there is not run again.

    settings: of all rows that have the piece.

    Gives each row's scores by seed, the protocol and the null baselines.

    Raises UsageError before anything runs where a row cannot be composed, or `out` holds runs of other recipes.
    """
    from rrg.evaluate.scores import read_scores
    from rrg.generate.predictions import write_and_score
    from rrg.train.training import train

    chosen = dict(parse_setting(text) for text in settings)
    if "seed" in chosen:
        raise UsageError("--set seed: a table runs over --seeds")
    plain = {}
    for row, text in table.rows.items():
        try:
            plain[row] = recipe_of(text, host)
        except UsageError as error:
            raise UsageError(f"{table.name}, row {row}: {error}") from error
    fits = {row: {key: value for key, value in chosen.items() if _fits(key, plain[row])} for row in plain}
    unused = [key for key in chosen if not any(key in own for own in fits.values())]
    if unused:
        raise UsageError(f"--set {unused[0]}: no row of {table.name} has such a piece")
    recipes = {
        (row, seed): recipe_of(text, host, {**fits[row], "seed": seed}, steps)
        for row, text in table.rows.items()
        for seed in seeds
    }
    places = {key: out / slug(key[0]) / f"seed-{key[1]}" for key in recipes}
    for key, place in places.items():
        if (place / RECIPE).exists() and Recipe.open(place / RECIPE).hash != recipes[key].hash:
            raise UsageError(f"{place} holds another recipe; give another --out, or remove it")
        if (place / RUN).exists() and read_run(place).get("fingerprint") != fingerprint(folder.path):
            raise UsageError(f"{place} was trained on other studies than {folder.path}'s; give another --out")
    for number, (key, place) in enumerate(places.items(), start=1):
        if not (place / METRICS).exists():
            say(f"[{number}/{len(places)}] {key[0]}, seed {key[1]}")
            train(recipes[key], folder, place, resume=(place / RECIPE).exists())
            write_and_score(place, folder)
    return summary(table, {key: read_scores(place / METRICS) for key, place in places.items()}, steps)


def _fits(key: str, recipe: Recipe) -> bool:
    """Whether a setting is one of all recipes or of a piece that this one has."""
    return key.partition(".")[0] in RESERVED or ".".join(key.split(".")[:2]) in recipe.pieces


def slug(row: str) -> str:
    """A row's folder: `experts-alone`."""
    return re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")


def summary(table: Table, scores: Mapping[tuple[str, int], "Scores"], steps: int | None) -> dict[str, Any]:
    """Scores by row and seed, with what they were measured by."""
    first = next(iter(scores.values()))
    for (row, seed), found in scores.items():
        for key in ("data", "split", "n", "signature"):
            one, other = getattr(found, key), getattr(first, key)
            if one != other:
                raise DataError(f"{row}, seed {seed}: {key} is {one}, elsewhere {other}")
    rows = {
        row: {
            "compose": text,
            "seeds": {str(seed): _figures(found, "model") for (name, seed), found in scores.items() if name == row},
        }
        for row, text in table.rows.items()
    }
    return {
        "table": table.name,
        "title": table.title,
        "data": first.data,
        "split": first.split,
        "n": first.n,
        "protocol": first.signature,
        "steps": steps,
        "rows": rows,
        "baselines": {
            name: _figures(first, name) for name in first.rows if name not in ("model", "copy the retrieved")
        },
    }


def _figures(scores: "Scores", row: str) -> dict[str, float | None]:
    found = scores.rows[row]
    figures: dict[str, float | None] = {name: getattr(found, key) for name, key in SHOWN.items()}
    figures = {"macro-F1": found.clinical.macro.f1, **figures}
    return figures | ({"distinct": scores.distinct} if row == "model" else {})


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t over the seeds); nan for one seed."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def markdown(found: Mapping[str, Any]) -> str:
    """The table for reading: a mean over the seeds and its 95 % interval in each cell."""
    seeds = len(next(iter(found["rows"].values()))["seeds"])
    columns = list(next(iter(next(iter(found["rows"].values()))["seeds"].values())))
    steps = f", {found['steps']} optimizer steps a row" if found["steps"] else ""
    lines = [
        f"{found['title']}: {found['data']}, split {found['split']}, n = {found['n']}, {seeds} seeds{steps}; "
        "mean ± half of the 95 % interval over the seeds (Student's t).",
        "",
        f"Protocol `{found['protocol']}`; macro-F1 over 14 observations, uncertain as 0.",
        "",
        f"| row | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for row, content in found["rows"].items():
        cells = [_cell(column, [figures[column] for figures in content["seeds"].values()]) for column in columns]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    for name, figures in found["baselines"].items():
        lines.append(f"| *{name}* | {' | '.join(_number(figures[c]) if c in figures else '' for c in columns)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def _cell(column: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "—"
    mean, half = interval(known)
    form = "{:.0f}" if column == "distinct" else "{:.3f}"
    return form.format(mean) + ("" if math.isnan(half) else f" ± {form.format(half)}")


def commands(table: Table) -> list[tuple[str, str]]:
    """Each row's command."""
    return [
        (row, f"rrg run {text} --data DATA --out runs/{table.name}/{slug(row)}") for row, text in table.rows.items()
    ]
