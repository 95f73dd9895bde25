"""PNGs of 16 bits that Pillow does not write: in colour, with transparency, interlaced, with chunks of any kind."""

import struct
import zlib

import numpy as np

GRAY, RGB, GRAY_ALPHA, RGB_ALPHA = 0, 2, 4, 6
_ADAM7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: np.ndarray, kind: int, before: bytes = b"", after: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of (height width samples) uint16, with chunks before and after its pixels; rows use all five filters."""
    height, width, _ = samples.shape
    passes = [samples[top::down, left::right] for top, down, left, right in _ADAM7] if interlaced else [samples]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, interlaced)
    pixels = zlib.compress(b"".join(_filtered(part) for part in passes if part.size))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")


def _filtered(samples: np.ndarray) -> bytes:
    """Rows by filters none, sub, up, average and Paeth in turn."""
    rows = np.stack([np.frombuffer(row.astype(">u2").tobytes(), np.uint8) for row in samples]).astype(int)
    step = 2 * samples.shape[2]
    found = b""
    for i, row in enumerate(rows):
        up = rows[i - 1] if i else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(step, int), line[:-step]]) for line in (row, up))
        far = [abs(left + up - corner - near) for near in (left, up, corner)]
        paeth = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, corner))
        guess = [np.zeros_like(row), left, up, (left + up) // 2, paeth][i % 5]
        found += bytes([i % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes()
    return found
