"""PNGs of 16 bits with all their bits: Pillow reads colour, and grey with transparency, at 8."""

import io
import struct
import zlib

import numpy as np
from PIL.PngImagePlugin import PngImageFile

_COLOUR, _ALPHA = 2, 4  # bits of a PNG's colour type


def is_deep(content: bytes) -> bool:
    """Whether a PNG has 16 bits a sample."""
    return content[24] == 16


def deep_samples(image: PngImageFile, content: bytes) -> np.ndarray:
    """The samples of a PNG of 16 bits, (height width) or (height width 3) uint16, without transparency.

    image: of the same content, loaded. Raises what Pillow raises for a broken file.
    """
    kind = content[25]
    if kind & _COLOUR:
        with PngImageFile(io.BytesIO(content)) as again:  # as if the low byte came last: Pillow takes the other one
            again.tile = [again.tile[0]._replace(args=f"{again.mode};16L")]
            return _joined(np.asarray(image)[..., :3], np.asarray(again)[..., :3])
    if kind & _ALPHA:  # grey and transparency, 16 bits each, lie as red, green, blue and transparency of 8
        start = content[12:24] + bytes([8, _COLOUR | _ALPHA]) + content[26:29]
        content = content[:12] + start + struct.pack(">I", zlib.crc32(start)) + content[33:]
        with PngImageFile(io.BytesIO(content)) as pairs:
            return _joined(np.asarray(pairs)[..., 0], np.asarray(pairs)[..., 1])
    return np.asarray(image).astype(np.uint16)


def _joined(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    words: np.ndarray = high.astype(np.uint16) << 8 | low
    return words


def significant_bits(content: bytes) -> int | None:
    """How many bits of a PNG's samples came from its source, of the deepest colour; None where it does not say."""
    at, colours = 8, 3 if content[25] & _COLOUR else 1
    while (name := content[at + 4 : at + 8]) not in (b"IDAT", b""):
        length = struct.unpack_from(">I", content, at)[0]
        if name == b"sBIT" and length >= colours:
            bits = max(content[at + 8 : at + 8 + colours])
            return bits if 0 < bits <= 16 else None
        at += 12 + length
    return None
