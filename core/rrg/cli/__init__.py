"""The command `rrg`. Command modules import what is heavy when they run, so that --help stays quick."""

import argparse
import sys
from importlib import import_module

COMMANDS = ("compose", "plugins", "data", "train", "generate", "evaluate", "run")


def parser() -> argparse.ArgumentParser:
    from rrg import __version__

    root = argparse.ArgumentParser(
        prog="rrg",
        description="Radiology report generation from composable pieces.",
        epilog="example: rrg compose lead+dmsr",
    )
    root.add_argument("--version", action="version", version=f"rrg {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"rrg.cli.{name}").add(commands)
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one command. Exit codes: 0, 1 failed, 2 usage, 130 interrupted."""
    from rrg.errors import RRGError

    args = parser().parse_args(argv)
    try:
        return int(args.run(args))
    except RRGError as error:
        print(f"rrg: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("rrg: interrupted; what was finished is kept", file=sys.stderr)
        return 130
