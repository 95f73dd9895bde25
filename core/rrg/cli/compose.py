"""`rrg compose`: resolve an expression, print the plan, write the recipe."""

import argparse
from pathlib import Path

from rrg.cli._options import add_json
from rrg.composing.options import add_composition


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compose",
        help="resolve an expression to a recipe and print its plan",
        description="Resolve an expression to a recipe with every default filled in, and plan it without its weights: "
        "who feeds whom, what trains, parameters, memory, FLOPs.",
        epilog="example: rrg compose lead+dmsr --host qwen3-vl-8b -o recipe.toml",
    )
    add_composition(parser, "?")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the recipe")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from rrg.cli._options import quiet_libraries
    from rrg.composing.options import composed
    from rrg.composing.recipe import Recipe
    from rrg.errors import UsageError

    recipe = composed(args)
    if args.output and args.output.exists() and Recipe.open(args.output).hash != recipe.hash:
        raise UsageError(f"{args.output} holds another recipe; give another -o, or remove it first")
    quiet_libraries()
    from rrg.plan.counting import plan

    planned = plan(recipe)
    if args.output:
        recipe.save(args.output)
    if args.json:
        content = {"recipe": {**recipe.model_dump(mode="json"), "hash": recipe.hash}, "plan": planned.to_json()}
        print(json.dumps(content, indent=2))
    else:
        print(planned.table())
        if args.output:
            print(f"\nwrote {args.output}")
    return 0
