"""`rrg plugins`: what is installed, what each plugin gives, and why a broken one gives nothing."""

import argparse
from typing import TYPE_CHECKING

from rrg.cli._options import add_json

if TYPE_CHECKING:
    from rrg.pieces import Registered


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plugins",
        help="list plugins, their pieces, and what is wrong with broken ones",
        description="List every plugin of the entry-point group `rrg` with its pieces. Each piece is loaded; what is "
        "broken is said with its reason.",
        epilog="example: rrg plugins --json",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from rrg.composing.plugins import find

    found = find()
    problems = {name: _problem(registered) for name, registered in found.pieces.items()}
    if args.json:
        rows = [
            {
                "plugin": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "problem": plugin.problem,
                "pieces": [
                    {"name": r.name, "kind": r.kind, "help": r.piece.help, "problem": problems[r.name]}
                    for r in plugin.pieces
                ],
            }
            for plugin in found.plugins
        ]
        print(json.dumps(rows, indent=2))
        return 0
    width = max((len(name) for name in found.pieces), default=0)
    for plugin in found.plugins:
        print(f"{plugin.name}  ({plugin.distribution} {plugin.version})")
        if plugin.problem:
            print(f"  broken: {plugin.problem}")
        for registered in plugin.pieces:
            print(f"  {registered.name:<{width}}  {registered.kind:<9}  {registered.piece.help}")
            if problems[registered.name]:
                print(f"    broken: {problems[registered.name]}")
    return 0


def _problem(registered: "Registered") -> str | None:
    from rrg.composing.contract import contract_of
    from rrg.errors import RRGError

    try:
        contract_of(registered)
    except RRGError as error:
        return error.message
    return None
