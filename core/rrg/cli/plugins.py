"""`rrg plugins`: what is installed, what each plugin gives, and why a broken one gives nothing."""

import argparse

from rrg.cli._options import add_json


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plugins",
        help="list plugins, their pieces, and what is wrong with broken ones",
        description="List every plugin of the entry-point group `rrg` with its pieces; a broken one with its reason.",
        epilog="example: rrg plugins --json",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from rrg.plugins import find

    found = find()
    if args.json:
        rows = [
            {
                "plugin": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "problem": plugin.problem,
                "pieces": [{"name": r.name, "kind": r.kind, "help": r.piece.help} for r in plugin.pieces],
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
    return 0
