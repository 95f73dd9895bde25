"""What a compressed frame says of itself: its size, its bits and its colours, which may contradict a film's header."""

import struct
from dataclasses import dataclass
from itertools import pairwise

from pydicom.uid import JPEG2000TransferSyntaxes, JPEGBaseline8Bit, JPEGExtended12Bit

LOSSY_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit)
_END = b"\xff\xd9"  # of a JPEG, JPEG-LS and JPEG 2000 stream; nothing within their compressed data looks like it
_RAW = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # Adobe's marker, transform 0
_RGB_IDS = (b"RGB", b"rgb")


@dataclass(frozen=True)
class Stream:
    """A frame as its own header describes it.

    bits: of a sample, signed by a JPEG 2000 stream that says so. colours: RGB or YBR, as its samples are before a
    decoder converts them; "" where it does not say. ended: has its end marker. frame: to decode.
    """

    bits: int
    rows: int
    columns: int
    samples: int
    signed: bool
    colours: str
    ended: bool
    frame: bytes


def stream(frame: bytes, syntax: str) -> Stream:
    """Raises struct.error, IndexError or ValueError where a frame is none of its syntax."""
    return _jpeg_2000(frame) if syntax in JPEG2000TransferSyntaxes else _jpeg(frame, syntax in LOSSY_JPEG)


def _jpeg(frame: bytes, lossy: bool) -> Stream:
    """A JPEG or JPEG-LS frame (ITU-T T.81 B.2).

    Of a lossy one, whatever says how its colours are coded is replaced by "as they are": decoders differ in what they
    heed, and some convert to RGB without a word.
    """
    size, ids, sampling, kept, at = None, b"", b"", [frame[:2]], 2
    jfif, adobe = False, -1
    while frame[at] == 0xFF and (marker := frame[at + 1]) != 0xDA:
        if marker == 0xFF:
            at += 1
            continue
        end = at + 2 + struct.unpack_from(">H", frame, at + 2)[0]
        content = frame[at + 4 : end]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            size = struct.unpack_from(">BHHB", content)
            ids, sampling = (content[first : first + 3 * size[3] : 3] for first in (6, 7))
        jfif = jfif or (marker == 0xE0 and content.startswith(b"JFIF\0"))
        if marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            adobe = content[11]
        if not lossy or marker not in (0xE0, 0xEE):
            kept.append(frame[at:end])
        at = end
    if size is None or frame[at] != 0xFF:
        raise ValueError("no frame header")
    bits, rows, columns, samples = size
    colours = ""
    if ids in _RGB_IDS or (adobe == 0 and not jfif):
        colours = "RGB"
    elif jfif or adobe > 0 or len(set(sampling)) > 1:
        colours = "YBR"
    if lossy and samples == 3:
        kept.insert(1, _RAW)
    return Stream(bits, rows, columns, samples, False, colours, frame.find(_END, at) > 0, b"".join(kept) + frame[at:])


def _jpeg_2000(frame: bytes) -> Stream:
    """A JPEG 2000 codestream (ITU-T T.800 A.5), out of the boxes of a JP2 file where it is in one."""
    if frame[4:8] == b"jP  ":
        frame = frame[frame.index(b"\xff\x4f\xff\x51") :]
    start, right, bottom, left, top, samples, depth = struct.unpack_from(">4s4x4L16xHB", frame)
    if start != b"\xff\x4f\xff\x51":
        raise ValueError("no codestream")
    at = 2
    while frame[at : at + 2] != b"\xff\x52":  # the coding style, which says whether colours were transformed from RGB
        at += 2 + struct.unpack_from(">xxH", frame, at)[0]
    colours = "RGB" if frame[at + 8] and samples == 3 else ""
    bits, ended = (depth & 127) + 1, frame.find(_END, at) > 0
    return Stream(bits, bottom - top, right - left, samples, bool(depth & 128), colours, ended, frame)


def whole_runs(frame: bytes, pixels: int, segments: int) -> bytes:
    """A frame of runs (PS3.5 G.3), without what pads it, once no segment is known to expand beyond its share of a film.

    Raises ValueError or struct.error.
    """
    starts = struct.unpack_from("<16L", frame)
    if starts[0] != segments:
        raise ValueError("not a segment for each byte of a pixel")
    at = 0
    for at, end in pairwise([*starts[1 : segments + 1], len(frame)]):
        left = pixels
        while left > 0 and at < end - 1:
            run = frame[at]
            left -= run + 1 if run < 128 else (257 - run) % 129
            at += run + 2 if run < 128 else 1 + (run > 128)
        if left < 0 or any(frame[at:end]):
            raise ValueError("longer than the film")
    return frame[:at]
