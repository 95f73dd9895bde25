"""`rrg test`: whether pieces keep their contracts."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rrg.cli._options import add_json

if TYPE_CHECKING:
    from rrg.testing import Result

_EXAMPLE = """\
example:
  rrg test lead
  rrg test lead.gate --examples 100 --device cuda
  rrg test focal --xfail known.txt      # lines such as: focal.loss rows
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "test",
        help="check that pieces keep their contracts",
        description="Run the contract suite on a plugin, a method or a piece, ours or yours: shapes, dtypes, masks, "
        "rows, gradients, saving, decoding on tiny hosts, retrieval, stages. Exit code 1 where a promise is broken.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="plugin, method or piece of rrg plugins")
    parser.add_argument("--examples", type=int, default=10, metavar="N", help="examples of each check (default: 10)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … (default: cpu)")
    parser.add_argument(
        "--xfail", type=Path, metavar="FILE", help="known failures, `PIECE CHECK` a line; stale ones fail"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from rrg.cli._options import quiet_libraries
    from rrg.errors import UsageError

    known = _read(args.xfail) if args.xfail else set()
    if args.examples < 1:
        raise UsageError(f"--examples {args.examples}: give 1 or more")
    quiet_libraries()
    try:
        from rrg import testing
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed; pip install 'rrg-compose[test]'") from error
    from tqdm import tqdm

    cases = testing.select(args.names, examples=args.examples, device=args.device)
    pairs = [(case, check) for case in cases for check in testing.due(case)]
    bar = tqdm(pairs, desc="rrg test", unit="check", leave=False, disable=None)
    results = [testing.run(case, check) for case, check in bar]
    failed = {(result.piece, result.check) for result in results if result.message}
    unknown = {(result.piece, result.check) for result in results if result.skipped}
    stale = sorted(f"{piece} {check}" for piece, check in known - failed - unknown)
    if args.json:
        rows = [{**r.to_json(), "expected": (r.piece, r.check) in known} for r in results]
        print(json.dumps({"results": rows, "stale": stale}, indent=2))
    else:
        _print(results, known, stale)
    return 1 if failed - known or stale else 0


def _read(path: Path) -> set[tuple[str, str]]:
    from rrg.errors import UsageError

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--xfail {path}: cannot be read: {error}") from error
    rows = [line.partition("#")[0].split() for line in lines]
    wrong = [f"line {number}: {lines[number - 1]}" for number, row in enumerate(rows, 1) if len(row) not in (0, 2)]
    if wrong:
        raise UsageError(f"--xfail {path}: expected `PIECE CHECK` a line, such as: lead.gate causal", wrong)
    return {(row[0], row[1]) for row in rows if row}


def _print(results: "list[Result]", known: set[tuple[str, str]], stale: list[str]) -> None:
    pieces = dict.fromkeys(result.piece for result in results)
    width = max(map(len, pieces))
    for piece in pieces:
        own = [result for result in results if result.piece == piece]
        bad, skipped = [r for r in own if r.message], [r for r in own if r.skipped]
        holds = f"{len(own) - len(bad) - len(skipped)} of {len(own)} checks hold"
        print(f"{piece:<{width}}  {holds}  {sum(result.seconds for result in own):.1f} s")
        for result in bad:
            print(f"  {'known: ' if (result.piece, result.check) in known else ''}{result.message}")
        for need in dict.fromkeys(result.skipped for result in skipped):
            print(f"  not run before {need} holds: {', '.join(r.check for r in skipped if r.skipped == need)}")
    for line in stale:
        print(f"stale: {line}: it holds, or is no check of what was tested; delete the line")
