"""A data folder on the command line."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrg.data.study import StudyFolder

SHOWN = 5


def open_folder(path: Path | str) -> "StudyFolder":
    """Open a data folder and show its warnings on stderr."""
    from rrg.data.study import StudyFolder

    folder = StudyFolder.open(path)
    more = len(folder.warnings) - SHOWN
    for warning in [*folder.warnings[:SHOWN], *([f"and {more} more warnings"] if more > 0 else [])]:
        print(f"rrg: warning: {folder.path}: {warning}", file=sys.stderr)
    return folder
