"""Errors that a person reads: what was given, what was expected, what to do. The command line prints them plainly."""

from collections.abc import Sequence


class RRGError(Exception):
    """A failure that is the input's, not the program's. `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.message, self.problems = message, list(problems)
        super().__init__("\n".join([message, *(f"  - {problem}" for problem in self.problems)]))


class UsageError(RRGError):
    """The command or the composition is wrong: nothing has been started."""

    exit_code = 2


class DataError(RRGError):
    """Data on disk is missing, corrupt or mislabelled."""
