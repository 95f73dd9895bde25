"""Films as arrays: one reader for every JPEG, PNG and DICOM that radiology data sets ship."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from rrg.data.deep_png import deep_samples, is_deep, significant_bits
from rrg.data.pixels import LUMA, MAX_PIXELS
from rrg.data.study import MAX_FILM_BYTES
from rrg.errors import DataError

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF 2.32, tag 0x0112
    2: lambda film: film[:, ::-1],
    3: lambda film: film[::-1, ::-1],
    4: lambda film: film[::-1],
    5: lambda film: film.T,
    6: lambda film: np.rot90(film, -1),
    7: lambda film: film[::-1, ::-1].T,
    8: np.rot90,
}
_DEPTHS = (8, 10, 12, 13, 14, 15, 16)  # bits that detectors give; 9 and 11 are rather a dim film of more


def read_film(path: Path | str, size: int | None = None, content: bytes | None = None) -> np.ndarray:
    """One film as (height width) float32 in [0, 1], 0 black.

    content: its bytes where they were read already, such as a member of an archive; `path` then only names it.

    Reads JPEG, PNG and DICOM, told by their content and not by their name. Colour becomes luma (ITU-R 601), a palette
    its colours, transparency is dropped; the film is turned as its EXIF or XMP orientation says.

    PNGs of 16 bits hold films of fewer, unscaled, as detectors give them. White is the highest value of the fewest
    bits (8, 10, 12 to 16) that hold all samples but a thousandth, one at least, so that no pixel decides alone; what
    lies above is white. Where the file says how many bits count (sBIT), of these if they hold the film, else of 16.

    With `size`, the film is squashed to (size size) by an antialiased triangle filter, as published work does. Large
    JPEGs are decoded at a reduced scale first (never below twice `size`); pixels differ by 0.2 grey levels on average.

    DICOM, in this order: the bits that count, which a compressed stream may say better than the header; modality LUT,
    else rescale slope and intercept; VOI LUT, else the first window, else the full range of the values that occur
    without padding; inverted once where MONOCHROME1 or PresentationLUTShape INVERSE says so. Padding takes the grey
    that its value has, at most an end of the range.

    Raises: DataError naming the path, for a film that is missing, truncated, none of the three, or above 64 megapixels;
    for a DICOM that has several frames, no pixels, lengths that contradict each other, or a compression that nothing
    installed decodes.
    """
    return unit(read_pixels(path, size, content))


def read_pixels(path: Path | str, size: int | None = None, content: bytes | None = None) -> np.ndarray:
    """One film as `read_film` gives it, but as uint8 in 0 to 255 where it has 8 bits: a quarter of the bytes."""
    content = film_bytes(Path(path)) if content is None else content
    if is_dicom(content):
        from rrg.data.dicom_pixels import film_pixels

        return _squashed(film_pixels(content, str(path)), size)
    with _open(path, content) as image:
        if size is not None and isinstance(image, JpegImageFile):
            image.draft("L", (2 * size, 2 * size))
        image.load()
        if isinstance(image, PngImageFile) and is_deep(content):
            gray = _squashed(_luma(_scaled(deep_samples(image, content), significant_bits(content))), size)
        else:
            gray = _gray(image, size)
        return _turned(gray, image)


def unit(pixels: np.ndarray) -> np.ndarray:
    """Grey values of uint8 as float32 in [0, 1]; floats as they are."""
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels


def film_array(film: np.ndarray | Image.Image, size: int | None = None) -> np.ndarray:
    """A film that is in memory, as `read_film` gives one from disk: (height width) float32 in [0, 1].

    film: a Pillow image of any mode, turned as its EXIF orientation says, or an array (height width) or (height width
    colours, 1, 3 or 4) of uint8, uint16 or floats in [0, 1].

    Raises: DataError for another shape or type, a value outside [0, 1], a Pillow image that cannot be decoded, or more
    than 64 megapixels.
    """
    if isinstance(film, Image.Image):
        if film.width * film.height > MAX_PIXELS:
            raise DataError(
                f"film of {film.width}×{film.height} pixels, above the limit of {MAX_PIXELS // 10**6} megapixels"
            )
        try:
            if isinstance(film, PngImageFile) and film.fp and film.tile and film.mode.startswith("RGB"):
                film.fp.seek(0)
                if is_deep(content := film.fp.read()):  # Pillow reads its colours at 8 bits
                    return read_film("film given as a Pillow image", size, content)
            film.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"film given as a Pillow image cannot be decoded: {error}") from error
        gray = film_array(np.asarray(film), size) if film.mode == "F" else unit(_gray(film, size))
        return _turned(gray, film)
    values = np.asarray(film)
    given = f"film given as an array of {values.dtype} {values.shape}"
    colours = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or colours not in (1, 3, 4) or 0 in values.shape or values.size > MAX_PIXELS * 4:
        raise DataError(f"{given}: expected (height, width), or (height, width, colours) with 1, 3 or 4 colours")
    if values.dtype not in (np.uint8, np.uint16) and values.dtype.kind != "f":
        raise DataError(f"{given}: expected uint8, uint16, or floats in [0, 1]")
    if values.dtype.kind == "f" and not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"{given}: expected floats in [0, 1], found {values.min():g} to {values.max():g}; rescale them")
    values = values[..., :3] if colours == 4 else values
    values = _scaled(values) if values.dtype == np.uint16 else unit(values)
    return _squashed(_luma(values.astype(np.float32)), size)


def _gray(image: Image.Image, size: int | None) -> np.ndarray:
    """(height width) uint8; float32 in [0, 1] of an image of more bits."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"film of values from {values.min()} to {values.max()}; expected 0 to 65535; rescale them")
        return _squashed(_scaled(values.astype(np.uint16)), size)
    gray = image if image.mode == "L" else image.convert("L")
    if size is not None and gray.size != (size, size):
        gray = gray.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(gray)


def is_dicom(content: bytes) -> bool:
    """By "DICM" after 128 bytes of anything (PS3.10 7.1). A DICOM data set without that start is refused."""
    return content[128:132] == b"DICM" and not content.startswith((_JPEG, _PNG))


@contextmanager
def _open(path: Path | str, content: bytes) -> Iterator[JpegImageFile | PngImageFile]:
    """Open a JPEG or PNG by its first bytes.

    Not Image.open: it would try every format Pillow knows on hostile bytes, and its size check warns rather than fails.
    """
    try:
        if content.startswith(_JPEG):
            image: JpegImageFile | PngImageFile = JpegImageFile(io.BytesIO(content))
        elif content.startswith(_PNG):
            image = PngImageFile(io.BytesIO(content))
        else:
            raise DataError(f"{path}: none of JPEG, PNG and DICOM, by its first bytes")
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{path}: {width}×{height} pixels, above the limit of {MAX_PIXELS // 10**6} megapixels")
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise DataError(f"{path}: cannot be decoded: {error}") from error


def film_bytes(path: Path) -> bytes:
    """The bytes of a film's file. Raises DataError for one that is missing, cannot be read, or is absurdly large."""
    try:
        if not path.is_file():
            raise DataError(
                f"{path}: {'a folder, not a film' if path.is_dir() else 'no such film'}; give a JPEG, PNG or DICOM file"
            )
        if path.stat().st_size > MAX_FILM_BYTES:
            raise DataError(f"{path}: larger than {MAX_FILM_BYTES >> 20} MiB, which is refused")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _scaled(values: np.ndarray, significant: int | None = None) -> np.ndarray:
    """uint16 values in [0, 1], by the bits that `read_film` says they have."""
    few, highest = max(1, values.size // 1000), int(values.max(initial=0))

    def hold(bits: int) -> bool:
        return int(np.count_nonzero(values > (1 << bits) - 1)) <= few

    if significant is not None:
        bits = significant if hold(significant) else 16
    else:
        bits = next(bits for bits in _DEPTHS if highest >> bits == 0 or hold(bits))
    white = (1 << bits) - 1
    scaled: np.ndarray = values / np.float32(white)
    return scaled if highest <= white else np.minimum(scaled, 1, out=scaled)


def _luma(values: np.ndarray) -> np.ndarray:
    """(height width) of values in [0, 1], (height width) or (height width colours, 1 or 3)."""
    if values.ndim == 2:
        return values
    return np.minimum(values @ LUMA, np.float32(1)) if values.shape[2] == 3 else values[..., 0]


def _turned(gray: np.ndarray, image: Image.Image) -> np.ndarray:
    """A film as the orientation of its EXIF or XMP says; as it is where that cannot be read, as viewers show it."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever Pillow raises on broken EXIF, warnings that are errors among it
        turn = None
    return np.ascontiguousarray(turn(gray)) if turn else gray


def _squashed(values: np.ndarray, size: int | None) -> np.ndarray:
    if size is None or values.shape == (size, size):
        return values
    resized = Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).clip(0, 1)
