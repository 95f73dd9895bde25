"""`rrg train`: train every stage of a recipe."""

import argparse
from pathlib import Path

from rrg.cli._options import add_workers


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "train",
        help="train a recipe's stages into a run folder",
        description="Train every stage of a recipe on the data's training split. The run folder holds the recipe, each "
        "stage's weights, the log and the retrieval index; an interrupted run goes on with --resume.",
        epilog="example: rrg train recipe.toml --data data/iu-xray --out runs/lead-dmsr",
    )
    parser.add_argument(
        "recipe", nargs="?", type=Path, metavar="RECIPE", help="file of rrg compose -o; the run's own with --resume"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="data folder; the run's own with --resume")
    add_training(parser)
    parser.set_defaults(run=run)


def add_training(parser: argparse.ArgumentParser) -> None:
    """The options of whatever trains."""
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder to make")
    parser.add_argument("--resume", action="store_true", help="go on where RUN was interrupted")
    add_workers(parser)
    parser.add_argument(
        "--save-steps", type=int, metavar="N", help="checkpoint every N optimizer steps too (default: at epochs' ends)"
    )


def run(args: argparse.Namespace) -> int:
    from rrg.cli._data import open_folder
    from rrg.cli._options import quiet_libraries
    from rrg.cli._processes import is_main
    from rrg.composing.recipe import Recipe
    from rrg.errors import UsageError
    from rrg.runs.folder import RECIPE, read_run, run_data

    recipe, data = args.recipe, args.data
    if args.resume:
        read_run(args.out)
        recipe = recipe or args.out / RECIPE
        data = data or run_data(args.out)
    if recipe is None or data is None:
        raise UsageError(
            "give a recipe and --data, such as: rrg train recipe.toml --data data/iu-xray --out runs/first"
        )
    content = Recipe.open(recipe)
    folder = open_folder(data)
    quiet_libraries()
    from rrg.train.training import train

    train(content, folder, args.out, resume=args.resume, workers=args.workers, save_steps=args.save_steps)
    if is_main():
        print(f"trained {', '.join(content.stages)} of recipe {content.hash} into {args.out}")
    return 0
