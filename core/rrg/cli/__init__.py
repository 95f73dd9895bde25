"""The command `rrg`. Command modules import what is heavy when they run, so that --help stays quick."""

import argparse
import os
import sys
from importlib import import_module
from pkgutil import iter_modules


def parser() -> argparse.ArgumentParser:
    """The whole command line: every module of this folder that has no underscore before its name is a command."""
    from rrg import __version__

    root = argparse.ArgumentParser(
        prog="rrg",
        description="Radiology report generation from composable pieces.",
        epilog="example: rrg compose lead+dmsr",
    )
    root.add_argument("--version", action="version", version=f"rrg {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in sorted(module.name for module in iter_modules(__path__)):
        if not name.startswith("_"):
            import_module(f"rrg.cli.{name}").add(commands)
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one command. Exit codes: 0, 1 failed, 2 usage, 130 interrupted."""
    from rrg.cli._processes import is_main, refusal
    from rrg.errors import RRGError

    args = parser().parse_args(argv)
    if reason := refusal(args.command):
        if is_main():
            print(f"rrg: {reason}", file=sys.stderr)
        return 2
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except RRGError as error:
        print(f"rrg: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as head, has seen enough; the flush at exit would raise again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that may not be written, a file in a folder's place
        if error.strerror is None:
            raise
        print(f"rrg: {error.filename or 'the disk'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rrg: interrupted; what was finished is kept", file=sys.stderr)
        return 130
