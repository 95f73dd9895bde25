"""Records of a file that anyone wrote: a table, JSON lines, or one JSON document in any of the forms in use."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rrg.data.files import check_input
from rrg.data.tables import MAX_LINE_BYTES, TABLES, GivenTwice, records, unique
from rrg.errors import DataError

MAX_DOCUMENT_BYTES = 64 << 20
KEY = "its key"
"""The field in which an object by id hands its ids on."""
Row = tuple[str, dict[str, Any] | str]
"""Where a record stands, such as "line 3", and what it holds or what is wrong with it."""
_MARK = b"\xef\xbb\xbf"


def rows(path: Path, what: str, known: Callable[[str], bool], hint: str = "") -> Iterator[Row]:
    """The records of a table, of JSON lines, or of a JSON document: an array, an object by id, or one of columns.

    known: whether a name is a field's, by which an object of columns is told from one by id. A text by id becomes
    {"report": text}.

    Raises DataError as `records` does, and for a document that is broken, in another form or larger than 64 MiB.
    """
    check_input(path)
    content = _document(path)
    if content is not None:
        try:
            yield from _items(path, json.loads(content, object_pairs_hook=unique), known)
            return
        except (ValueError, RecursionError) as error:
            if content.startswith(b"[") or isinstance(error, GivenTwice):
                raise DataError(f"{path}: not JSON: {error}") from None
    # No document, so records a line each; what is wrong with a line is said with its number.
    yield from ((f"line {number}", record) for number, record in records(path, what, hint))


def _document(path: Path) -> bytes | None:
    """The content of what may be one JSON document, not records a line each."""
    if path.name.lower().removesuffix(".gz").endswith(TABLES):
        return None
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            head = file.read(MAX_LINE_BYTES).removeprefix(_MARK).lstrip()
            line, _, more = head.partition(b"\n")
            if not head.startswith((b"{", b"[")) or (head.startswith(b"{") and more.strip() and _is_record(line)):
                return None
            content: bytes = head + file.read(MAX_DOCUMENT_BYTES)
    except (OSError, EOFError, zlib.error):
        return None  # `records` says what it is
    if len(content) <= MAX_DOCUMENT_BYTES:
        return content
    if head.startswith(b"["):
        raise DataError(f"{path}: a JSON array of more than {MAX_DOCUMENT_BYTES >> 20} MiB; write one object a line")
    return None


def _is_record(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _items(path: Path, document: Any, known: Callable[[str], bool]) -> Iterator[Row]:
    if isinstance(document, dict):
        lists = [key for key, value in document.items() if isinstance(value, list) and _objects(value)]
        fields = {key: value for key, value in document.items() if known(key)}
        if len(lists) > 1:
            raise DataError(f"{path}: holds the lists {', '.join(lists)}; give a file of the one that is meant")
        if lists:
            document = document[lists[0]]
        elif any(not isinstance(value, list | dict) for value in fields.values()):
            yield "line 1", document
            return
        elif fields:
            document = _turned(path, fields)
    if isinstance(document, list):
        for number, item in enumerate(document, 1):
            yield f"item {number}", item if isinstance(item, dict) else f"not an object but {type(item).__name__}"
    else:
        name = _name(document)
        for key, value in document.items():
            yield key, {**(value if isinstance(value, dict) else {"report": value}), name: key}


def _name(keys: Iterable[str]) -> str:
    """What the keys are called: rows that are only counted, as pandas does, are no ids where there are others."""
    return "index" if all(key == str(number) for number, key in enumerate(keys)) else KEY


def _objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _turned(path: Path, columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of an object of columns, each a list, or an object whose keys are the rows'."""
    first = next(iter(columns.values()))
    if all(isinstance(column, list) and len(column) == len(first) for column in columns.values()):
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if all(isinstance(column, dict) and column.keys() == first.keys() for column in columns.values()):
        return [{**{name: column[row] for name, column in columns.items()}, _name(first): row} for row in first]
    sizes = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
    raise DataError(f"{path}: an object of columns whose rows differ ({sizes})")
