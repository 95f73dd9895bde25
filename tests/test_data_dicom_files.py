"""DICOM files: what of the header is read, what is refused, files that lie, and what an import leaves behind."""

import contextlib
import io
import os
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from data_sources import EdemaLabeler
from dicom_films import BIRTH, INSTITUTION, NAME, RAMP, film, table, written
from rrg.data import dicom, films, importing
from rrg.data.archives import Member
from rrg.data.dicom import Header, header
from rrg.data.films import read_film
from rrg.data.importing import Entries, Reading, import_collection
from rrg.errors import DataError

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
WHOLE = {
    syntax: written(
        film(
            RAMP if syntax != ExplicitVRBigEndian else RAMP.astype(">u2"),
            WindowCenter=2048,
            WindowWidth=4096,
            VOILUTSequence=table(list(range(0, 4096, 8)), 0, 12),
        ),
        syntax,
    )
    for syntax in SYNTAXES
}


def erect(meaning: str = "Erect") -> Sequence:
    item = Dataset()
    item.CodeMeaning = meaning
    return Sequence([item])


def void_table() -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", None)
    item.add_new("LUTData", "US", None)
    return Sequence([item])


def test_the_header_has_these_fields_and_no_other(tmp_path: Path) -> None:
    ds = film(PatientOrientationCodeSequence=erect(), PatientPosition="HFS", BurnedInAnnotation="NO")
    path = tmp_path / "a.dcm"
    path.write_bytes(written(ds))
    expected = Header("PA", "erect", "2180-05-06T21:30:14", "p10000032", "1.2.826.0.2", False)
    assert header(path) == header(path.read_bytes()) == expected
    assert "p10000032" not in repr(expected)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_header_reads_in_every_syntax(syntax: str) -> None:
    assert header(WHOLE[syntax]).date == "2180-05-06T21:30:14"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ViewPosition": "LL"}, {"view": "LL"}),
        ({"ViewPosition": ""}, {"view": ""}),
        ({"PatientPosition": "HFS"}, {"position": "HFS"}),
        ({"PatientOrientationCodeSequence": erect("Recumbent")}, {"position": "recumbent"}),
        ({"PatientOrientationCodeSequence": erect(NAME), "PatientPosition": "HFS"}, {"position": "HFS"}),
        ({"PatientOrientationCodeSequence": Sequence()}, {"position": ""}),
        ({"StudyTime": ""}, {"date": "2180-05-06"}),
        ({"StudyTime": "2130"}, {"date": "2180-05-06T21:30:00"}),
        ({"StudyTime": "21"}, {"date": "2180-05-06"}),
        ({"StudyDate": ""}, {"date": ""}),
        ({"BurnedInAnnotation": "YES"}, {"burned_in": True}),
    ],
)
def test_fields_that_are_absent_or_malformed(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    found = header(written(film(**fields)))
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("field", "junk", "date"),
    [
        (b"213014", b"996199", "2180-05-06"),
        (b"213014", b"Doe^ J", "2180-05-06"),
        (b"21800506", b"21800231", ""),
        (b"21800506", b"Doe^John", ""),
    ],
)
def test_a_date_that_is_none_is_left_out(field: bytes, junk: bytes, date: str) -> None:
    assert header(written(film()).replace(field, junk)).date == date


@pytest.mark.parametrize("junk", [b"Doe^", b"pa  ", b"\xff\xfe\x00\x01"])
def test_a_view_that_is_no_code_is_left_out(junk: bytes) -> None:
    content = written(film(ViewPosition="QQQQ"))
    assert header(content.replace(b"QQQQ", junk)).view == ""


def test_films_are_told_by_content_and_found_in_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(WHOLE[ExplicitVRLittleEndian])
    np.testing.assert_array_equal(read_film(path), read_film("gone.dcm", content=path.read_bytes()))
    assert read_film(path, 5).shape == (5, 5)
    with pytest.raises(DataError, match=r"a\.dcm in films\.tar: cannot be decoded"):
        read_film(str(Member(Path("films.tar"), "a.dcm")), content=path.read_bytes()[:-9])


def test_pydicom_is_imported_when_a_dicom_comes() -> None:
    code = "import sys, rrg.data.films; assert not any(name.startswith('pydicom') for name in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_a_film_with_several_frames_is_refused() -> None:
    ds = film(NumberOfFrames=3, PixelData=RAMP.tobytes() * 3)
    with pytest.raises(DataError, match=r"a\.dcm: 3 frames; a film is one"):
        read_film("a.dcm", content=written(ds))
    assert read_film("a.dcm", content=written(film(NumberOfFrames=1))).shape == RAMP.shape


def test_what_holds_no_pixels_is_refused() -> None:
    ds = film(SOPClassUID=BasicTextSRStorage)
    del ds.PixelData
    for read in (lambda content: read_film("a.dcm", content=content), lambda content: header(content, "a.dcm")):
        with pytest.raises(DataError, match=r"a\.dcm: holds no pixels \(its class: Basic Text SR Storage\)"):
            read(written(ds))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"Rows": 60_000, "Columns": 60_000}, "60000×60000 pixels, above the limit of 64 megapixels"),
        ({"Rows": 0}, "7×0 pixels"),
        ({"Rows": 12}, "182 bytes of pixels, where 7×12 of them have 168"),
        ({"Rows": 14}, "182 bytes of pixels, where 7×14 of them have 196"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "182 bytes of pixels, where 7×13 of them have 91"),
        ({"BitsAllocated": 32}, "pixels of 12 bits up to bit 11 in 32"),
        ({"BitsStored": 17}, "pixels of 17 bits"),
        ({"HighBit": 16}, "pixels of 12 bits up to bit 16"),
        ({"HighBit": 3}, "pixels of 12 bits up to bit 3"),
        ({"PixelRepresentation": 2}, ".*PixelRepresentation 2; expected"),
        ({"SamplesPerPixel": 3}, "3 samples a pixel with PhotometricInterpretation 'MONOCHROME2'"),
        ({"PhotometricInterpretation": "HSV"}, "1 samples a pixel with PhotometricInterpretation 'HSV'"),
    ],
)
def test_a_header_that_does_not_fit_its_pixels_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=rf"^a\.dcm: (cannot be decoded: )?{text}"):
        read_film("a.dcm", content=written(film(**fields)))


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("keyword", ["Rows", "BitsAllocated", "PixelRepresentation"])
def test_a_field_that_is_missing_or_void_is_named(keyword: str, void: bool) -> None:
    ds = film(SOPClassUID=ComputedRadiographyImageStorage, **({keyword: None} if void else {}))
    if not void:
        delattr(ds, keyword)
    with pytest.raises(DataError, match=rf"{keyword} {'has no value' if void else 'is missing'}"):
        read_film("a.dcm", content=written(ds))


def test_black_and_white_are_not_guessed() -> None:
    with pytest.raises(DataError, match="PhotometricInterpretation has no value, so that black and white cannot"):
        read_film("a.dcm", content=written(film(PhotometricInterpretation=None)))


@pytest.mark.parametrize(
    "fields",
    [
        {"PhotometricInterpretation": None, "PresentationLUTShape": "IDENTITY"},
        {"SamplesPerPixel": None},
        {"BitsStored": None},
        {"HighBit": None},
        {"PixelRepresentation": None},  # of a DX film
        {"PlanarConfiguration": None},
        {"NumberOfFrames": None},
        {"NumberOfFrames": 0},
        {"PixelPaddingValue": None, "PixelPaddingRangeLimit": None},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": None, "RescaleIntercept": 0},
        {"RescaleSlope": 1, "RescaleIntercept": None},
        {"RescaleIntercept": -5, "RescaleSlope": None, "WindowCenter": 2043},
        {"RescaleSlope": 0.5, "RescaleIntercept": None, "WindowCenter": 1024.25, "WindowWidth": 2048.5},
        {"VOILUTFunction": None},
        {"PresentationLUTShape": None},
        {"ModalityLUTSequence": Sequence(), "VOILUTSequence": None},
        {"VOILUTSequence": Sequence([Dataset()])},
        {"VOILUTSequence": void_table(), "ModalityLUTSequence": void_table()},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 700, "WindowWidth": None},
        {"WindowCenter": None, "WindowWidth": 900},
        {"VOILUTSequence": Sequence(), "WindowCenter": None, "WindowWidth": None},
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_void_field_says_nothing(fields: dict[str, Any], syntax: str) -> None:
    """The film's grey is its full range, which the window is too where there is one."""
    fields = {"WindowCenter": 2048, "WindowWidth": 4096} | fields
    np.testing.assert_allclose(read_film("a.dcm", content=written(film(**fields), syntax)), RAMP / 4095, atol=1e-6)


def test_a_slope_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="RescaleSlope is 0, by which all pixels would be one value"):
        read_film("a.dcm", content=written(film(RescaleSlope=0, RescaleIntercept=0)))


@pytest.mark.parametrize("padding", [b"\0" * 2, b"\0" * 64, b"\0" * 14, b"\xff" * 1000, b" " * 200, b"left over!"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_padding_behind_the_pixels_is_dropped(padding: bytes, syntax: str) -> None:
    values = RAMP.astype(">u2") if syntax == ExplicitVRBigEndian else RAMP
    content = written(film(values, PixelData=values.tobytes() + padding), syntax)
    np.testing.assert_allclose(read_film("a.dcm", content=content), RAMP / 4095, atol=1e-6)


@pytest.mark.parametrize("order", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_padding_behind_an_odd_number_of_bytes(order: str) -> None:
    values = (RAMP // 16).astype(np.uint8)
    padded = values.tobytes() + b"\0"
    if order == ExplicitVRBigEndian:  # in words, whose bytes are swapped
        padded = np.frombuffer(padded, "<u2").byteswap().tobytes()
    ds = film(values, 8)
    ds.add_new("PixelData", "OW", padded + b"\0" * 6)
    np.testing.assert_allclose(read_film("a.dcm", content=written(ds, order)), values / 255, atol=1e-6)


def test_floating_point_pixels_are_refused() -> None:
    ds = film(FloatPixelData=bytes(4 * RAMP.size))
    del ds.PixelData
    with pytest.raises(DataError, match="floating-point"):
        read_film("a.dcm", content=written(ds))


def test_pixels_of_a_length_beyond_the_end_of_the_file_are_refused() -> None:
    content = WHOLE[ExplicitVRLittleEndian]
    at = content.rindex(b"\xe0\x7f\x10\x00OW") + 8
    for length in (183, 0xFFFFFFFE):
        with pytest.raises(DataError, match=rf"its pixels are cut short: {length:,} bytes declared, 182 there"):
            read_film("a.dcm", content=content[:at] + struct.pack("<L", length) + content[at + 4 :])
    with pytest.raises(DataError, match="no declared length of pixels, where 7×13 of them have 182"):
        read_film("a.dcm", content=content[:at] + b"\xff\xff\xff\xff" + content[at + 4 :])


def test_a_data_set_without_the_preamble_is_refused() -> None:
    with pytest.raises(DataError, match=r"a\.dcm: none of JPEG, PNG and DICOM"):
        read_film("a.dcm", content=WHOLE[ExplicitVRLittleEndian][132:])


def test_an_unknown_transfer_syntax_is_refused() -> None:
    content = WHOLE[ExplicitVRLittleEndian].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")
    with pytest.raises(DataError, match=r"unknown transfer syntax: 1\.2\.840\.10008\.1\.2\.9"):
        read_film("a.dcm", content=content)


def test_a_bomb_of_deflate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = WHOLE[DeflatedExplicitVRLittleEndian]
    at = content.index(DeflatedExplicitVRLittleEndian.encode()) + len(DeflatedExplicitVRLittleEndian)
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(bytes(64 << 20)) + packer.flush()
    monkeypatch.setattr(dicom, "MAX_FILM_BYTES", 1 << 20)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.dcm: inflates to more than 1 MiB, which is refused"):
        header(content[:at] + b"\0" * (at % 2) + bomb, "a.dcm")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_an_oversized_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(WHOLE[ExplicitVRLittleEndian])
    for module in (dicom, films):
        monkeypatch.setattr(module, "MAX_FILM_BYTES", 1000)
    for read in (header, read_film):
        with pytest.raises(DataError, match=r"a\.dcm: larger than 0 MiB, which is refused"):
            read(tmp_path / "a.dcm")


def nested(depth: int, implicit_start: bytes) -> bytes:
    """A film with sequences of undefined length, each in the one before, and no end."""
    at = implicit_start.index(b"\x08\x00\x16\x00")
    return implicit_start[:at] + b"\x08\x00\x05\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth


@pytest.mark.parametrize("depth", [1, 50, 5_000])
def test_nested_sequences_without_an_end_are_refused(depth: int) -> None:
    for read in (lambda content: read_film("a.dcm", content=content), lambda content: header(content, "a.dcm")):
        with pytest.raises(DataError, match=r"a\.dcm: "):
            read(nested(depth, WHOLE[ImplicitVRLittleEndian]))


def test_values_without_an_end_do_not_send_the_reader_back_and_forth() -> None:
    """Each item of a sequence has a value of undefined length, for whose end the whole file would be searched."""
    start = nested(1, WHOLE[ImplicitVRLittleEndian])[:-8]
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x42\x00\x11\x00\xff\xff\xff\xff"
    with pytest.raises(DataError, match="its elements contradict each other, or are too many"):
        read_film("a.dcm", content=start + item * 500_000)


def outcome(content: bytes) -> np.ndarray | str:
    """The film, or its one error."""
    try:
        return read_film("a.dcm", content=content)
    except DataError as error:
        return error.message


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SYNTAXES), st.floats(0, 1))
def test_a_film_that_is_cut_anywhere_is_refused_or_has_all_its_pixels(syntax: str, share: float) -> None:
    whole = WHOLE[syntax]
    found = outcome(whole[: int(share * (len(whole) - 1))])
    if isinstance(found, str):
        assert found.startswith("a.dcm: ")
    else:
        assert syntax == DeflatedExplicitVRLittleEndian  # of whose last byte no bit may count
        np.testing.assert_array_equal(found, read_film("a.dcm", content=whole))


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SYNTAXES),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_broken_bytes_give_a_film_or_one_error(syntax: str, changes: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE[syntax])
    for at, value in changes:
        content[at % len(content)] = value
    found = outcome(bytes(content))
    if isinstance(found, str):
        assert found.startswith("a.dcm: ")
        assert "\n" not in found
    else:
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 1
    with contextlib.suppress(DataError):
        header(bytes(content), "a.dcm")


def test_threads_read_as_one_does(recwarn: pytest.WarningsRecorder) -> None:
    """An unknown character set, of which pydicom warns."""
    content = written(film(SpecificCharacterSet="ISO_IR 100")).replace(b"ISO_IR 100", b"ISO_ZZ 999")
    with pytest.warns(UserWarning, match="Unknown encoding"):
        pydicom.dcmread(io.BytesIO(content))
    expected, found = read_film("a.dcm", content=content), []
    threads = [
        Thread(target=lambda: found.extend(read_film("a", content=content) for _ in range(20))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all((gray == expected).all() for gray in found)
    assert not recwarn.list


def test_an_import_leaves_nothing_of_the_header_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a small collection of DICOM films, which the films' own headers group, and which has burnt-in text in one."""
    src = tmp_path / "src"
    src.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 4096, (40, 30)).astype(np.uint16)
        ds = film(noise, PatientID=f"hospital-{number}", BurnedInAnnotation="YES" if number == 2 else "NO")
        (src / f"{number}.dcm").write_bytes(written(ds))

    def read(src: Path, seed: int, given: str | None) -> Reading:
        entries, patients = Entries(), {}
        for path in sorted(src.iterdir()):
            found = header(path)
            patient = patients.setdefault(found.patient, f"patient {len(patients)}")
            fields = {"views": [found.view], "positions": [found.position], "date": found.date, "split": "train"}
            names = [f"images/{path.name}"]
            entries.add(path.name, [path], id=path.stem, patient=patient, file_names=names, findings="Clear.", **fields)
        return Reading(entries, {"name": "small", "source": "test", "licence": "none"}, "DICOM", "none")

    module = ModuleType("small_collection")
    module.read = read  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "small_collection", module)
    monkeypatch.setitem(importing.COLLECTIONS, "small", "small_collection")
    done = import_collection(
        "small", src, tmp_path / "dest", labeler=EdemaLabeler(), skip_bad=True, workers=1, progress=False
    )
    assert [problem.kind for problem in done.problems] == ["burnt-in text"]
    assert done.folder.studies[0].date == "2180-05-06T21:30:14"
    assert done.folder.studies[0].views == ["PA"]
    files = [path for path in (tmp_path / "dest").rglob("*") if path.is_file()]
    assert len(files) >= 4
    secrets = [*NAME.split("^"), BIRTH, INSTITUTION, "1.2.826.0", "hospital"]
    for path in files:
        content = path.read_bytes()
        held = [secret for secret in secrets if secret.encode() in content or secret.encode("utf-16-le") in content]
        assert not held, path
    assert read_film(done.folder.film_path(done.folder.studies[0])).shape == (40, 30)
