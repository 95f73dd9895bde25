"""`rrg bench`: the kernels beside their references, peers and floors, in one run."""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from rrg.cli._options import add_json


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "bench",
        help="measure the kernels beside their references, in one run",
        description="Run the tests of what is measured, then time every way to do it, interleaved. Results are kept "
        "below benchmarks/results of the checkout; make docs-pages writes docs/performance.md from them.",
        epilog="example: rrg bench gated-fusion --quick",
    )
    parser.add_argument("case", nargs="*", metavar="CASE", help="gated-fusion, selective-scan, … (default: all)")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, to see that it runs; nothing is kept")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to measure (default: cpu)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from rrg.errors import UsageError

    folder = Path(__file__).parents[3] / "benchmarks"
    if not (folder / "cases.py").exists():
        raise UsageError("benchmarks are part of rrg's repository, not of its package: run rrg bench in a checkout")
    sys.path.insert(0, str(folder))
    import torch

    cases: dict[str, Any] = import_module("cases").CASES
    runner = import_module("runner")
    unknown = [name for name in args.case if name not in cases]
    if unknown:
        raise UsageError(f"no case {unknown[0]}; cases: {', '.join(cases)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: no GPU here")
    if not args.quick:
        runner.check_results()
    results = []
    for name in args.case or cases:
        found = runner.run(
            cases[name], device=args.device, quick=args.quick, say=lambda text: print(text, file=sys.stderr, flush=True)
        )
        if found is None:
            print(f"{name}: its tests fail, so nothing was measured", file=sys.stderr)
            return 1
        if not args.quick:
            runner.save(found)
        results.append(found)
        if not args.json:
            print(f"\n{name}\n\n{runner.table(found)}", flush=True)
    if args.json:
        print(json.dumps(results, indent=1))
    return 0
