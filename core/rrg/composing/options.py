"""A composition as it is typed: the options of `rrg compose`, which rows of registry.toml use too."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrg.composing.recipe import Recipe


def add_composition(parser: argparse.ArgumentParser, expression: str | None) -> None:
    """The options of a composition. expression: nargs of the positional; None where the command has none."""
    if expression is not None:
        parser.add_argument("expression", nargs=expression, metavar="EXPR", help="methods and pieces joined by +")
    parser.add_argument(
        "--host", metavar="NAME", help="language model: a known name, a hub id or a folder (default: tiny)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting: piece.field=VALUE")
    parser.add_argument("--drop", action="append", default=[], metavar="PIECE", help="leave a piece out")
    parser.add_argument(
        "--wire", action="append", default=[], metavar="READER.SIGNAL=PROVIDER", help="who feeds a reader"
    )
    parser.add_argument("--stages", metavar="A,B,…", help="the stages to train, in this order (default: see compose)")
    parser.add_argument("--from", dest="start", type=Path, metavar="RECIPE", help="begin from a recipe file")


def composed(args: argparse.Namespace) -> "Recipe":
    """The recipe that the options mean."""
    from rrg.composing.composition import compose
    from rrg.composing.recipe import Recipe

    start = Recipe.open(args.start) if args.start else None
    return compose(host=args.host, start=start, **_arguments(args))


def composition_of(text: str) -> dict[str, Any]:
    """Arguments of `compose` that a command line means, such as `lead --drop lead.gate`."""
    parser = argparse.ArgumentParser(prog="rrg compose")
    add_composition(parser, "?")
    return _arguments(parser.parse_args(shlex.split(text)))


def _arguments(args: argparse.Namespace) -> dict[str, Any]:
    from rrg.composing.settings import parse_setting, parse_wire

    return {
        "expression": args.expression,
        "settings": dict(parse_setting(text) for text in args.set),
        "drop": args.drop,
        "wire": dict(parse_wire(text) for text in args.wire),
        "stages": None if args.stages is None else [name.strip() for name in args.stages.split(",")],
    }
