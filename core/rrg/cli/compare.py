"""`rrg compare`: do runs differ on the same studies, or could it be chance?"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from rrg.cli._options import add_json

_EXAMPLE = """\
example:
  rrg compare runs/lead runs/bare             # reads predictions.jsonl and run.json of each
  rrg compare ours.jsonl theirs.jsonl --data data/iu-xray --json
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to `rrg`."""
    parser = commands.add_parser(
        "compare",
        help="test whether runs differ on the same studies",
        description="Compare the first run to each of the others on the studies that all of them have: the difference "
        "of every metric with its bootstrap interval, p by paired approximate randomisation, and p after Holm's "
        "correction over all tests. Patients are resampled and swapped whole.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN_OR_FILE", help="a run folder, or a predictions.jsonl; two or more"
    )
    parser.add_argument("--data", metavar="DIR", help="data folder of the studies (default: what run.json says)")
    parser.add_argument("--split", help="split of the studies (default: what run.json says, or test)")
    parser.add_argument("--protocol", default="r2gen", help="how reports are cleaned and scored (default: r2gen)")
    parser.add_argument("--rules", help="cleaning rules, iu or mimic, for a data set that the protocol does not know")
    parser.add_argument("--permutations", type=int, default=10_000, help="random swaps of each test (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of swaps and resamples (default: 0)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from rrg.cli._data import open_folder
    from rrg.errors import UsageError
    from rrg.evaluate.comparison import compare
    from rrg.evaluate.predictions import read_predictions
    from rrg.runs.folder import PREDICTIONS

    if len(args.runs) < 2:
        raise UsageError(f"only {args.runs[0]} is given; name two runs or predictions files, or more")
    paths = {name: Path(name) / PREDICTIONS if Path(name).is_dir() else Path(name) for name in args.runs}
    seen: dict[str, str] = {}
    for name in args.runs:
        path = os.path.realpath(paths[name])  # of a loop of links too
        if path in seen:
            raise UsageError(f"{seen[path]} and {name} are the same file; name different runs")
        seen[path] = name
    data, split = args.data or _agreed("data", paths), args.split or _agreed("split", paths) or "test"
    said: list[str] = []
    systems = {name: read_predictions(path, notes=said) for name, path in paths.items()}
    if data is None:
        raise UsageError("no run.json beside them says which data these predictions are of; add --data DIR")
    found = compare(
        systems,
        open_folder(data),
        args.protocol,
        split=split,
        rules=args.rules,
        seed=args.seed,
        permutations=args.permutations,
    )
    found = replace(found, notes=[*said, *found.notes])
    print(found.to_json() if args.json else found.table())
    return 0


def _agreed(key: str, paths: dict[str, Path]) -> str | None:
    """What every run.json there is says. Raises UsageError where two differ."""
    from rrg.errors import UsageError
    from rrg.runs.folder import made_from

    said = {name: value for name, path in paths.items() if (value := made_from(path.parent).get(key))}
    if len(set(said.values())) > 1:
        listed = ", ".join(f"{name}: {value}" for name, value in said.items())
        raise UsageError(f"these runs are of different {key} ({listed}); name one that has all studies with --{key}")
    return next(iter(said.values()), None)
