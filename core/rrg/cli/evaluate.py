"""`rrg evaluate`: score generated reports and print them beside null baselines."""

import argparse

_EXAMPLE = """\
example:
  rrg evaluate runs/lead                      # reads runs/lead/predictions.jsonl and run.json, writes metrics.json
  rrg evaluate predictions.jsonl --data data/iu-xray --json
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command to `rrg`."""
    parser = commands.add_parser(
        "evaluate",
        help="score generated reports by a named protocol, beside null baselines",
        description="Score generated reports by a named protocol (BLEU, METEOR, ROUGE-L, CIDEr, clinical efficacy) "
        "beside null baselines on the same studies. Writes metrics.json beside the predictions.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("predictions", metavar="RUN_OR_FILE", help="a run folder, or a predictions.jsonl")
    parser.add_argument("--data", metavar="DIR", help="data folder of the studies (default: what run.json says)")
    parser.add_argument("--split", help="split of the studies (default: what run.json says, or test)")
    parser.add_argument("--protocol", default="r2gen", help="how reports are cleaned and scored (default: r2gen)")
    parser.add_argument("--rules", help="cleaning rules, iu or mimic, for a data set that the protocol does not know")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random baseline (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the JSON (default: metrics.json there)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, write the metrics atomically, print them."""
    from pathlib import Path

    from rrg.cli._data import open_folder
    from rrg.errors import UsageError
    from rrg.evaluate import evaluate, read_predictions
    from rrg.evaluate.predictions import FILE, read_run
    from rrg.evaluate.scores import write_scores

    given = Path(args.predictions)
    path = given / FILE if given.is_dir() else given
    made_from = read_run(path.parent)
    data, split = args.data or made_from.get("data"), args.split or made_from.get("split", "test")
    predictions = read_predictions(path)
    if data is None:
        raise UsageError(f"{path.parent}: no run.json says which data these predictions are of; add --data DIR")
    scores = evaluate(predictions, open_folder(data), args.protocol, split=split, rules=args.rules, seed=args.seed)
    output = Path(args.output) if args.output else path.parent / "metrics.json"
    write_scores(scores, output)
    print(scores.to_json() if args.json else f"{scores.table()}\n\nWritten to {output}")
    return 0
