"""`rrg new`: write a plugin package to begin from."""

import argparse
from pathlib import Path

from rrg.hookspecs import KINDS


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "new",
        help="write a plugin package with one working piece and its test",
        description="Write the package rrg-NAME: pyproject.toml with its entry point, README.md, one working piece "
        "after a published method, and its test.",
        epilog="example: rrg new focal --kind loss",
    )
    parser.add_argument("name", metavar="NAME", help="the method's name in expressions: lower case, digits, hyphens")
    parser.add_argument("--kind", choices=KINDS.values(), default="loss", help="what the piece is (default: loss)")
    parser.add_argument(
        "--into", type=Path, default=Path(), metavar="DIR", help="where rrg-NAME is written (default: here)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import shlex

    from rrg.authoring.new import expression, new

    folder = new(args.name, args.kind, args.into)
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder}", *written, sep="\n  ")
    steps = [
        f"pip install -e {shlex.quote(str(folder))}",
        "rrg plugins",
        f"rrg compose {expression(args.name, args.kind)}",
        f"rrg test {args.name}",
    ]
    print("next:", *steps, sep="\n  ")
    return 0
