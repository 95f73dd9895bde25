"""Records of a table or JSON-lines file that someone else wrote: each with its line, and what is wrong said plainly."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TextIO

from rrg.data import archives
from rrg.data.archives import Member
from rrg.data.files import check_input
from rrg.errors import DataError

MAX_LINE_BYTES = 4 << 20
MAX_PROBLEMS = 20
TABLES = (".csv", ".tsv", ".tab")
_SEPARATORS = ",\t;|"
_TOO_LONG = f"longer than {MAX_LINE_BYTES >> 20} MiB"
Record = tuple[int, dict[str, Any] | str]
"""A line's number, and what it holds or what is wrong with it."""


def records(path: Path | Member, what: str, hint: str = "", columns: Sequence[str] = ()) -> Iterator[Record]:
    """The records of `path`, a table or JSON lines, either gzipped; white-space lines are passed over.

    Which one it is, its suffix says (.csv, .tsv, .tab; .json, .jsonl, .ndjson), else how it begins. A table's cells are
    separated by what its header has most of: comma, tab, semicolon or bar.

    A member of an archive is held in memory as it is (at most 256 MiB); of a file, a record at a time.

    what: what the file should hold, for messages. columns: those that a CSV must have.

    Raises DataError where it is a pipe or cannot be read, is not UTF-8 as a whole, lacks a column, has a line of more
    than 4 MiB, or in a CSV a record of more or a NUL byte.
    """
    if isinstance(path, Path):
        check_input(path)
    name = (path.name if isinstance(path, Path) else path.name.rpartition("/")[2]).lower()
    content = archives.read(path) if isinstance(path, Member) else None

    def opened() -> IO[bytes]:
        source = path if isinstance(path, Path) else io.BytesIO(content or b"")
        if name.endswith(".gz"):
            return gzip.open(source)  # type: ignore[return-value]
        return source.open("rb") if isinstance(source, Path) else source

    try:
        with opened() as file:
            head = file.read(64)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{path}: UTF-16, and {what} are read as UTF-8; save it as UTF-8")
        with opened() as file:
            yield from _csv(file, path, what, columns) if _is_table(name, head) else _json_lines(file, path, what)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{hint}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


class GivenTwice(ValueError):
    """An object of JSON has a key twice."""


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """For json.loads, which would take the last of two. Raises GivenTwice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise GivenTwice(f"{max(keys, key=keys.count)!r} is given twice in one object")
    return found


def _is_table(name: str, head: bytes) -> bool:
    """Whether a file of that name that begins so is a table, not JSON."""
    name = name.lower().removesuffix(".gz")
    if name.endswith((*TABLES, ".json", ".jsonl", ".ndjson")):
        return name.endswith(TABLES)
    return not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"["))


def refuse(path: Path, problems: list[str], what: str) -> None:
    """Raise DataError with the first problems, if there are any."""
    if problems:
        more = len(problems) - MAX_PROBLEMS
        shown = problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        raise DataError(f"{path}: {len(problems)} of its lines are not {what}", shown)


def _json_lines(file: IO[bytes], path: Path | Member, what: str) -> Iterator[Record]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"{path}: line {number}: {_TOO_LONG}: not {what}")
        if line.isspace():
            continue
        if number == 1 and line.lstrip().startswith(b"["):
            raise DataError(f"{path}: a JSON array, and {what} are read as JSON lines: one object a line")
        try:
            record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"), object_pairs_hook=unique)
        except UnicodeDecodeError as error:
            yield number, f"not UTF-8 (byte {line[error.start]:#04x}); save the file as UTF-8"
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON ({error})"
        else:
            yield number, record if isinstance(record, dict) else f"not an object but {type(record).__name__}"


class _Lines:
    """The lines of a CSV, `left` characters of them until the next record."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.left = MAX_LINE_BYTES

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(self.left + 1):
            self.left -= len(line)
            if self.left < 0:
                raise csv.Error("limit")
            if "\0" in line:
                raise csv.Error("a NUL byte")
            yield line


def _separator(header: str) -> str:
    bare = re.sub(r'"[^"]*"', "", header)
    return max(_SEPARATORS, key=bare.count)  # the first of equals: a comma


def _csv(binary: IO[bytes], path: Path | Member, what: str, columns: Sequence[str]) -> Iterator[Record]:
    before = csv.field_size_limit(MAX_LINE_BYTES)
    line = 0
    try:
        with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file:
            separator = _separator(file.readline(MAX_LINE_BYTES))
            file.seek(0)
            lines = _Lines(file)
            rows = csv.reader(lines, strict=True, delimiter=separator)
            header = [name.strip() for name in next(rows, [])]
            if twice := sorted({name for name in header if header.count(name) > 1}):
                raise DataError(f"{path}: columns given more than once: {', '.join(map(repr, twice))}")
            if missing := [name for name in columns if name not in header]:
                shown = ", ".join(header[:MAX_PROBLEMS]) or "none"
                raise DataError(f"{path}: not {what}: no column {', '.join(missing)}; its columns are {shown}")
            line, lines.left = rows.line_num, MAX_LINE_BYTES
            for row in rows:
                # A cell may hold line breaks: a record starts on the line after the one before.
                number, line, lines.left = line + 1, rows.line_num, MAX_LINE_BYTES
                if not row:
                    continue
                if len(row) != len(header):
                    yield number, f"{len(row)} cells under {len(header)} columns"
                else:
                    yield number, dict(zip(header, row, strict=True))
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(f"{path}: not UTF-8 (byte {byte:#04x} after line {line}); save it as UTF-8") from None
    except csv.Error as error:
        reason = _TOO_LONG if "limit" in str(error) else str(error)
        raise DataError(f"{path}: line {line + 1}: {reason}: not {what}") from None
    finally:
        csv.field_size_limit(before)
