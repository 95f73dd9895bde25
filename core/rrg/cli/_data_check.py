"""`rrg data check`: leaks and faults of a data folder, before they become results."""

import argparse
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrg.check import Check, Finding

WIDTH, NAMES = 100, 38
"""Columns of the output, and of the names in it."""


def add(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = kinds.add_parser(
        "check",
        help="check a data folder: published counts, leaks between splits, broken films, reports",
        description="Check a data folder: its counts beside the published ones; patients, studies, films and reports "
        "shared between splits; unreadable, constant and repeated films; empty and repeated reports; prevalence and "
        "lengths. Exit code 1 where there is an error.",
        epilog="example: rrg data check data/iu-xray --html check.html",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="data folder")
    parser.add_argument("--quick", action="store_true", help="open no film: metadata, texts and manifest only")
    parser.add_argument("--strict", action="store_true", help="exit code 1 for warnings too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with example films too")
    parser.add_argument(
        "--examples", type=_count, default=3, metavar="N", help="show N of each finding, and films a split (default: 3)"
    )
    parser.add_argument("--workers", type=_count, metavar="N", help="parallel workers (default: one per core)")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of the table; it has them all")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, print, and end with 1 where there are errors (with --strict: or warnings)."""
    from rrg.check import check_folder
    from rrg.data.files import check_output
    from rrg.report.sheet import BEGINS

    if args.html:
        check_output(args.html, BEGINS, "a page of rrg")
    check = check_folder(args.folder, quick=args.quick, workers=args.workers or None)
    if args.html:
        from rrg.check.page import write_check

        write_check(check, args.html, args.examples)
    if args.json:
        print(json.dumps(check.as_json(), indent=2))
    else:
        print("\n".join(_table(check, args.examples)))
        if args.html:
            print(f"wrote {args.html} ({args.html.stat().st_size / 1e6:.1f} MB)")
    return int(bool(check.levels["error"] or (args.strict and check.levels["warning"])))


def _table(check: "Check", examples: int) -> Iterator[str]:
    from rrg.check.findings import LEVELS, some
    from rrg.observations import OBSERVATIONS

    yield _printable(f"{check.folder.card['name']}, {check.folder.path}")
    yield ""
    yield f"{'':<{NAMES}}" + "".join(f"{split:>12}" for split in check.numbers)
    shares = [numbers["prevalence"] for numbers in check.numbers.values()]
    for name, cells in [*check.table, *((name, [f"{of[name]:.1%}" for of in shares]) for name in OBSERVATIONS)]:
        yield f"{name:<{NAMES}}" + "".join(f"{cell:>12}" for cell in cells)
    yield ""
    yield "Observations: share of the split's studies labelled present."
    yield ""
    for finding in check.findings:
        yield from _finding(finding, examples)
    yield ""
    counts = [f"{check.levels['ok']} ok", *(some(check.levels[level], level) for level in LEVELS[1:])]
    yield ", ".join(counts) + ("" if check.opened else "; no film was opened")


def _finding(finding: "Finding", examples: int) -> Iterator[str]:
    yield from _wrap(finding.text, f"{finding.level:<9}{finding.title:<{NAMES - 9}}")
    if finding.level == "ok":
        return
    yield from _wrap(f"→ {finding.advice}", " " * NAMES, "  ")
    for example in finding.examples[:examples]:
        yield from _wrap(f"- {example}", " " * NAMES, "  ")
    if (more := len(finding.examples) - examples) > 0:
        yield f"{'':<{NAMES}}… and {more:,} more: see --json, or --examples"


def _wrap(text: str, start: str, hang: str = "") -> list[str]:
    return textwrap.wrap(_printable(text), WIDTH, initial_indent=start, subsequent_indent=" " * NAMES + hang)


def _printable(text: str) -> str:
    """Without what would move the cursor, colour the screen or turn the line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 0 or more")
    return number
