"""A data folder on the command line."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrg.data.study import StudyFolder

SHOWN = 5


def open_folder(path: Path | str) -> "StudyFolder":
    """Open a data folder and show its warnings on stderr, once where several processes do."""
    from rrg.cli._processes import is_main
    from rrg.data.study import StudyFolder

    folder = StudyFolder.open(path)
    more = len(folder.warnings) - SHOWN
    shown = [*folder.warnings[:SHOWN], *([f"and {more} more warnings"] if more > 0 else [])]
    for warning in shown if is_main() else []:
        print(f"rrg: warning: {folder.path}: {warning}", file=sys.stderr)
    return folder
