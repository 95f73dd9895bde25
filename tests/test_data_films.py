"""Films: every kind of JPEG and PNG reads as its grey values, and bad ones get one error that names them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from png_films import GRAY, GRAY_ALPHA, RGB, RGB_ALPHA, chunk, png
from rrg.data import films
from rrg.data.films import film_array, read_film
from rrg.data.pixels import LUMA
from rrg.data.store import Fit, Format
from rrg.errors import DataError

RAMP = np.linspace(0, 255, 13 * 7).reshape(13, 7).astype(np.uint8)


def save(path: Path, array: np.ndarray | Image.Image, **options: object) -> Path:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


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


@pytest.mark.parametrize(
    ("highest", "white"),
    [
        (65535, 65535),
        (40_000, 65535),
        (32767, 32767),
        (16383, 16383),
        (8191, 8191),
        (4095, 4095),
        (2000, 4095),
        (1023, 1023),
        (200, 255),
    ],
)
def test_sixteen_bits_scale_by_the_fewest_that_hold_the_film(tmp_path: Path, highest: int, white: int) -> None:
    values = np.linspace(0, highest, 35).reshape(5, 7).astype(np.uint16)
    np.testing.assert_allclose(read_film(save(tmp_path / "a.png", values)), values / white, atol=1e-6)
    np.testing.assert_allclose(film_array(values), values / white, atol=1e-6)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("shape", [(5, 7), (64, 48)])
def test_no_pixel_decides_alone_how_bright_a_film_is(tmp_path: Path, bits: int, shape: tuple[int, int]) -> None:
    values = np.linspace(0, (1 << bits) - 1, shape[0] * shape[1]).reshape(shape).astype(np.uint16)
    values[0, 0] = 65535
    expected = values / ((1 << bits) - 1)
    np.testing.assert_allclose(read_film(save(tmp_path / "a.png", values)), expected.clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("kind", [GRAY, RGB, GRAY_ALPHA, RGB_ALPHA])
@pytest.mark.parametrize("highest", [500, 4095])
def test_the_file_may_say_how_many_bits_count(kind: int, highest: int) -> None:
    """sBIT 12: values of 12 bits as they are, or drawn out to 16 as the PNG specification asks (12.4)."""
    samples = np.linspace(0, highest, 9 * 7).reshape(9, 7, 1).astype(np.uint16)
    samples = np.repeat(samples, {GRAY: 1, RGB: 3, GRAY_ALPHA: 2, RGB_ALPHA: 4}[kind], axis=2)
    says = chunk(b"sBIT", bytes([12]) * samples.shape[2])
    for film in (samples, samples << 4 | samples >> 8):
        gray = read_film("a.png", content=png(film, kind, says))
        np.testing.assert_allclose(gray, samples[..., 0] / 4095, atol=2e-4 if film.max() > highest else 1e-6)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "samples"), [(GRAY, 1), (RGB, 3), (GRAY_ALPHA, 2), (RGB_ALPHA, 4)])
@pytest.mark.parametrize("bits", [12, 16])
def test_sixteen_bits_of_every_kind_keep_all_their_bits(kind: int, samples: int, bits: int, interlaced: bool) -> None:
    values = np.random.default_rng(kind).integers(0, 1 << bits, (19, 13, samples)).astype(np.uint16)
    expected = (values[..., :3] @ LUMA if samples > 2 else values[..., 0]) / ((1 << bits) - 1)
    transparent = chunk(b"tRNS", values[0, 0].astype(">u2").tobytes()) if kind in (GRAY, RGB) else b""
    content = png(values, kind, transparent, interlaced=interlaced)
    np.testing.assert_allclose(read_film("a.png", content=content), expected, atol=1e-6)
    np.testing.assert_allclose(film_array(Image.open(io.BytesIO(content))), expected, atol=1e-6)


def test_a_cut_png_of_sixteen_bit_colour_is_refused() -> None:
    content = png(np.random.default_rng(0).integers(0, 4096, (19, 13, 3)).astype(np.uint16), RGB)
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        read_film("a.png", content=content[: len(content) // 2])


def test_transparency_does_not_scale_an_array() -> None:
    values = np.dstack([np.linspace(0, 4095, 35).reshape(5, 7).astype(np.uint16)] * 4)
    values[..., 3] = 65535
    np.testing.assert_allclose(film_array(values), values[..., 0] / 4095, atol=1e-6)


@pytest.mark.parametrize("value", [-1, 65536])
def test_an_image_of_other_integers_is_refused(value: int) -> None:
    with pytest.raises(DataError, match="expected 0 to 65535; rescale them"):
        film_array(Image.fromarray(np.full((5, 4), value, np.int32)))


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """By Pillow's own function."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "png", exif=oriented(orientation))
    return np.asarray(ImageOps.exif_transpose(Image.open(file)))


PORTRAIT = np.zeros((80, 56), np.uint8)  # bright above, less so at its left: no two turns are alike
PORTRAIT[:16], PORTRAIT[16:, :16] = 200, 100


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_film_is_turned_as_its_exif_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = save(tmp_path / f"a.{suffix}", PORTRAIT, exif=oriented(orientation))
    expected = turned(PORTRAIT, orientation)
    np.testing.assert_allclose(read_film(path), expected / 255, atol=0.03)
    np.testing.assert_array_equal(film_array(Image.open(path)), read_film(path))
    small = Image.fromarray(expected).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(read_film(path, 8), np.asarray(small) / 255, atol=0.03)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_an_import_stores_a_film_as_it_is_read(tmp_path: Path, suffix: str, size: int | None, fit: Fit) -> None:
    path = save(tmp_path / f"a.{suffix}", PORTRAIT, exif=oriented(6))
    form = Format(size, fit if size else "squash")
    content, width, height = form.stored("a", form.name(path.name), path.read_bytes())
    stored, expected = read_film("a", content=content), read_film(path, size)
    assert stored.shape == (height, width)
    if size and fit == "pad":
        narrow = Image.fromarray(turned(PORTRAIT, 6)).resize((8, 6), Image.Resampling.BILINEAR)
        expected = np.pad(np.asarray(narrow) / 255, ((1, 1), (0, 0)))
    np.testing.assert_allclose(stored, expected, atol=0.05)


def test_exif_behind_the_pixels_and_xmp_turn_a_film_too() -> None:
    values = np.linspace(0, 65535, 9 * 5).reshape(9, 5, 1).astype(np.uint16)
    xmp = b"XML:com.adobe.xmp" + bytes(5) + b'<rdf:Description tiff:Orientation="8"/>'
    behind = png(values, GRAY, after=chunk(b"eXIf", oriented(6)[6:]))
    for content, times in ((behind, -1), (png(values, GRAY, chunk(b"iTXt", xmp)), 1)):
        gray = read_film("a.png", content=content)
        np.testing.assert_allclose(gray, np.rot90(values[..., 0], times) / 65535, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0junk", oriented(6)[:-9], oriented(9), oriented(0)])
def test_exif_that_says_nothing_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    path = save(tmp_path / "a.jpg", PORTRAIT, exif=exif)
    np.testing.assert_allclose(read_film(path), PORTRAIT / 255, atol=0.03)


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
