"""`rrg run`: compose, train, generate and evaluate in one command."""

import argparse
from pathlib import Path

from rrg.cli._options import add_composition


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "run",
        help="compose, train, generate and evaluate in one command",
        description="Compose an expression, train it on a data folder, write reports for its test split, score them.",
        epilog="example: rrg run lead+dmsr --data data/iu-xray --out runs/lead-dmsr",
    )
    add_composition(parser, "?")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data folder of rrg data")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder to make")
    parser.add_argument("--resume", action="store_true", help="go on where RUN was interrupted")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode films (default: 0)")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="print N reports beside their references")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import textwrap
    import time

    from rrg.cli._options import composed, quiet_libraries

    recipe = composed(args)
    quiet_libraries()
    from rrg.data.study import StudyFolder
    from rrg.evaluate import evaluate, read_predictions
    from rrg.evaluate.scores import write_scores
    from rrg.plan import plan
    from rrg.run import load, write_predictions
    from rrg.training import train

    folder = StudyFolder.open(args.data)
    print(plan(recipe).table(), flush=True)
    started = time.monotonic()
    train(recipe, args.data, args.out, resume=args.resume, workers=args.workers)
    trained = time.monotonic()
    predictions = write_predictions(load(args.out), folder, "test", args.out / "predictions.jsonl")
    generated = time.monotonic()
    scores = evaluate(read_predictions(args.out / "predictions.jsonl"), folder)
    write_scores(scores, args.out / "metrics.json")
    for prediction in predictions[: args.show]:
        print(f"\nstudy {prediction['id']}")
        for title in ("report", "reference"):
            print(textwrap.fill(prediction[title], 110, initial_indent=f"  {title:<10}", subsequent_indent=" " * 12))
    print(f"\n{scores.table()}")
    print(f"\ntrained in {(trained - started) / 60:.1f} min, wrote {len(predictions)} reports in "
          f"{(generated - trained) / 60:.1f} min; everything is in {args.out}")
    return 0
