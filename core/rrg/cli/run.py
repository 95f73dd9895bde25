"""`rrg run`: compose, train, generate and evaluate in one command."""

import argparse
from pathlib import Path

from rrg.cli.train import add_training
from rrg.composing.options import add_composition


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "run",
        help="compose, train, generate and evaluate in one command",
        description="Compose an expression, train it on a data folder, write reports for its test split, score them.",
        epilog="example: rrg run lead+dmsr --data data/iu-xray --out runs/lead-dmsr",
    )
    add_composition(parser, "?")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data folder of rrg data")
    add_training(parser)
    parser.add_argument("--show", type=int, default=3, metavar="N", help="print N reports beside their references")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import textwrap
    import time

    from rrg.cli._data import open_folder
    from rrg.cli._options import quiet_libraries
    from rrg.composing.options import composed
    from rrg.errors import UsageError

    recipe = composed(args)
    folder = open_folder(args.data)
    if not folder.split("test"):
        raise UsageError(f"{args.data}: no study of the split test to score; rrg train needs none")
    quiet_libraries()
    from rrg.generate.predictions import write_and_score
    from rrg.plan.counting import plan
    from rrg.train.training import train

    print(plan(recipe).table(), flush=True)
    started = time.monotonic()
    train(recipe, folder, args.out, resume=args.resume, workers=args.workers, save_steps=args.save_steps)
    trained = time.monotonic()
    predictions, scores = write_and_score(args.out, folder, args.workers)
    written = time.monotonic()
    for prediction in predictions[: max(args.show, 0)]:
        print(f"\nstudy {prediction['id']}")
        for title in ("report", "reference"):
            print(textwrap.fill(prediction[title], 110, initial_indent=f"  {title:<10}", subsequent_indent=" " * 12))
    print(f"\n{scores.table()}")
    print(
        f"\ntrained in {(trained - started) / 60:.1f} min, wrote and scored {len(predictions)} reports in "
        f"{(written - trained) / 60:.1f} min; everything is in {args.out}; rrg report {args.out} shows it as a page"
    )
    return 0
