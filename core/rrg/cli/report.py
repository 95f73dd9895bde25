"""`rrg report`: a run as one HTML page."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "report",
        help="show a run as one HTML page: scores, findings, cases",
        description="Write one HTML page of a run that was evaluated: its scores beside null baselines, each finding, "
        "and its cases with films, both texts with findings marked as agreed, missed or hallucinated, the retrieved "
        "report, and what the model's gates and disease tokens did. The page needs no network and runs no script.",
        epilog="example: rrg report runs/demo -o demo.html --cases 60",
    )
    parser.add_argument("path", metavar="RUN", type=Path, help="run folder of rrg run, or of train, generate, evaluate")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: RUN/report.html")
    parser.add_argument("--cases", type=int, default=40, metavar="N", help="at most N cases, worst first (default: 40)")
    parser.add_argument("--seed", type=int, metavar="N", help="draw the cases at random by this seed instead")
    parser.add_argument("--no-internals", action="store_true", help="do not load the model: no gates, no attention")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data folder (default: the one it was trained on)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rrg.cli._options import quiet_libraries

    if not args.no_internals:
        quiet_libraries()
    from rrg.report import write_page

    path = write_page(
        args.path,
        args.output,
        data=args.data,
        cases=args.cases,
        seed=args.seed,
        internals=not args.no_internals,
    )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
