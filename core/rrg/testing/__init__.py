"""The contract suite: what every piece of rrg promises, checked on ours and on a stranger's alike.

    rrg test lead
    pytest --pyargs rrg.testing.suite --rrg-plugin lead

`run` does one check of one piece; `select` says which checks a piece of that kind and those declarations is due. It
needs the extra rrg-compose[test].
"""

import contextlib
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rrg.composing.plugins import Plugins, find
from rrg.composing.resolve import did_you_mean
from rrg.errors import RRGError, UsageError
from rrg.testing import modules  # noqa: F401  (they register their checks, the plain ones first)

# isort: split
from rrg.testing import compositions, injectors, retrievers  # noqa: F401
from rrg.testing.case import Broken, Case, first_line
from rrg.testing.checks import CHECKS, Check

__all__ = ["CHECKS", "Broken", "Case", "Check", "Result", "due", "run", "select"]


@dataclass(frozen=True)
class Result:
    """One check of one piece.

    message: its failure's first line, naming piece, check and sizes; None where it holds. skipped: the check that it
    needs and that doesn't hold, so that it was not run.
    """

    piece: str
    check: str
    message: str | None = None
    skipped: str | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def select(
    names: Iterable[str], *, examples: int = 10, device: str = "cpu", plugins: Plugins | None = None
) -> list[Case]:
    """The pieces that names mean: an entry point's, a method's, or one piece.

    Raises UsageError for a name that means nothing, where nothing is selected, and for a device that is not there.
    """
    try:
        torch.empty(1, device=device).item()
    except Exception as error:
        raise UsageError(f"device {device!r}: not on this machine: {first_line(error)}") from error
    plugins = plugins or find()
    cases: dict[str, Case] = {}
    problems = []
    for name in names:
        broken = [p.problem for p in plugins.plugins if p.name == name and p.problem]
        found = [
            piece
            for piece in plugins.pieces.values()
            if name in (piece.name, piece.plugin, piece.piece.method, piece.piece.short)
        ]
        known = {n for p in plugins.pieces.values() for n in (p.name, p.plugin, p.piece.method)}
        if not found:
            unknown = f"no such plugin or piece{did_you_mean(name, known)}"
            reason = f"its plugin is broken: {broken[0]}" if broken else unknown
            problems.append(f"{name}: {reason}; rrg plugins lists them")
        cases |= {piece.name: Case(piece, plugins, examples, device) for piece in found}
    if problems or not cases:
        raise UsageError("nothing to test", problems or ["name a plugin or a piece, such as: rrg test lead"])
    return list(cases.values())


def due(case: Case) -> list[Check]:
    """The checks that a piece is due, by its kind and by what it reads and declares; one, where it cannot be read."""
    try:
        _ = case.contract
    except RRGError:
        return [CHECKS["contract"]]
    return [check for check in CHECKS.values() if case.kind in check.kinds and check.applies(case)]


def run(case: Case, check: Check) -> Result:
    """Run one check, and first those that it needs; each runs once. Whatever a piece raises is its failure."""
    if check.name not in case.results:
        wanted = [other for other in due(case) if other.name in check.needs]
        unmet = [other.name for other in wanted if (result := run(case, other)).message or result.skipped]
        skipped = Result(case.name, check.name, skipped=unmet[0]) if unmet else None
        case.results[check.name] = skipped or _run(case, check)
    found: Result = case.results[check.name]
    return found


def _run(case: Case, check: Check) -> Result:
    started, message = time.monotonic(), None
    case.where = ""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a piece may print; standard output is for the results
            check.run(case)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        plain = " ".join(str(error).split())
        what = plain if isinstance(error, Broken) else f"{type(error).__name__}: {first_line(error)}"
        message = f"{case.name}: {check.name}: {what}{f' ({case.where})' if case.where else ''}"
    return Result(case.name, check.name, message, seconds=time.monotonic() - started)
