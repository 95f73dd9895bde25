"""DICOM by pydicom: a file's elements up to its pixels, and the few fields that a reader of a collection needs.

`rrg.data.dicom_pixels` gives the pixels. Sections are those of the DICOM standard, of PS3.3 where no part is named.
"""

import io
import os
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite, nan
from pathlib import Path
from re import fullmatch
from typing import IO, Any, BinaryIO, cast

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from rrg.data.study import MAX_FILM_BYTES
from rrg.errors import DataError

_PREAMBLE = 132  # 128 bytes of anything, then "DICM" (PS3.10 7.1)
_SYNTAX, _CLASS = "TransferSyntaxUID", "SOPClassUID"
_PIXELS, _OTHER_PIXELS = 0x7FE00010, (0x7FE00008, 0x7FE00009)
_FIELDS = [
    "ViewPosition",
    "PatientPosition",
    "PatientOrientationCodeSequence",
    "StudyDate",
    "StudyTime",
    "PatientID",
    "StudyInstanceUID",
    "BurnedInAnnotation",
]
_POSITIONS = ("erect", "semi-erect", "recumbent")  # PS3.16, CID 19
_QUIET = threading.Lock()
if hasattr(os, "register_at_fork"):  # a worker that is forked while a thread of its parent reads a film
    os.register_at_fork(after_in_child=lambda: globals().update(_QUIET=threading.Lock()))


@dataclass(frozen=True)
class Header:
    """What a reader may know of a film beside its pixels; each text "" where the field is absent or malformed.

    view: ViewPosition, such as PA, AP, LL. position: erect, semi-erect or recumbent, else PatientPosition. date: the
    study's, ISO 8601 ("2180-05-06T21:30:14", or "2180-05-06" without a time). burned_in: the file says that its pixels
    hold text, which may name the patient; importers leave such films out.

    patient and study: PatientID and StudyInstanceUID, by which readers group films. They are never written.
    """

    view: str
    position: str
    date: str
    patient: str = field(repr=False)
    study: str = field(repr=False)
    burned_in: bool


def header(source: Path | bytes, where: str = "") -> Header:
    """The header of a film. No other field of it leaves this module, and no pixel is read.

    where: names the film in messages; by default its path. Raises DataError for a file that is missing or no DICOM,
    lies about its lengths, or holds no pixels.
    """
    where = where or (str(source) if isinstance(source, Path) else "film")
    with quiet(where):
        if isinstance(source, bytes):
            return _header(parse(io.BytesIO(source), len(source), _FIELDS, where))
        if not source.is_file():
            raise DataError(f"{where}: no such film")
        with source.open("rb") as file:
            return _header(parse(file, source.stat().st_size, _FIELDS, where))


def _header(film: "Elements") -> Header:
    orientation = film.item("PatientOrientationCodeSequence")
    meaning = film.text("CodeMeaning", orientation).lower() if orientation else ""
    return Header(
        view=code(film.text("ViewPosition")),
        position=meaning if meaning in _POSITIONS else code(film.text("PatientPosition")),
        date=_date(film.text("StudyDate"), film.text("StudyTime")),
        patient=film.text("PatientID"),
        study=film.text("StudyInstanceUID"),
        burned_in=film.text("BurnedInAnnotation").upper() == "YES",
    )


def code(text: str) -> str:
    """A code string (PS3.5 6.2, CS), else "": what else stands in such a field may be a name."""
    return text if fullmatch(r"[A-Z0-9 _]{1,16}", text) else ""


def _uid(uid: UID) -> str:
    """What a UID stands for."""
    return uid.name if uid.is_valid else "none"


def _date(day: str, time: str) -> str:
    """DA and TM (PS3.5 6.2) as ISO 8601; seconds that are not given are 00."""
    try:
        date = datetime.strptime(day.replace(".", ""), "%Y%m%d").strftime("%Y-%m-%d")
    except ValueError:
        return ""
    time = time.partition(".")[0].replace(":", "")
    try:
        return f"{date}T{datetime.strptime(time.ljust(6, '0'), '%H%M%S'):%H:%M:%S}" if len(time) in (4, 6) else date
    except ValueError:
        return date


@contextmanager
def quiet(where: str) -> Iterator[None]:
    """Whatever pydicom and its plug-ins raise on hostile bytes as one DataError, and none of their warnings.

    Filters of warnings are the process's: one thread at a time.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            # Where all plug-ins fail, pydicom names them after a colon.
            text = " ".join(str(error).rpartition("plugins:")[2].split()) or type(error).__name__
            raise DataError(f"{where}: cannot be decoded: {text}") from error


class _Bounded:
    """A file that ends a reader who reads on and on: lengths that lie can send pydicom back and forth.

    A read costs its bytes and 1 KiB; together they may cost four times the file and 64 MiB.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left = file, 4 * size + (64 << 20)
        self.seek, self.tell = file.seek, file.tell

    def read(self, length: int = -1) -> bytes:
        content = self.file.read(length)
        self.left -= len(content) + 1024
        if self.left < 0:
            raise ValueError("its elements contradict each other, or are too many")
        return content


@dataclass(frozen=True)
class Elements:
    """A film's wanted elements; its pixels are the `length` bytes (None: undefined) from `start` of `file`."""

    where: str
    values: Dataset
    syntax: UID
    file: IO[bytes]
    vr: str
    start: int
    length: int | None

    def wrong(self, text: str) -> DataError:
        return DataError(f"{self.where}: cannot be decoded: {text}")

    def bytes(self, keyword: str, item: Dataset | None = None) -> bytes:
        element = (self.values if item is None else item).get_item(Tag(keyword))
        value = None if element is None else element.value
        return value if isinstance(value, bytes) else b""

    def text(self, keyword: str, item: Dataset | None = None) -> str:
        return self.bytes(keyword, item).decode("latin-1").strip(" \0")

    def words(self, keyword: str, item: Dataset | None = None) -> np.ndarray:
        """16-bit words, unsigned."""
        content = self.bytes(keyword, item)
        order = ">" if self.syntax == ExplicitVRBigEndian else "<"
        return np.frombuffer(content[: len(content) & ~1], f"{order}u2").astype("<u2")

    def integer(self, keyword: str, default: int | None = None) -> int:
        found = self.words(keyword)
        if len(found):
            return int(found[0])
        if default is None:
            raise self.wrong(f"{keyword} {'has no value' if keyword in self.values else 'is missing'}")
        return default

    def number(self, keyword: str) -> float | None:
        """The first of a text's numbers; None where it is empty or absent."""
        text = self.text(keyword).partition("\\")[0].strip()
        try:
            number = float(text) if text else None
        except ValueError:
            number = nan
        if number is not None and not isfinite(number):
            raise self.wrong(f"{keyword} is no number")
        return number

    def item(self, keyword: str) -> Dataset | None:
        """The first item of a sequence."""
        items = self.values[keyword].value if keyword in self.values else None
        return items[0] if items else None


def parse(file: IO[bytes], size: int, keywords: list[str], where: str) -> Elements:
    """The elements `keywords` of a file, of those before its pixels. Raises what `quiet` turns into a DataError."""
    if size > MAX_FILM_BYTES:
        raise DataError(f"{where}: larger than {MAX_FILM_BYTES >> 20} MiB, which is refused")
    if file.read(_PREAMBLE)[128:] != b"DICM":
        raise DataError(f"{where}: no DICOM file: no DICM at byte 128")
    meta = _read(_Bounded(file, size), False, True, lambda tag, vr, length: tag >> 16 != 2, [_SYNTAX])
    syntax = UID(Elements(where, meta, UID(""), file, "", 0, None).text(_SYNTAX))
    if syntax not in AllTransferSyntaxes:
        raise DataError(f"{where}: cannot be decoded: unknown transfer syntax: {_uid(syntax)}")
    if syntax == DeflatedExplicitVRLittleEndian:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), MAX_FILM_BYTES + 1)
        if len(inflated) > MAX_FILM_BYTES:
            raise DataError(f"{where}: inflates to more than {MAX_FILM_BYTES >> 20} MiB, which is refused")
        file, size = io.BytesIO(inflated), len(inflated)

    pixels: list[tuple[int, str, int, int]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if found := tag in (_PIXELS, *_OTHER_PIXELS):
            pixels.append((tag, vr or "OW", file.tell(), length))
        return found

    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    values = _read(_Bounded(file, size), implicit, little, at_pixels, [_CLASS, *keywords])
    tag, vr, start, length = pixels[-1] if pixels else (0, "", 0, 0)
    film = Elements(where, values, syntax, file, vr, start, None if length == 0xFFFFFFFF else length)
    if not pixels:
        raise DataError(
            f"{where}: holds no pixels (its class: {_uid(UID(film.text(_CLASS)))}), or is cut short before them"
        )
    if tag != _PIXELS:
        raise film.wrong("its pixels are floating-point numbers; a film's are integers")
    if film.length is not None and start + film.length > size:
        raise film.wrong(f"its pixels are cut short: {film.length:,} bytes declared, {size - start:,} there")
    return film


def _read(file: _Bounded, implicit: bool, little: bool, stop: Any, keywords: list[str]) -> Dataset:
    tags = [Tag(keyword) for keyword in keywords]
    return read_dataset(cast(BinaryIO, file), implicit, little, stop_when=stop, specific_tags=cast(Any, tags))
