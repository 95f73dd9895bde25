"""Films as arrays: one reader for every JPEG, PNG and DICOM that radiology data sets ship."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from rrg.data.study import MAX_FILM_BYTES
from rrg.errors import DataError

# Four times the pixels of the largest detectors (about 4,300 × 3,500).
MAX_PIXELS = 64_000_000
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow


def read_film(path: Path | str, size: int | None = None, content: bytes | None = None) -> np.ndarray:
    """One film as (height width) float32 in [0, 1], 0 black.

    content: its bytes where they were read already, such as a member of an archive; `path` then only names it.

    Reads JPEG, PNG and DICOM, told by their content and not by their name. Colour becomes luma (ITU-R 601), a palette
    its colours, transparency is dropped. A 16-bit PNG is divided by 65535, or by 4095 where no pixel exceeds 4095:
    12-bit detectors' films are stored both ways. (A 16-bit *colour* PNG is reduced to 8 bits by Pillow.)

    With `size`, the film is squashed to (size size) by an antialiased triangle filter, as published work does. Large
    JPEGs are decoded at a reduced scale first (never below twice `size`); pixels differ by 0.2 grey levels on average.

    DICOM, in this order: the bits that count; modality LUT, else rescale slope and intercept; VOI LUT, else the first
    window, else the full range of the values that occur without padding; inverted once where MONOCHROME1 or
    PresentationLUTShape INVERSE says so. Padding takes the grey that its value has, at most an end of the range.

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
        return _gray(image, size)


def unit(pixels: np.ndarray) -> np.ndarray:
    """Grey values of uint8 as float32 in [0, 1]; floats as they are."""
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels


def film_array(film: np.ndarray | Image.Image, size: int | None = None) -> np.ndarray:
    """A film that is in memory, as `read_film` gives one from disk: (height width) float32 in [0, 1].

    film: a Pillow image of any mode, or an array (height width) or (height width colours, 1, 3 or 4) of uint8, uint16
    or floats in [0, 1].

    Raises: DataError for another shape or type, a value outside [0, 1], a Pillow image that cannot be decoded, or more
    than 64 megapixels.
    """
    if isinstance(film, Image.Image):
        if film.width * film.height > MAX_PIXELS:
            raise DataError(
                f"film of {film.width}×{film.height} pixels, above the limit of {MAX_PIXELS // 10**6} megapixels"
            )
        try:
            film.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"film given as a Pillow image cannot be decoded: {error}") from error
        return unit(_gray(film, size)) if film.mode != "F" else film_array(np.asarray(film), size)
    values = np.asarray(film)
    given = f"film given as an array of {values.dtype} {values.shape}"
    colours = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or colours not in (1, 3, 4) or 0 in values.shape or values.size > MAX_PIXELS * 4:
        raise DataError(f"{given}: expected (height, width), or (height, width, colours) with 1, 3 or 4 colours")
    if values.dtype not in (np.uint8, np.uint16) and values.dtype.kind != "f":
        raise DataError(f"{given}: expected uint8, uint16, or floats in [0, 1]")
    if values.dtype.kind == "f" and not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"{given}: expected floats in [0, 1], found {values.min():g} to {values.max():g}; rescale them")
    if values.dtype == np.uint16:
        values = _scaled(values.astype(np.float32))
    elif values.dtype == np.uint8:
        values = unit(values)
    if values.ndim == 3:
        values = values[..., :3] @ LUMA if colours > 1 else values[..., 0]
    return _squashed(values.astype(np.float32), size)


def _gray(image: Image.Image, size: int | None) -> np.ndarray:
    """(height width) uint8; float32 in [0, 1] of an image of more bits."""
    if image.mode.startswith("I"):
        return _squashed(_scaled(np.asarray(image, dtype=np.float32)), size)
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


def _scaled(values: np.ndarray) -> np.ndarray:
    """16-bit or 12-bit grey values in [0, 1]."""
    return values / np.float32(65535 if values.max(initial=0) > 4095 else 4095)


def _squashed(values: np.ndarray, size: int | None) -> np.ndarray:
    if size is None or values.shape == (size, size):
        return values
    resized = Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).clip(0, 1)
