"""`rrg doctor`: what this environment has, what is wrong with it, and what to do."""

import argparse
from pathlib import Path

from rrg.cli._options import add_json


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what this environment has, and what is wrong with it",
        description="Examine versions, entry points, plugins, optional backends, GPU, torchvision, the machine, and "
        "data folders: those given and those below data/. Exit code 1 where there is a problem.",
        epilog="example: rrg doctor --data data/iu-xray",
    )
    parser.add_argument("--data", nargs="+", type=Path, default=[], metavar="DIR", help="data folders to open too")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from rrg.doctor import examine

    found = examine(args.data)
    if args.json:
        print(json.dumps([vars(finding) for finding in found], indent=2))
    else:
        width = max(len(finding.check) for finding in found)
        for finding in found:
            text = " ".join(f"{finding.text}; {finding.cure}".removesuffix("; ").split())
            print(f"{finding.mark:<7}  {finding.check:<{width}}  {text}")
    return int(any(finding.mark == "problem" for finding in found))
