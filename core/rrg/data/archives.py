"""Tar and zip archives as collections ship them: read member by member, in their own order, never unpacked to disk."""

import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rrg.data.study import MAX_FILM_BYTES, relative_name
from rrg.errors import DataError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
Opened = Iterator[tuple[str, int, IO[bytes]]]


@dataclass(frozen=True, order=True)
class Member:
    """A file within an archive, by its plain relative name."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.name} in {self.archive}"


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def names(path: Path) -> list[str]:
    """The files of an archive, in its order. Raises DataError as `members` does."""
    return [name for name, _, _ in _walk(path, MAX_FILM_BYTES)]


def members(
    path: Path, wanted: Collection[str] | None = None, limit: int = MAX_FILM_BYTES
) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the wanted members, all of them without `wanted`, in one pass.

    Raises DataError for an archive that is no tar or zip, is cut short or encrypted, and for a member that leads out
    (an absolute name, `..`), is a link or a device, stands twice, or has more than `limit` bytes.
    """
    for name, size, file in _walk(path, limit):
        if wanted is None or name in wanted:
            content = file.read(limit + 1)
            if len(content) != size:
                raise DataError(f"{path}: member {name} declares {size:,} bytes and holds {len(content):,} or more")
            yield name, content


def _walk(path: Path, limit: int) -> Opened:
    """Every file: its name, its declared size, and the open file. What archives may not hold is refused on the way."""
    seen: set[str] = set()
    read = _zip if path.name.lower().endswith(".zip") else _tar
    with _refusing(path):
        for name, size, file in read(path):
            plain = _plain(path, name)
            if plain in seen:
                raise DataError(f"{path}: member {plain} stands in it twice, so which one is meant is not clear")
            if size > limit:
                raise DataError(f"{path}: member {plain} has {size:,} bytes; more than {limit >> 20} MiB is refused")
            seen.add(plain)
            yield plain, size, file


def _tar(path: Path) -> Opened:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.isdir():
                continue
            file = archive.extractfile(member) if member.isreg() else None
            if file is None:
                raise DataError(f"{path}: member {member.name} is no plain file but a link or a device: refused")
            yield member.name, member.size, file


def _zip(path: Path) -> Opened:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if (member.external_attr >> 16) & 0o170000 not in (0, 0o100000):
                raise DataError(f"{path}: member {member.filename} is no plain file but a link or a device: refused")
            with archive.open(member) as file:
                yield member.filename, member.file_size, file


def _plain(path: Path, name: str) -> str:
    try:
        return relative_name(name.removeprefix("./"))
    except ValueError:
        raise DataError(f"{path}: member {name!r} would lie outside the folder it is unpacked to: refused") from None


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be read as an archive: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
