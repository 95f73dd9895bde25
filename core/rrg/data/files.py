"""Files that a user names: judged before the work, written whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from rrg.errors import DataError, RRGError


def check_input(path: Path) -> None:
    """Raises DataError for a pipe or a device: what is read twice cannot be one."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: a pipe or a device, which can't be read twice; save it as a file, and give that")


def check_output(path: Path, begins: str, what: str) -> None:
    """Raises RRGError where `path` cannot become a file, or is one that holds something but `what`.

    begins: how every `what` begins.
    """
    if path.exists() and not path.is_file():
        reason = "Is a directory" if path.is_dir() else "a pipe or a device"
        raise RRGError(f"{path}: could not be written: {reason}; name another file")
    if not path.parent.is_dir():
        raise RRGError(f"{path}: could not be written: no folder {path.parent}; make it, or name another file")
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(len(begins.encode()))
        if start not in (b"", begins.encode()):
            raise RRGError(f"{path}: is there, and is not {what}: it stays; name another file, or remove it")


def write_output(path: Path, content: str) -> None:
    """Write under a temporary name, then rename. Raises RRGError where the folder cannot be written."""
    partial = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise RRGError(f"{path}: could not be written: {error.strerror}; name another file") from error
    finally:
        with suppress(OSError):
            partial.unlink()
