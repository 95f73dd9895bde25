"""DICOM films: grey values as the standard says, and as pydicom's own functions give them."""

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_films import RAMP, film, table, written
from rrg.data.films import read_film
from rrg.errors import DataError

SIGNED = (RAMP.astype(np.int16) - 2048).astype(np.int16)
BYTES = (RAMP // 16).astype(np.uint8)
RGB = np.random.default_rng(0).integers(0, 256, (13, 7, 3), np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])


def read(ds: Dataset, syntax: UID = ExplicitVRLittleEndian) -> np.ndarray:
    gray = read_film("a.dcm", content=written(ds, syntax))
    assert gray.dtype == np.float32
    assert gray.min() >= 0
    assert gray.max() <= 1
    return gray


def by_pydicom(ds: Dataset, low: float, high: float) -> np.ndarray:
    """What pydicom's functions make of the film, of an output range in [0, 1]."""
    ds = pydicom.dcmread(io.BytesIO(written(ds)))
    values = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds)
    return (np.asarray(values, np.float64) - low) / (high - low)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [None, (1, 0), (2.5, -1024), (0.25, 7.5)])
@pytest.mark.parametrize("values", [RAMP, SIGNED], ids=["unsigned", "signed"])
def test_windows_are_pydicoms(values: np.ndarray, rescale: tuple | None, function: str | None) -> None:
    ds = film(values, WindowCenter=700.5, WindowWidth=900)
    if function:
        ds.VOILUTFunction = function
    low, high = (-2048, 2047) if values is SIGNED else (0, 4095)
    if rescale:
        ds.RescaleSlope, ds.RescaleIntercept = rescale
        low, high = low * rescale[0] + rescale[1], high * rescale[0] + rescale[1]
    np.testing.assert_allclose(read(ds), by_pydicom(ds, low, high), atol=1e-6)


def test_of_several_windows_the_first_is_taken() -> None:
    several = film(WindowCenter=[700, 2000], WindowWidth=[900, 10])
    np.testing.assert_array_equal(read(several), read(film(WindowCenter=700, WindowWidth=900)))


def test_a_linear_window_of_width_one_is_a_step() -> None:
    np.testing.assert_array_equal(read(film(WindowCenter=1000, WindowWidth=1)), RAMP > 999.5)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"WindowWidth": 0.5}, "a window of width 0.5; expected at least 1"),
        ({"WindowWidth": 0, "VOILUTFunction": "SIGMOID"}, "a window of width 0"),
        ({"WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "VOILUTFunction 'CUBIC'; expected LINEAR, LINEAR_EXACT"),
    ],
)
def test_a_window_that_means_nothing_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=rf"a\.dcm: cannot be decoded: {text}"):
        read(film(WindowCenter=5, **fields))


@pytest.mark.parametrize("number", [b"nan   ", b"-inf  ", b"1e+308", b"slope "])
def test_numbers_beyond_all_range_are_refused(number: bytes) -> None:
    content = written(film(RescaleSlope="123456", RescaleIntercept=0))
    with pytest.raises(DataError, match=r"a\.dcm: cannot be decoded: "):
        read_film("a.dcm", content=content.replace(b"123456", number))


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize(("bits", "first"), [(16, 0), (16, 300), (12, 1000), (10, -50), (8, 0)])
@pytest.mark.parametrize("rescale", [False, True])
def test_a_voi_table_is_pydicoms(bits: int, first: int, vr: str, rescale: bool) -> None:
    entries = (np.linspace(0, 1, 200 if bits == 8 else 3000) ** 2 * ((1 << bits) - 1)).astype(int).tolist()
    values = SIGNED if first < 0 else (RAMP // 21 if bits == 8 else RAMP).astype(np.uint16)
    ds = film(values, VOILUTSequence=table(entries, first, bits, vr))
    if rescale and first >= 0:
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        with pytest.warns(UserWarning, match="float"):
            expected = by_pydicom(ds, 0, (1 << bits) - 1)
    else:
        expected = by_pydicom(ds, 0, (1 << bits) - 1)
    np.testing.assert_allclose(read(ds), expected, atol=1e-6)


def test_a_voi_table_comes_before_a_window() -> None:
    ds = film(VOILUTSequence=table(list(range(4096)), 0, 12), WindowCenter=5, WindowWidth=2)
    np.testing.assert_allclose(read(ds), RAMP / 4095, atol=1e-6)


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_a_modality_table_is_pydicoms_and_the_window_sees_its_values(vr: str) -> None:
    entries = (np.linspace(0, 1, 3000) ** 2 * 60_000).astype(int).tolist()
    ds = film(ModalityLUTSequence=table(entries, 100, 16, vr), WindowCenter=30_000, WindowWidth=20_000)
    np.testing.assert_allclose(read(ds), by_pydicom(ds, 0, 65535), atol=1e-6)


def test_eight_bit_entries_may_lie_two_to_a_word() -> None:
    ds = film(BYTES, 8, VOILUTSequence=table([0] * 256, 0, 8, "OW"))
    ds.VOILUTSequence[0].LUTData = bytes(255 - i for i in range(256))
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        np.testing.assert_allclose(read(ds, syntax), 1 - BYTES / 255, atol=1e-6)


def test_a_table_with_fewer_entries_than_declared_is_refused() -> None:
    ds = film(VOILUTSequence=table([1] * 50, 0, 16))
    ds.VOILUTSequence[0].LUTDescriptor = [51, 0, 16]
    with pytest.raises(DataError, match="LUTData holds 50 entries of the 51 declared"):
        read(ds)


def test_without_a_window_the_range_is_that_of_the_values() -> None:
    values = (RAMP // 2 + 500).astype(np.uint16)
    expected = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(read(film(values)), expected, atol=1e-6)
    np.testing.assert_allclose(read(film(SIGNED)), (SIGNED + 2048) / 4095, atol=1e-6)


def test_padding_is_no_part_of_the_range() -> None:
    values = (RAMP // 2 + 500).astype(np.uint16)
    values[0], values[1] = 4095, 4090
    inside = values[2:]
    gray = read(film(values, PixelPaddingValue=4095, PixelPaddingRangeLimit=4090))
    np.testing.assert_allclose(gray[2:], (inside - inside.min()) / np.ptp(inside), atol=1e-6)
    assert (gray[:2] == 1).all()


def test_signed_padding_is_no_part_of_the_range() -> None:
    values = (SIGNED // 2).astype(np.int16)
    values[0] = -2000
    ds = film(values)
    ds.add_new("PixelPaddingValue", "SS", -2000)
    np.testing.assert_allclose(read(ds)[1:], (values[1:] - values[1:].min()) / np.ptp(values[1:]), atol=1e-6)


def test_a_film_of_one_value_is_black() -> None:
    assert not read(film(np.full((5, 4), 77, np.uint16))).any()
    assert not read(film(np.full((5, 4), 77, np.uint16), PixelPaddingValue=77)).any()


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),  # as a DX film says it: one inversion, named twice
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
    ],
)
def test_polarity(photometric: str, shape: str | None, inverted: bool) -> None:
    ds = film(PhotometricInterpretation=photometric, WindowCenter=2048, WindowWidth=4096)
    if shape:
        ds.PresentationLUTShape = shape
    np.testing.assert_allclose(read(ds), 1 - RAMP / 4095 if inverted else RAMP / 4095, atol=1e-6)


@pytest.mark.parametrize("stored", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shift", [0, 2])
def test_only_the_stored_bits_count(stored: int, signed: bool, shift: int) -> None:
    """Bits below and above those stored hold an overlay, as old films do."""
    rng = np.random.default_rng(stored)
    shift = min(shift, 16 - stored)
    low = -(1 << (stored - 1)) if signed else 0
    values = rng.integers(low, low + (1 << stored), (9, 6))
    values[0, 0], values[0, 1] = low, low + (1 << stored) - 1
    mask = ((1 << stored) - 1) << shift
    words = ((values << shift) & mask) | (rng.integers(0, 1 << 16, values.shape) & ~mask & 0xFFFF)
    ds = film(words.astype(np.uint16), stored, HighBit=stored - 1 + shift, PixelRepresentation=int(signed))
    np.testing.assert_allclose(read(ds), (values - low) / ((1 << stored) - 1), atol=1e-6)


def test_eight_bits_allocated() -> None:
    assert BYTES.size % 2
    np.testing.assert_allclose(read(film(BYTES, 8, WindowCenter=128, WindowWidth=256)), BYTES / 255, atol=1e-6)


@pytest.mark.parametrize("planar", [0, 1])
def test_colour_becomes_luma(planar: int) -> None:
    ds = film(RGB, 8)
    if planar:
        ds.PlanarConfiguration = 1
        ds.PixelData = RGB.transpose(2, 0, 1).tobytes() + b"\0"
    np.testing.assert_allclose(read(ds), RGB @ LUMA / 255, atol=1e-6)


def test_ybr_is_its_luma() -> None:
    ybr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    np.testing.assert_allclose(read(film(ybr, 8, PhotometricInterpretation="YBR_FULL")), ybr[..., 0] / 255, atol=1e-6)


def test_subsampled_ybr_is_its_luma() -> None:
    luma = BYTES[:, :6]
    pairs = np.dstack([luma[:, ::2], luma[:, 1::2], np.full((13, 3, 2), 128, np.uint8)])
    ds = film(RGB[:, :6], 8, PhotometricInterpretation="YBR_FULL_422", PixelData=pairs.tobytes())
    np.testing.assert_allclose(read(ds), luma / 255, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_becomes_luma(bits: int) -> None:
    ds = film(BYTES, 8, PhotometricInterpretation="PALETTE COLOR")
    palette = np.random.default_rng(1).integers(0, 1 << bits, (256, 3))
    for i, colour in enumerate(["Red", "Green", "Blue"]):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, bits])
        ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", palette[:, i].astype(f"<u{bits // 8}").tobytes())
    np.testing.assert_allclose(read(ds), (palette @ LUMA)[BYTES] / ((1 << bits) - 1), atol=1e-6)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_syntaxes(syntax: UID) -> None:
    ds = film(SIGNED, VOILUTSequence=table(list(range(4096)), -2048, 12))
    expected = read(ds)
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = SIGNED.astype(">i2").tobytes()
    np.testing.assert_array_equal(read(ds, syntax), expected)
    np.testing.assert_allclose(expected, (SIGNED + 2048) / 4095, atol=1e-6)
