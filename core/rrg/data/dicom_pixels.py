"""Pixels of a DICOM film as grey values, by one table over the words that they are stored in."""

import io

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from rrg.data.dicom import Elements, code, parse, quiet
from rrg.data.dicom_frames import Image, decoded
from rrg.data.pixels import LUMA

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
_BLOCK = 64  # rows that are looked up at once: numpy widens the words to 8 bytes each


def film_pixels(content: bytes, where: str) -> np.ndarray:
    """A film as (height width) float32 in [0, 1]; `read_film` says what is done, and in which order.

    where: names the film in messages. Raises: DataError.
    """
    with quiet(where):
        film = parse(io.BytesIO(content), len(content), _KEYWORDS, where)
        image = Image.of(film)
        words, image = decoded(film, image)
        if image.samples == 1:
            tables, words = [_gray(film, image, words)], words[..., None]
        elif image.photometric.startswith("YBR"):  # its Y is RGB's luma (C.7.6.3.1.2)
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


def _gray(film: Elements, image: Image, words: np.ndarray) -> np.ndarray:
    """The grey of each word, [0, 1]: modality, values of interest, and polarity."""
    stored = image.values()
    if image.photometric == "PALETTE COLOR":
        colours = [_lookup(film, image, stored, f"{name}Descriptor", f"{name}Data") for name in _PALETTE]
        return LUMA @ np.stack([table / top for table, top in colours])
    values = stored
    slope, intercept = film.number("RescaleSlope"), film.number("RescaleIntercept")
    if slope == 0:
        raise film.wrong("RescaleSlope is 0, by which all pixels would be one value")
    if found := _sequence_lookup(film, image, values, "ModalityLUTSequence"):
        values = found[0]
    elif slope is not None or intercept is not None:
        values = stored * (1.0 if slope is None else slope) + (intercept or 0.0)
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
    """`values` by the first table of a sequence; None where it has none, or a void one."""
    item = film.item(sequence)
    if item is None or not len(film.words("LUTDescriptor", item)) or not len(film.words("LUTData", item)):
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
