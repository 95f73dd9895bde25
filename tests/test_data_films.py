"""Films: every kind of JPEG and PNG reads as its grey values, and bad ones get one error that names them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrg.data import films
from rrg.data.films import read_film
from rrg.errors import DataError

RAMP = np.linspace(0, 255, 13 * 7).reshape(13, 7).astype(np.uint8)


def save(path: Path, array: np.ndarray | Image.Image, **options: object) -> Path:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_gray_png_reads_exactly(tmp_path: Path) -> None:
    film = read_film(save(tmp_path / "a.png", RAMP))
    assert film.dtype == np.float32
    np.testing.assert_allclose(film, RAMP / 255, atol=1e-7)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_other_modes_read_as_their_gray(tmp_path: Path, mode: str) -> None:
    black_and_white = Image.fromarray(np.where(RAMP > 127, 255, 0).astype(np.uint8))
    suffix = "jpg" if mode == "CMYK" else "png"
    image = black_and_white.convert("RGB").convert("CMYK") if mode == "CMYK" else black_and_white.convert(mode)
    film = read_film(save(tmp_path / f"a.{suffix}", image, **({"quality": 100} if mode == "CMYK" else {})))
    np.testing.assert_allclose(film, RAMP > 127, atol=0.02)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    transparent = np.dstack([RAMP, RAMP, RAMP, np.zeros_like(RAMP)])
    np.testing.assert_allclose(read_film(save(tmp_path / "a.png", transparent)), RAMP / 255, atol=1e-7)


def test_color_becomes_luma(tmp_path: Path) -> None:
    red = np.zeros((5, 3, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_allclose(read_film(save(tmp_path / "a.png", red)), 0.299, atol=0.002)


def test_jpeg_reads_within_its_loss(tmp_path: Path) -> None:
    film = read_film(save(tmp_path / "a.jpg", RAMP, quality=100))
    np.testing.assert_allclose(film, RAMP / 255, atol=0.02)


@pytest.mark.parametrize(("highest", "divisor"), [(65535, 65535), (4096, 65535), (4095, 4095), (2000, 4095)])
def test_sixteen_bits_scale_by_their_range(tmp_path: Path, highest: int, divisor: int) -> None:
    values = np.linspace(0, highest, 35).reshape(5, 7).astype(np.uint16)
    np.testing.assert_allclose(read_film(save(tmp_path / "a.png", values)), values / divisor, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_size_squashes_to_a_square(tmp_path: Path, dtype: type) -> None:
    top = np.iinfo(dtype).max
    halves = np.zeros((40, 90), dtype)
    halves[:, 45:] = top
    film = read_film(save(tmp_path / "a.png", halves), size=10)
    assert film.shape == (10, 10)
    np.testing.assert_allclose(film[:, :4], 0, atol=1e-6)
    np.testing.assert_allclose(film[:, 6:], 1, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_size_antialiases(tmp_path: Path, dtype: type) -> None:
    stripes = np.tile(np.array([0, np.iinfo(dtype).max], dtype), (64, 32))
    film = read_film(save(tmp_path / "a.png", stripes), size=8)
    np.testing.assert_allclose(film[2:-2, 2:-2], 0.5, atol=0.01)


def test_reduced_jpeg_decoding_stays_near_the_plain_way(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:400, :300]
    smooth = (127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 7)).astype(np.uint8)
    path = save(tmp_path / "a.jpg", smooth, quality=95)
    plain = Image.open(path).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(read_film(path, size=32) - np.asarray(plain) / 255).mean() < 1 / 255


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RAMP)
    path.rename(tmp_path / "a.jpg")
    assert read_film(tmp_path / "a.jpg").shape == (13, 7)


def test_missing_film_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: no such film"):
        read_film(tmp_path / "gone.png")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_film_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 41), np.uint8)
    path = save(tmp_path / f"cut.{suffix}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"cut\.{suffix}: cannot be decoded"):
        read_film(path)


def test_cut_png_fails_or_has_all_its_pixels(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.png", RAMP).read_bytes()
    refused = 0
    for length in range(len(whole)):
        (tmp_path / "a.png").write_bytes(whole[:length])
        try:
            np.testing.assert_allclose(read_film(tmp_path / "a.png"), RAMP / 255, atol=1e-7)
        except DataError:
            refused += 1
    assert refused > len(whole) // 2


@pytest.mark.parametrize("content", [b"", b"root:x:0:0:", b"GIF89a" + bytes(30), b"\xff\xd8\xff"])
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg"):
        read_film(tmp_path / "a.jpg")


def test_decompression_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    (tmp_path / "bomb.png").write_bytes(bomb + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=r"bomb\.png: 60000×60000 pixels, above the limit"):
        read_film(tmp_path / "bomb.png")


def test_oversized_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "MAX_FILM_BYTES", 100)
    with pytest.raises(DataError, match="refused"):
        read_film(save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)))


def test_content_that_was_read_already_is_not_read_again(tmp_path: Path) -> None:
    content = save(tmp_path / "a.png", RAMP).read_bytes()
    np.testing.assert_array_equal(read_film("gone.png", content=content), read_film(tmp_path / "a.png"))
    with pytest.raises(DataError, match=r"gone\.png: cannot be decoded"):
        read_film("gone.png", content=content[:-30])
