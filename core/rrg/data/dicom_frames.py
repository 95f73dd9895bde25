"""The words that the pixels of a DICOM film are stored in, decoded by pydicom and its plug-ins."""

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

from rrg.data.dicom import Elements, code
from rrg.data.dicom_gdcm import decode_apart
from rrg.data.dicom_streams import Stream, stream, whole_runs
from rrg.data.pixels import MAX_PIXELS
from rrg.errors import DataError

PLUGINS = ("pylibjpeg", "pillow", "pyjpegls", "pydicom", "gdcm")
"""pydicom's; the last crashes on some broken frames and runs apart."""

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1} | dict.fromkeys(
    ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"], 3
)
# What a field that is void or missing must be, by another.
_BY_SHAPE = {"IDENTITY": "MONOCHROME2", "INVERSE": "MONOCHROME1"}  # PresentationLUTShape (C.11.6.1.2)
_DX = "1.2.840.10008.5.1.4.1.1.1.1"  # SOP classes whose pixels are unsigned (C.8.11.3)


@dataclass(frozen=True)
class Image:
    """How pixels are stored (C.7.6.3): words of `allocated` bits, of which the `stored` bits up to `high` count."""

    photometric: str
    samples: int
    planar: int
    rows: int
    columns: int
    allocated: int
    stored: int
    high: int
    signed: int

    @classmethod
    def of(cls, film: Elements) -> "Image":
        """Raises DataError for what no film is: several frames, too many pixels, other bits or colours.

        A field without a value is taken from another that leaves no choice. No frames are one.
        """
        frames = film.number("NumberOfFrames")
        if frames not in (None, 0, 1):
            raise DataError(f"{film.where}: {frames:g} frames; a film is one: give each as a file of its own")
        coded = film.syntax.is_encapsulated and film.syntax != RLELossless  # then words are the values themselves
        allocated = film.integer("BitsAllocated")
        high = film.integer("HighBit", -1)
        stored = film.integer("BitsStored", high + 1 or None)
        shape = film.text("PresentationLUTShape")
        photometric = film.text("PhotometricInterpretation") or _BY_SHAPE.get(shape, "")
        if not photometric:
            raise film.wrong("PhotometricInterpretation has no value, so that black and white cannot be told")
        unsigned = _SAMPLES.get(photometric) == 3 or film.text("SOPClassUID").startswith(_DX)
        image = cls(
            photometric=photometric,
            samples=film.integer("SamplesPerPixel", _SAMPLES.get(photometric)),
            planar=0 if coded else film.integer("PlanarConfiguration", 0),
            rows=film.integer("Rows"),
            columns=film.integer("Columns"),
            allocated=allocated,
            stored=stored,
            high=stored - 1 if coded or high < 0 else high,
            signed=film.integer("PixelRepresentation", 0 if unsigned else None),
        )
        if image.rows * image.columns > MAX_PIXELS:
            size = f"{image.columns}×{image.rows} pixels"
            raise DataError(f"{film.where}: {size}, above the limit of {MAX_PIXELS // 10**6} megapixels")
        if not image.rows * image.columns:
            raise film.wrong(f"{image.columns}×{image.rows} pixels")
        if _SAMPLES.get(photometric) != image.samples:
            raise film.wrong(f"{image.samples} samples a pixel with PhotometricInterpretation {code(photometric)!r}")
        if image.allocated not in (8, 16) or not 0 < stored <= image.high + 1 <= image.allocated or image.signed > 1:
            given = f"{stored} bits up to bit {image.high} in {image.allocated}, PixelRepresentation {image.signed}"
            raise film.wrong(f"pixels of {given}; expected 8 or 16 bits that hold what is stored")
        return image

    @property
    def highest(self) -> int:
        return (1 << self.stored) - 1

    def values(self) -> np.ndarray:
        """The stored value of each of the 256 or 65,536 words, int32."""
        values = np.arange(1 << self.allocated, dtype=np.int32) >> (self.high + 1 - self.stored) & self.highest
        sign = self.signed << (self.stored - 1)
        return (values ^ sign) - sign

    def holds(self, words: np.ndarray, found: Stream) -> bool:
        """Whether the words of a stream are of the bits stored: as they are, or with copies of their sign above."""
        if not (self.signed and found.signed) and words.max() <= self.highest:
            return True
        values = replace(self, stored=found.bits, high=found.bits - 1).values()[words]
        return bool(self.signed) and max(-1 - int(values.min()), int(values.max())) <= self.highest >> 1


def decoded(film: Elements, image: Image) -> tuple[np.ndarray, Image]:
    """The words of the pixels, (height width) or (height width colours) uint8 or uint16, and how they are stored.

    Where a compressed frame contradicts the header about bits or colours, the frame is right.
    """
    try:
        decoder = get_decoder(film.syntax)
    except NotImplementedError:
        raise film.wrong(f"{film.syntax.name} is not for films") from None
    film.file.seek(film.start)
    options: dict[str, Any] = {
        "rows": image.rows,
        "columns": image.columns,
        "samples_per_pixel": image.samples,
        "photometric_interpretation": image.photometric,
        "planar_configuration": image.planar,
        "bits_allocated": image.allocated,
        "bits_stored": image.stored,
        "pixel_representation": image.signed,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": film.vr,
        "correct_unused_bits": False,  # the tables do it, for HighBit too
        "view_only": True,
    }
    if not film.syntax.is_encapsulated:
        array, _ = decoder.as_array(_native(film, image), index=0, raw=True, **options)
        return _words(array, image.allocated), image
    frame = _frame(film)
    if film.syntax == RLELossless:
        try:
            frame = whole_runs(frame, image.rows * image.columns, image.samples * image.allocated // 8)
        except (struct.error, IndexError, ValueError):
            raise film.wrong(f"its pixels are not {film.syntax.name}") from None
        return _words(_by_any(film, decoder, frame, options), image.allocated), image
    found = _described(film, image, frame)
    container = 8 if found.bits <= 8 else 16
    options |= {
        "photometric_interpretation": "MONOCHROME2" if image.samples == 1 else "RGB",
        "bits_allocated": container,
        "bits_stored": found.bits,
        "pixel_representation": int(found.signed),
    }
    words = _words(_by_any(film, decoder, found.frame, options, found.ended), container)
    return words, _conformed(image, found, words, container)


def _conformed(image: Image, found: Stream, words: np.ndarray, container: int) -> Image:
    """How the words of a stream are stored: as it says, and in the bits of the header where these hold them."""
    bits = found.bits
    if bits > image.stored and image.holds(words & ((1 << bits) - 1), found):
        bits = image.stored
    photometric = found.colours if image.samples == 3 and found.colours else image.photometric
    if photometric in ("YBR_ICT", "YBR_RCT"):
        photometric = "RGB"
    return replace(image, photometric=photometric, allocated=container, stored=bits, high=bits - 1)


def _words(array: np.ndarray, bits: int) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("="), copy=False).view(f"u{bits // 8}")


def _by_any(film: Elements, decoder: Decoder, frame: bytes, options: dict[str, Any], ended: bool = True) -> np.ndarray:
    """The frame by the first installed plug-in that reads it.

    Of a frame without its end the first plug-in alone is asked: another may fill up what is missing.
    """
    names = [name for name in PLUGINS if name in decoder.available_plugins]
    if not names:
        text = f"compressed as {film.syntax.name}, which nothing that is installed decodes"
        raise DataError(f"{film.where}: {text}; try pip install 'rrg-compose[dicom]'")
    source, refusals = encapsulate([frame], has_bot=False), []
    for name in names if ended else names[:1]:
        try:
            if name == "gdcm":
                return decode_apart(film.syntax, frame, options)
            array, _ = decoder.as_array(source, index=0, raw=True, decoding_plugin=name, **options)
            return array
        except Exception as error:  # whatever plug-ins raise; pydicom names them after a colon
            refusals.append(" ".join(str(error).rpartition("plugins:")[2].split()) or type(error).__name__)
    more = "" if "gdcm" in names else "; pip install 'rrg-compose[dicom]' brings pylibjpeg-openjpeg and GDCM"
    raise film.wrong("; ".join(refusals) + more)


def _native(film: Elements, image: Image) -> bytes:
    """Pixels that are not compressed, without what pads them (PS3.5 8.1.1).

    Padding is shorter than a row or column, or of one byte throughout: else the header is wrong about the size.
    """
    expected = image.rows * image.columns * image.samples * image.allocated // 8
    if image.photometric == "YBR_FULL_422":
        expected = expected * 2 // 3
    even = expected + expected % 2  # of 8 bits in words of 16, the last one is swapped with the byte behind it
    content = b"" if film.length is None else film.file.read(film.length)
    padding = content[even:]
    short = len(padding) < expected // max(image.rows, image.columns)
    if len(content) < expected or not (short or padding == padding[:1] * len(padding)):
        given = "no declared length" if film.length is None else f"{film.length:,} bytes"
        raise film.wrong(f"{given} of pixels, where {image.columns}×{image.rows} of them have {expected:,}")
    return content[:even]


def _frame(film: Elements) -> bytes:
    """A compressed frame: the fragments of the pixels, joined (PS3.5 A.4)."""
    fragments = []
    tag = b""
    while film.length is None and tag != _END:
        mark = film.file.read(8)
        tag, length = struct.unpack("<4sL", mark) if len(mark) == 8 else (b"", 0)
        fragments.append(film.file.read(length))
        if tag not in (_ITEM, _END) or len(fragments[-1]) != length:
            raise film.wrong("its compressed pixels are cut short")
    if len(fragments) < 3:  # a table of offsets, one fragment or more, the end
        raise film.wrong("its pixels are not compressed, although its transfer syntax says so")
    return b"".join(fragments[1:-1])


def _described(film: Elements, image: Image, frame: bytes) -> Stream:
    """What a frame says of itself.

    Raises DataError where it would decode to another size than its film's, which decoders would first allocate, and for
    a JPEG or JPEG-LS frame without its end, which some decoders fill up with grey.
    """
    try:
        found = stream(frame, film.syntax)
    except (struct.error, IndexError, ValueError):
        raise film.wrong(f"its pixels are not {film.syntax.name}") from None
    size = found.rows, found.columns, found.samples
    if size != (image.rows, image.columns, image.samples) or found.bits > image.allocated:
        declared = f"{image.columns}×{image.rows} pixels of {image.samples} samples in {image.allocated} bits"
        there = f"{found.columns}×{found.rows} of {found.samples} in {found.bits}"
        raise film.wrong(f"it declares {declared}, and its compressed pixels {there}")
    if not found.ended and film.syntax not in JPEG2000TransferSyntaxes:
        raise film.wrong("its compressed pixels are cut short: they have no end marker")
    return found
