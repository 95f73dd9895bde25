"""Compressed DICOM films whose stream and header differ, each by every decoder that is installed."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1, RLELossless

from dicom_films import RAMP, by_gdcm, compressed, film, jpeg_2000, runs, written
from rrg.data import dicom_frames
from rrg.data.films import read_film
from rrg.data.pixels import LUMA
from rrg.errors import DataError

RED = np.zeros((24, 16, 3), np.uint8)
RED[..., 0] = 255
COLOURS = np.random.default_rng(0).integers(0, 256, (40, 33, 3), np.uint8)
RISING = np.linspace(0, 1, 67 * 51).reshape(67, 51)


def by_each(ds: Dataset, syntax: UID, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The film by every decoder that is installed, alone."""
    content, films = written(ds, syntax), []
    for name in get_decoder(syntax).available_plugins:
        monkeypatch.setattr(dicom_frames, "PLUGINS", (name,))
        films.append(read_film("a.dcm", content=content))
    monkeypatch.undo()
    assert films
    return films


def jpeg(values: np.ndarray, sampling: int = 0, rgb: bool = False) -> bytes:
    """Without a marker that says how its colours are coded, and with their components called 1, 2, 3."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=98, subsampling=sampling, keep_rgb=rgb)
    frame, length = file.getvalue(), 18 if not rgb else 16
    assert frame[2:4] == (b"\xff\xee" if rgb else b"\xff\xe0")
    return named(frame[:2] + frame[2 + length :], b"RGB", b"\1\2\3")


def named(frame: bytes, before: bytes, after: bytes) -> bytes:
    """The frame with its components called otherwise."""
    for form in ("{:c}\x11\0{:c}\x11\0{:c}\x11\0", "\x03{:c}\0{:c}\0{:c}\0"):  # of the frame, of its scan
        frame = frame.replace(form.format(*before).encode("latin-1"), form.format(*after).encode("latin-1"))
    return frame


JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
ADOBE = [b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) for transform in (0, 1)]
FRAMES = {
    "YBR, JFIF": lambda c: marked(jpeg(c), JFIF),
    "YBR, Adobe": lambda c: marked(jpeg(c), ADOBE[1]),
    "YBR, JFIF and Adobe": lambda c: marked(jpeg(c), JFIF, ADOBE[1]),
    "YBR of fewer colours, Adobe": lambda c: marked(jpeg(c, 2), ADOBE[1]),
    "YBR of fewer colours": lambda c: jpeg(c, 1),
    "RGB, Adobe": lambda c: marked(jpeg(c, rgb=True), ADOBE[0]),
    "RGB, Adobe, named": lambda c: marked(named(jpeg(c, rgb=True), b"\1\2\3", b"RGB"), ADOBE[0]),
    "RGB, named": lambda c: named(jpeg(c, rgb=True), b"\1\2\3", b"RGB"),
    "RGB, named small": lambda c: named(jpeg(c, rgb=True), b"\1\2\3", b"rgb"),
}


def marked(frame: bytes, *markers: bytes) -> bytes:
    return frame[:2] + b"".join(markers) + frame[2:]


@pytest.mark.parametrize("header", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("kind", FRAMES)
def test_colours_of_a_jpeg_are_what_its_stream_says(kind: str, header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = compressed(film(RED, 8), FRAMES[kind](RED), PhotometricInterpretation=header)
    for gray in by_each(ds, JPEGBaseline8Bit, monkeypatch):
        np.testing.assert_allclose(gray, 0.299, atol=0.006)


@pytest.mark.parametrize("ids", [b"\1\2\3", b"\0\1\2"])
@pytest.mark.parametrize("header", ["RGB", "YBR_FULL"])
def test_colours_of_a_jpeg_that_says_nothing_are_the_headers(
    header: str, ids: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = named(jpeg(RED, rgb=header == "RGB"), b"\1\2\3", ids)
    ds = compressed(film(RED, 8), frame, PhotometricInterpretation=header)
    for gray in by_each(ds, JPEGBaseline8Bit, monkeypatch):
        np.testing.assert_allclose(gray, 0.299, atol=0.006)


@pytest.mark.parametrize("kind", ["YBR, Adobe", "RGB, named"])
def test_decoders_give_equal_pixels_of_a_colour_jpeg(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = compressed(film(COLOURS, 8), FRAMES[kind](COLOURS), PhotometricInterpretation="YBR_FULL_422")
    for gray in by_each(ds, JPEGBaseline8Bit, monkeypatch):
        np.testing.assert_allclose(gray, COLOURS @ LUMA / 255, atol=0.03)


@pytest.mark.parametrize("header", ["RGB", "YBR_RCT", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_colours_that_jpeg_2000_transformed_are_rgb(header: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (67, 51, 3)).astype(kind)
    ds = compressed(film(values, np.iinfo(kind).bits), jpeg_2000(values), PhotometricInterpretation=header)
    if kind == np.uint16:  # at 8 bits alone by Pillow: the next one is asked
        films = [read_film("a.dcm", content=written(ds, JPEG2000Lossless))]
    else:
        films = by_each(ds, JPEG2000Lossless, monkeypatch)
    for gray in films:
        np.testing.assert_allclose(gray, values @ LUMA / np.iinfo(kind).max, atol=1e-6)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "stored"), [(16, 12), (14, 12), (13, 12), (12, 10), (12, 12), (12, 16)])
def test_bits_of_the_stream_count(bits: int, stored: int, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be more than BitsStored, or fewer."""
    values = np.rint(RISING * ((1 << bits) - 1)).astype(int) - (1 << bits - 1) * signed
    values = values.astype(np.int16 if signed else np.uint16)
    for gray in by_each(compressed(film(values, stored), jpeg_2000(values, bits)), JPEG2000Lossless, monkeypatch):
        np.testing.assert_allclose(gray, (values.astype(int) - values.min()) / ((1 << bits) - 1), atol=1e-6)


@pytest.mark.parametrize("drawn_out", [False, True])
def test_a_stream_may_have_room_for_more_bits_than_are_stored(drawn_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of signed values, as words with or without copies of their sign."""
    values = (np.rint(RISING * 4095) - 2048).astype(np.int16)
    words = values.view(np.uint16) & (0xFFFF if drawn_out else 0xFFF)
    ds = compressed(film(values, WindowCenter=100, WindowWidth=900), jpeg_2000(words, 16))
    expected = read_film("a.dcm", content=written(film(values, WindowCenter=100, WindowWidth=900)))
    for gray in by_each(ds, JPEG2000Lossless, monkeypatch):
        np.testing.assert_array_equal(gray, expected)


def test_signed_values_of_a_stream_above_those_stored_stay_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.rint(RISING * 4000).astype(np.int16)
    for gray in by_each(compressed(film(values), jpeg_2000(values, 16)), JPEG2000Lossless, monkeypatch):
        np.testing.assert_allclose(gray, values / 4000, atol=1e-6)


def test_eight_bits_may_lie_in_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.rint(RISING * 255).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, "JPEG", quality=100)
    for stored in (8, 12):
        for gray in by_each(compressed(film(values, stored), file.getvalue()), JPEGBaseline8Bit, monkeypatch):
            np.testing.assert_allclose(gray, RISING, atol=0.02)


def test_twelve_bits_of_jpeg_extended(tmp_path: pytest.TempPathFactory) -> None:
    values = np.rint(RISING * 4095).astype(np.uint16)
    content = by_gdcm(values, "JPEGExtendedProcess2_4", tmp_path)
    assert JPEGExtended12Bit.encode() in content
    np.testing.assert_allclose(read_film("a.dcm", content=content), RISING, atol=0.002)


def test_what_reads_twelve_bits_is_named(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    content = by_gdcm(RAMP.repeat(4, 0), "JPEGExtendedProcess2_4", tmp_path)
    monkeypatch.setattr(dicom_frames, "PLUGINS", ("pillow",))
    with pytest.raises(DataError, match=r"Pillow does not support .*; pip install 'rrg-compose\[dicom\]' brings"):
        read_film("a.dcm", content=content)


def test_the_next_decoder_reads_what_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (67, 51, 3)).astype(np.uint16)
    frame = jpeg_2000(values, 12)
    pytest.importorskip("gdcm", reason="python-gdcm is the next")
    monkeypatch.setattr(dicom_frames, "PLUGINS", ("pillow", "gdcm"))
    whole = written(compressed(film(values), frame), JPEG2000Lossless)
    np.testing.assert_allclose(read_film("a.dcm", content=whole), values @ LUMA / 4095, atol=1e-6)
    without_end = written(compressed(film(values), frame.removesuffix(b"\xff\xd9")), JPEG2000Lossless)
    with pytest.raises(DataError, match=r"Pillow cannot decode 12-bit multi-sample data correctly$"):
        read_film("a.dcm", content=without_end)  # another might fill up what is missing


def test_orientation_in_the_frame_of_a_dicom_turns_nothing() -> None:
    values, file, exif = np.rint(RISING * 255).astype(np.uint8), io.BytesIO(), Image.Exif()
    exif[274] = 3
    Image.fromarray(values).save(file, "JPEG", quality=100, exif=exif)
    content = written(compressed(film(values, 8), file.getvalue()), JPEGBaseline8Bit)
    np.testing.assert_allclose(read_film("a.dcm", content=content), RISING, atol=0.02)


@pytest.mark.parametrize("kind", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEGExtendedProcess2_4"])
def test_a_frame_without_its_end_is_refused(kind: str, tmp_path: pytest.TempPathFactory) -> None:
    """GDCM fills up what is missing."""
    content = by_gdcm(np.random.default_rng(0).integers(0, 4096, (52, 35)).astype(np.uint16), kind, tmp_path)
    end = content.rindex(b"\xff\xd9")
    content = content[: end - 600] + bytes(602) + content[end + 2 :]
    with pytest.raises(DataError, match="its compressed pixels are cut short: they have no end marker"):
        read_film("a.dcm", content=content)


def test_lossless_jpeg_in_colour(tmp_path: pytest.TempPathFactory) -> None:
    content = by_gdcm(COLOURS, "JPEGLosslessProcess14_1", tmp_path)
    assert JPEGLosslessSV1.encode() in content
    np.testing.assert_allclose(read_film("a.dcm", content=content), COLOURS @ LUMA / 255, atol=1e-6)


def test_a_codestream_in_a_jp2_file(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.rint(RISING * 4095).astype(np.uint16)
    frame = jpeg_2000(values, 12)
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", len(frame) + 8, b"jp2c") + frame
    for gray in by_each(compressed(film(values), boxes), JPEG2000Lossless, monkeypatch):
        np.testing.assert_allclose(gray, values / 4095, atol=1e-6)


@pytest.mark.parametrize("padding", [b"\0", b"\0\0", bytes(63)])
def test_padding_behind_compressed_pixels(padding: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.rint(RISING * 4095).astype(np.uint16)
    for gray in by_each(compressed(film(values), jpeg_2000(values, 12) + padding), JPEG2000Lossless, monkeypatch):
        np.testing.assert_allclose(gray, values / 4095, atol=1e-6)
    frame = runs(values, 12) + padding
    for gray in by_each(compressed(film(values), frame), RLELossless, monkeypatch):
        np.testing.assert_allclose(gray, values / 4095, atol=1e-6)
