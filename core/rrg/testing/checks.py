"""The table of checks: each a promise that pieces of some kinds keep, chosen by kind and by what a piece declares."""

from collections.abc import Callable
from dataclasses import dataclass

from rrg.testing.case import Broken, Case

MODULES = ("encoder", "connector", "injector", "loss", "retriever")


@dataclass(frozen=True)
class Check:
    """name: as printed. promise: one line. kinds: of pieces. applies: whether this piece declares or reads it.

    needs: checks that must hold before this one says anything; it isn't run where one of them fails.
    """

    name: str
    promise: str
    kinds: tuple[str, ...]
    run: Callable[[Case], None]
    applies: Callable[[Case], bool]
    needs: tuple[str, ...]


CHECKS: dict[str, Check] = {}
RUNS = ("builds", "shapes")
REPEATS = (*RUNS, "deterministic", "requests")  # what compares two calls


def check(
    *kinds: str, applies: Callable[[Case], bool] = lambda case: True, needs: tuple[str, ...] = RUNS
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register a function as a check by its own name; its docstring is the promise."""

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        name = function.__name__
        CHECKS[name] = Check(name, (function.__doc__ or "").strip(), kinds, function, applies, needs)
        return function

    return register


def declared(attribute: str) -> Callable[[Case], bool]:
    return lambda case: bool(case.declares(attribute))


def broken(message: str | None) -> None:
    """Raise where there is something to say."""
    if message:
        raise Broken(message)
