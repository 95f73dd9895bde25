"""Compressed DICOM films, in each syntax that something installed here encodes."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.common import CoderBase
from pydicom.uid import (
    MPEG2MPML,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dicom_films import RAMP, by_gdcm, compressed, film, jpeg_2000, runs, written
from rrg.data import dicom_frames, dicom_gdcm
from rrg.data.films import read_film
from rrg.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 4096, (52, 35)).astype(np.uint16)
SMOOTH = (RAMP // 16).astype(np.uint8).repeat(4, 0).repeat(5, 1)


def jpeg(values: np.ndarray = SMOOTH) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=95)
    return file.getvalue()


def coded_by_runs(values: np.ndarray, stored: int, **fields: object) -> bytes:
    return written(compressed(film(values, stored, **fields), runs(values, stored, **fields)), RLELossless)


@pytest.mark.parametrize("values", [NOISE, (NOISE.astype(np.int16) - 2048).astype(np.int16), SMOOTH])
def test_rle(values: np.ndarray) -> None:
    stored = 8 if values is SMOOTH else 12
    plain = read_film("a.dcm", content=written(film(values, stored)))
    np.testing.assert_array_equal(read_film("a.dcm", content=coded_by_runs(values, stored)), plain)


def test_rle_in_colour() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    plain = read_film("a.dcm", content=written(film(colours, 8)))
    np.testing.assert_array_equal(read_film("a.dcm", content=coded_by_runs(colours, 8)), plain)


def test_rle_honours_the_high_bit() -> None:
    plain = read_film("a.dcm", content=written(film(NOISE << 3, 12, HighBit=14)))
    np.testing.assert_array_equal(read_film("a.dcm", content=coded_by_runs(NOISE << 3, 12, HighBit=14)), plain)
    np.testing.assert_array_equal(plain, read_film("a.dcm", content=written(film(NOISE))))


@pytest.mark.parametrize("values", [NOISE, (NOISE.astype(np.int16) - 2048).astype(np.int16), SMOOTH])
def test_jpeg_2000(values: np.ndarray) -> None:
    stored = 8 if values is SMOOTH else 12
    content = written(compressed(film(values, stored), jpeg_2000(values)), JPEG2000Lossless)
    plain = read_film("a.dcm", content=written(film(values, stored)))
    np.testing.assert_array_equal(read_film("a.dcm", content=content), plain)


@pytest.mark.parametrize("kind", ["JPEGLosslessProcess14_1", "JPEGLSLossless"])
def test_lossless_jpeg(kind: str, tmp_path: Path) -> None:
    plain = read_film("a.dcm", content=written(film(NOISE)))
    np.testing.assert_array_equal(read_film("a.dcm", content=by_gdcm(NOISE, kind, tmp_path)), plain)


def test_jpeg_is_within_its_loss() -> None:
    ds = compressed(film(SMOOTH, 8, WindowCenter=128, WindowWidth=256), jpeg())
    np.testing.assert_allclose(read_film("a.dcm", content=written(ds, JPEGBaseline8Bit)), SMOOTH / 255, atol=0.03)


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
def test_colour_jpeg_becomes_luma_whatever_the_header_calls_it(photometric: str) -> None:
    """Its JFIF marker says YBR; pydicom warns where the header says otherwise."""
    colours = np.dstack([SMOOTH, 255 - SMOOTH, SMOOTH // 2])
    ds = compressed(film(colours, 8), jpeg(colours), PhotometricInterpretation=photometric)
    expected = np.asarray(Image.open(io.BytesIO(jpeg(colours))).convert("L")) / 255
    np.testing.assert_allclose(read_film("a.dcm", content=written(ds, JPEGBaseline8Bit)), expected, atol=0.02)


def test_a_frame_in_several_fragments_is_joined() -> None:
    frame = jpeg()
    ds = compressed(film(SMOOTH, 8, WindowCenter=128, WindowWidth=256), frame)
    whole = read_film("a.dcm", content=written(ds, JPEGBaseline8Bit))
    ds.PixelData = encapsulate([frame], fragments_per_frame=3)
    np.testing.assert_array_equal(read_film("a.dcm", content=written(ds, JPEGBaseline8Bit)), whole)


def test_what_nothing_decodes_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CoderBase, "available_plugins", property(lambda decoder: ()))
    content = written(compressed(film(SMOOTH, 8), jpeg()), JPEGBaseline8Bit)
    text = r"a\.dcm: compressed as JPEG Baseline.*pip install 'rrg-compose\[dicom\]'"
    with pytest.raises(DataError, match=text):
        read_film("a.dcm", content=content)


def test_a_video_is_refused() -> None:
    with pytest.raises(DataError, match=r"a\.dcm: cannot be decoded: MPEG2 .* is not for films"):
        read_film("a.dcm", content=written(compressed(film(SMOOTH, 8), b"video"), MPEG2MPML))


@pytest.mark.parametrize(("kind", "syntax"), [("jpeg", JPEGBaseline8Bit), ("jpeg 2000", JPEG2000Lossless)])
@pytest.mark.parametrize("size", [(51, 35), (52, 4000)])
def test_a_frame_of_another_size_than_declared_is_refused(kind: str, syntax: UID, size: tuple[int, int]) -> None:
    other = np.full(size, 255, np.uint8)
    ds = compressed(film(SMOOTH, 8), jpeg(other) if kind == "jpeg" else jpeg_2000(other))
    text = rf"declares 35×52 pixels of 1 samples in 8 bits, and its compressed pixels {size[1]}×{size[0]} of 1 in 8"
    with pytest.raises(DataError, match=text):
        read_film("a.dcm", content=written(ds, syntax))


def test_a_bomb_of_runs_is_refused() -> None:
    """64 MiB of runs would give 4 GiB."""
    header = np.array([1, 64, *[0] * 14], "<u4").tobytes()
    ds = compressed(film(SMOOTH, 8), header + b"\x81\0" * (32 << 20))
    with pytest.raises(DataError, match="its pixels are not RLE Lossless"):
        read_film("a.dcm", content=written(ds, RLELossless))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("frame", [b"\xff", b"\xff\xd8\xff\xc0", b"\xff\x4f\xff\x51", bytes(70), b"\xff" * 70])
def test_what_is_no_frame_is_refused(frame: bytes, syntax: UID) -> None:
    with pytest.raises(DataError, match=r"a\.dcm: cannot be decoded: its (compressed )?pixels are"):
        read_film("a.dcm", content=written(compressed(film(SMOOTH, 8), frame), syntax))


def test_pixels_without_a_frame_are_refused() -> None:
    ds = compressed(film(SMOOTH, 8), jpeg(), PixelData=b"\xfe\xff\x00\xe0" + bytes(4))
    with pytest.raises(DataError, match="its pixels are not compressed, although"):
        read_film("a.dcm", content=written(ds, JPEGBaseline8Bit))


@pytest.mark.parametrize("cut", [1, 9, 60, 400])
def test_a_frame_that_is_cut_short_is_refused(cut: int) -> None:
    content = written(compressed(film(SMOOTH, 8), jpeg()), JPEGBaseline8Bit)
    with pytest.raises(DataError, match=r"a\.dcm: cannot be decoded: its compressed pixels are cut short"):
        read_film("a.dcm", content=content[:-cut])


def test_a_decoder_that_crashes_or_hangs_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = by_gdcm(NOISE, "JPEGLosslessProcess14_1", tmp_path)
    monkeypatch.setattr(dicom_frames, "PLUGINS", ("gdcm",))
    for program in ("import os; os.abort()", "import time; time.sleep(600)", "print('no JSON')"):
        (tmp_path / "program.py").write_text(program)
        monkeypatch.setattr(dicom_gdcm, "__file__", str(tmp_path / "program.py"))
        monkeypatch.setattr(dicom_gdcm, "SECONDS", 2)
        with pytest.raises(DataError, match=r"^a\.dcm: cannot be decoded: GDCM cannot decode its pixels$"):
            read_film("a.dcm", content=content)
