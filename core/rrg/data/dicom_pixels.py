"""Pixels of a DICOM film: decoded by pydicom and its plug-ins, then to grey by one table over the words they are in."""

import io
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

from rrg.data.dicom import Elements, code, parse, quiet
from rrg.data.dicom_gdcm import decode_apart
from rrg.data.films import LUMA, MAX_PIXELS
from rrg.errors import DataError

PLUGINS = ("pylibjpeg", "pillow", "pyjpegls", "pydicom", "gdcm")
"""pydicom's; the last crashes on some broken frames and runs apart."""

_PALETTE = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
_KEYWORDS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
    *(f"{name}{part}" for name in _PALETTE for part in ("Descriptor", "Data")),
]
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1} | dict.fromkeys(
    ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"], 3
)
_BLOCK = 64  # rows that are looked up at once: numpy widens the words to 8 bytes each


def film_pixels(content: bytes, where: str) -> np.ndarray:
    """A film as (height width) float32 in [0, 1]; `read_film` says what is done, and in which order.

    where: names the film in messages. Raises: DataError.
    """
    with quiet(where):
        film = parse(io.BytesIO(content), len(content), _KEYWORDS, where)
        image = Image.of(film)
        words, photometric = _decoded(film, image)
        if image.samples == 1:
            tables, words = [_gray(film, image, words)], words[..., None]
        elif photometric.startswith("YBR"):  # its Y is RGB's luma (C.7.6.3.1.2)
            tables = [image.values() / image.highest]
        else:
            tables = [image.values() * (weight / image.highest) for weight in LUMA]
        tables = [table.astype(np.float32) for table in tables]
        if not all(np.isfinite(table).all() for table in tables):
            raise film.wrong("its rescale or window leads beyond the range of numbers")
    gray = np.empty(words.shape[:2], np.float32)
    for row in range(0, len(gray), _BLOCK):
        block = words[row : row + _BLOCK]
        found = sum(table[block[..., i]] for i, table in enumerate(tables))
        np.minimum(found, 1, out=gray[row : row + _BLOCK])
    return gray


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
        """Raises DataError for what no film is: several frames, too many pixels, other bits or colours."""
        frames = film.number("NumberOfFrames")
        if frames is not None and frames != 1:
            raise DataError(f"{film.where}: {frames:g} frames; a film is one: give each as a file of its own")
        stored = film.integer("BitsStored")
        coded = film.syntax.is_encapsulated and film.syntax != RLELossless  # then words are the values themselves
        image = cls(
            photometric=film.text("PhotometricInterpretation"),
            samples=film.integer("SamplesPerPixel"),
            planar=0 if coded else film.integer("PlanarConfiguration", 0),
            rows=film.integer("Rows"),
            columns=film.integer("Columns"),
            allocated=film.integer("BitsAllocated"),
            stored=stored,
            high=stored - 1 if coded else film.integer("HighBit", stored - 1),
            signed=film.integer("PixelRepresentation"),
        )
        if image.rows * image.columns > MAX_PIXELS:
            size = f"{image.columns}×{image.rows} pixels"
            raise DataError(f"{film.where}: {size}, above the limit of {MAX_PIXELS // 10**6} megapixels")
        if not image.rows * image.columns:
            raise film.wrong(f"{image.columns}×{image.rows} pixels")
        if _SAMPLES.get(image.photometric) != image.samples:
            raise film.wrong(
                f"{image.samples} samples a pixel with PhotometricInterpretation {code(image.photometric)!r}"
            )
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


def _gray(film: Elements, image: Image, words: np.ndarray) -> np.ndarray:
    """The grey of each word, [0, 1]: modality, values of interest, and polarity."""
    stored = image.values()
    if image.photometric == "PALETTE COLOR":
        colours = [_lookup(film, image, stored, f"{name}Descriptor", f"{name}Data") for name in _PALETTE]
        return LUMA @ np.stack([table / top for table, top in colours])
    values = stored
    slope, intercept = film.number("RescaleSlope"), film.number("RescaleIntercept")
    if found := _sequence_lookup(film, image, values, "ModalityLUTSequence"):
        values = found[0]
    elif slope is not None and intercept is not None:
        values = stored * slope + intercept
    if found := _sequence_lookup(film, image, values, "VOILUTSequence"):
        gray = found[0] / found[1]
    elif (window := _windowed(film, values)) is not None:
        gray = window
    else:
        gray = _full_range(values, _occurring(film, image, stored, words))
    inverse = image.photometric == "MONOCHROME1" or film.text("PresentationLUTShape") == "INVERSE"
    return 1 - gray if inverse else gray


def _occurring(film: Elements, image: Image, stored: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Which words occur in the film and are not padding (C.7.5.1.1.2); where all is padding, which occur."""
    occurs = np.zeros(len(stored), bool)
    for row in range(0, len(words), _BLOCK):
        occurs[words[row : row + _BLOCK]] = True
    if len(first := film.words("PixelPaddingValue")):
        limits = np.concatenate([first[:1], film.words("PixelPaddingRangeLimit")[:1]])
        limits = limits.view(np.int16) if image.signed else limits
        padding = (stored >= limits.min()) & (stored <= limits.max())
        occurs = occurs & ~padding if (occurs & ~padding).any() else occurs
    return occurs


def _full_range(values: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """`values` from the least to the greatest that occur; all 0 where they are one."""
    low, high = float(values[occurs].min()), float(values[occurs].max())
    return np.divide(values.clip(low, high) - low, (high - low) or 1.0)


def _windowed(film: Elements, values: np.ndarray) -> np.ndarray | None:
    """`values` by the first window, [0, 1] (C.11.2.1.2 and C.11.2.1.3); None where there is none."""
    center, width = film.number("WindowCenter"), film.number("WindowWidth")
    if center is None or width is None:
        return None
    function = film.text("VOILUTFunction").upper() or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise film.wrong(f"VOILUTFunction {code(function)!r}; expected LINEAR, LINEAR_EXACT or SIGMOID")
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise film.wrong(f"a window of width {width:g}; expected at least 1, or above 0 where it is not LINEAR")
    if function == "SIGMOID":
        gray: np.ndarray = 1 / (1 + np.exp((-4 / width * (values - center)).clip(-700, 700)))
        return gray
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    line = (values - center) / width + 0.5 if width else values > center  # of width 1, LINEAR is a step
    return np.clip(line, 0.0, 1.0)


def _sequence_lookup(film: Elements, image: Image, values: np.ndarray, sequence: str) -> tuple[np.ndarray, int] | None:
    """`values` by the first table of a sequence; None where it has none."""
    item = film.item(sequence)
    if item is None or "LUTDescriptor" not in item or "LUTData" not in item:
        return None
    return _lookup(film, image, values, "LUTDescriptor", "LUTData", item)


def _lookup(
    film: Elements, image: Image, values: np.ndarray, descriptor: str, data: str, item: Dataset | None = None
) -> tuple[np.ndarray, int]:
    """`values` by a table (C.11.1.1, C.7.6.3.1.5), whose ends hold beyond it; and the highest that it may give."""
    given = film.words(descriptor, item)
    if len(given) != 3 or not 1 <= given[2] <= 16:
        raise film.wrong(f"{descriptor} is {given.tolist()}; expected entries, first value and at most 16 bits")
    entries, bits = int(given[0]) or 1 << 16, int(given[2])
    element = (film.values if item is None else item).get_item(Tag(descriptor))
    first = int(given[1:2].view(np.int16)[0]) if image.signed or element.VR == "SS" else int(given[1])
    table = film.words(data, item)
    if bits <= 8 and len(table) == (entries + 1) // 2:  # two entries a word
        table = table.view(np.uint8)
    if len(table) < entries:
        raise film.wrong(f"{data} holds {len(table):,} entries of the {entries:,} declared")
    highest = (1 << bits) - 1
    index = (values - first).clip(0, entries - 1).astype(np.int64)
    return table[index].clip(0, highest).astype(np.int32), highest


def _decoded(film: Elements, image: Image) -> tuple[np.ndarray, str]:
    """The words of the pixels, (height width) or (height width colours) uint8 or uint16, and their photometric."""
    try:
        decoder = get_decoder(film.syntax)
    except NotImplementedError:
        raise film.wrong(f"{film.syntax.name} is not for films") from None
    film.file.seek(film.start)
    if film.syntax.is_encapsulated:
        plugin = next((name for name in PLUGINS if name in decoder.available_plugins), None)
        if plugin is None:
            text = f"compressed as {film.syntax.name}, which nothing that is installed decodes"
            raise DataError(f"{film.where}: {text}; try pip install 'rrg-compose[dicom]'")
        frame = _frame(film)
        _check_frame(film, image, frame)
        source = encapsulate([frame], has_bot=False)
    else:
        plugin, source = "", _native(film, image)
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
    if plugin == "gdcm":
        array, photometric = decode_apart(film.syntax, source, options)
    else:
        array, found = decoder.as_array(source, index=0, raw=True, decoding_plugin=plugin, **options)
        photometric = str(found["photometric_interpretation"])
    return array.astype(array.dtype.newbyteorder("="), copy=False).view(f"u{image.allocated // 8}"), photometric


def _native(film: Elements, image: Image) -> bytes:
    """Pixels that are not compressed."""
    expected = image.rows * image.columns * image.samples * image.allocated // 8
    if image.photometric == "YBR_FULL_422":
        expected = expected * 2 // 3
    if film.length is None or film.length not in (expected, expected + expected % 2):
        given = "no declared length" if film.length is None else f"{film.length:,} bytes"
        raise film.wrong(f"{given} of pixels, where {image.columns}×{image.rows} of them have {expected:,}")
    return film.file.read(film.length)


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


def _check_frame(film: Elements, image: Image, frame: bytes) -> None:
    """Raise DataError where a frame would decode to another size than its film's; decoders would first allocate it."""
    try:
        if film.syntax == RLELossless:
            _check_runs(frame, image)
            return
        read = _size_2000 if film.syntax in JPEG2000TransferSyntaxes else _size
        bits, rows, columns, samples = read(frame)
    except (struct.error, IndexError, ValueError):
        raise film.wrong(f"its pixels are not {film.syntax.name}") from None
    if (rows, columns, samples) != (image.rows, image.columns, image.samples) or bits > image.allocated:
        declared = f"{image.columns}×{image.rows} pixels of {image.samples} samples in {image.allocated} bits"
        raise film.wrong(f"it declares {declared}, and its compressed pixels {columns}×{rows} of {samples} in {bits}")


def _size(frame: bytes) -> tuple[int, int, int, int]:
    """Bits, rows, columns and samples of a JPEG or JPEG-LS frame (ITU-T T.81 B.2.2)."""
    at = 2
    while frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
            return bits, rows, columns, samples
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", frame, at + 2)[0]
    raise ValueError("no frame header")


def _size_2000(frame: bytes) -> tuple[int, int, int, int]:
    """Bits, rows, columns and samples of a JPEG 2000 codestream (ITU-T T.800 A.5.1)."""
    start, right, bottom, left, top, samples, depth = struct.unpack_from(">4s4x4L16xHB", frame)
    if start != b"\xff\x4f\xff\x51":
        raise ValueError("no codestream")
    return (depth & 127) + 1, bottom - top, right - left, samples


def _check_runs(frame: bytes, image: Image) -> None:
    """Raise ValueError where a segment of runs (PS3.5 G.3) expands to more than its share of the film."""
    starts = struct.unpack_from("<16L", frame)
    if starts[0] != image.samples * image.allocated // 8:
        raise ValueError("not a segment for each byte of a pixel")
    ends = [*starts[1 : starts[0] + 1], len(frame)]
    for at, end in pairwise(ends):
        left = image.rows * image.columns
        while at < end - 1:
            run = frame[at]
            left -= run + 1 if run < 128 else (257 - run) % 129
            at += run + 2 if run < 128 else 1 + (run > 128)
            if left < 0:
                raise ValueError("longer than the film")
