"""Tar and zip archives as collections ship them: read member by member, in their own order, never unpacked to disk.

An archive may be hostile. What it holds is bounded in number, in size and in how far it expands, before it is held in
memory; a name that could stand for another file on some system is refused.
"""

import gzip
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path

from rrg.data.study import MAX_FILM_BYTES, relative_name
from rrg.errors import DataError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_MEMBERS = 1_000_000  # MIMIC-CXR, the largest collection read here, has 605,000 films and reports
MAX_HEADER_BYTES = 1 << 16  # of a tar between two members' contents: long names and extended headers
MAX_RATIO = 200  # the collection's reports, the most compressible of what is read here, reach 32
FREE_BYTES = 64 << 20  # may come of an archive however small it is


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
    """The files of an archive, in its order. Raises DataError as `members` does, whatever the members' sizes."""
    return [name for name, _, _ in _walk(path)]


def read(member: Member, limit: int = MAX_FILM_BYTES) -> bytes:
    """The content of one member. Raises DataError as `members` does, and where the archive has no such member."""
    for _, content in members(member.archive, {member.name}, limit):
        return content
    raise DataError(f"{member.archive}: has no member {member.name}")


def members(
    path: Path, wanted: Collection[str] | None = None, limit: int = MAX_FILM_BYTES
) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the wanted members, all of them without `wanted`, in one pass. Holds one content at a time.

    Raises DataError for an archive that is no tar or zip, is cut short, damaged or encrypted, has more than a million
    members, overlapping ones, or expands more than 200 times; for a member that leads out (an absolute name, `..`, a
    drive), is a link or a device, or stands twice (names that differ by case only are one file on many systems); for a
    wanted one of more than `limit` bytes, or of another size than it declares.
    """
    with closing(_walk(path)) as walked:
        for name, size, read in walked:
            if wanted is not None and name not in wanted:
                continue
            if size > limit:
                raise DataError(f"{path}: member {name} has {size:,} bytes; more than {limit:,} are refused")
            with _refusing(path):
                content = read(size + 1)
            if len(content) != size:
                raise DataError(f"{path}: member {name} declares {size:,} bytes and holds another number")
            yield name, content


def _walk(path: Path) -> Generator[tuple[str, int, Callable[[int], bytes]], None, None]:
    """Every file: its name, its declared size, and what reads it. What archives may not hold is refused on the way."""
    seen: set[str] = set()
    with _refusing(path):
        for number, (name, size, read) in enumerate((_zip if path.name.lower().endswith(".zip") else _tar)(path), 1):
            if number > MAX_MEMBERS:
                raise DataError(f"{path}: more than {MAX_MEMBERS:,} members, which is refused")
            if read is None or size < 0:
                raise DataError(f"{path}: member {name!r} is no plain file but a link, a device or sparse: refused")
            if name.endswith("/"):  # a folder
                continue
            plain = _plain(path, name)
            if plain.casefold() in seen:
                raise DataError(f"{path}: member {plain} stands in it twice, so which one is meant is not clear")
            seen.add(plain.casefold())
            yield plain, size, read


def _tar(path: Path) -> Iterator[tuple[str, int, Callable[[int], bytes] | None]]:
    with closing(_Forward(path)) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
        while (member := archive.next()) is not None:
            archive.members.clear()  # which would grow with the archive
            if member.isdir():
                yield member.name + "/", 0, bytes
                continue
            file = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            stream.left = MAX_HEADER_BYTES + min(member.size, MAX_FILM_BYTES)
            yield member.name, member.size, file and file.read
        # tarfile takes whatever is no header for the end
        if stream.last.strip(b"\0") or len(stream.last) != tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it is cut short or damaged: no end mark after its last member")
        stream.seek(1 << 63)  # to its end, where gzip's checksum stands


class _Forward:
    """What tarfile reads from, in one direction: a file, gunzipped where it is gzipped.

    left: bytes that may be read until the next member; a header cannot ask for more. last: the bytes last read.
    """

    def __init__(self, path: Path) -> None:
        self._raw = path.open("rb")
        self._file = gzip.GzipFile(fileobj=self._raw) if self._raw.peek(2)[:2] == b"\x1f\x8b" else self._raw
        self._position = 0
        self.left = MAX_HEADER_BYTES
        self.last = b""

    def close(self) -> None:
        self._raw.close()

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        while self._position < position and self._take(min(position - self._position, 1 << 20)):
            pass

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"a header of more than {MAX_HEADER_BYTES:,} bytes")
        self.left -= size
        return self._take(size)

    def _take(self, size: int) -> bytes:
        self.last = self._file.read(size)
        self._position += len(self.last)
        _bounded(self._position, self._raw.tell())
        return self.last


def _bounded(expanded: int, packed: int) -> None:
    if expanded > MAX_RATIO * packed + FREE_BYTES:
        raise tarfile.ReadError(f"it expands more than {MAX_RATIO} times, to {expanded:,} bytes and more")


class _Directory(FileIO):
    """A zip whose list of members is no longer than MAX_MEMBERS allows: zipfile reads it at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if (size or 0) > MAX_FILM_BYTES:
            raise zipfile.BadZipFile(f"its list of members has {size:,} bytes")
        content = super().read(size) or b""
        if content.count(b"PK\1\2") > MAX_MEMBERS:
            raise zipfile.BadZipFile(f"more than {MAX_MEMBERS:,} members, which is refused")
        return content


def _zip(path: Path) -> Iterator[tuple[str, int, Callable[[int], bytes] | None]]:
    with _Directory(path) as source, zipfile.ZipFile(source) as archive:
        found = archive.infolist()
        _bounded(sum(member.file_size for member in found), path.stat().st_size)
        for one, other in pairwise(sorted(found, key=lambda member: member.header_offset)):
            if one.header_offset + one.compress_size + 30 > other.header_offset:  # 30: the shortest header
                raise zipfile.BadZipFile(f"members {one.filename} and {other.filename} overlap")
        for member in found:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others expand without bound
                raise zipfile.BadZipFile(f"member {member.filename} is packed by method {member.compress_type}")
            if member.flag_bits & 1:
                raise zipfile.BadZipFile(f"member {member.filename} is encrypted; unpack it with its password")

            def content(size: int, member: zipfile.ZipInfo = member) -> bytes:
                with archive.open(member) as file:
                    return file.read(size)

            is_plain = (member.external_attr >> 16) & 0o170000 in (0, 0o040000, 0o100000)
            # filename ends at a NUL, and knows no backslash on Windows
            yield member.orig_filename, member.file_size, content if is_plain else None


def _plain(path: Path, name: str) -> str:
    try:
        name.encode()
        if re.match("[A-Za-z]:", name):
            raise ValueError
        return relative_name(name.removeprefix("./"))
    except ValueError:
        reason = "would lie outside the folder it is unpacked to, or is no name on some systems"
        raise DataError(f"{path}: member {name!r} {reason}: refused") from None


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        gzip.BadGzipFile,
        RuntimeError,
        NotImplementedError,
        ValueError,
    ) as error:
        raise DataError(f"{path}: cannot be read as an archive: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
