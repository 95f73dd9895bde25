"""DICOM films that pydicom writes, for the tests that read them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.sequence import Sequence
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, RLELossless

RAMP = np.linspace(0, 4095, 13 * 7).reshape(13, 7).astype(np.uint16)
NAME, BIRTH, INSTITUTION = "Hollerith^Philomena", "19371224", "Sanatorium Abendrot"


def film(values: np.ndarray = RAMP, stored: int = 12, **fields: Any) -> Dataset:
    """A film of these stored values, of (height width) or (height width 3), with a patient in its header."""
    ds = Dataset()
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = "1.2.826.0.1"
    ds.StudyInstanceUID = "1.2.826.0.2"
    ds.PatientName, ds.PatientBirthDate, ds.InstitutionName = NAME, BIRTH, INSTITUTION
    ds.PatientID = "p10000032"
    ds.ViewPosition = "PA"
    ds.StudyDate, ds.StudyTime = "21800506", "213014.531000"
    ds.Rows, ds.Columns = values.shape[:2]
    ds.SamplesPerPixel = 3 if values.ndim == 3 else 1
    if values.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
    ds.BitsAllocated = 8 * values.dtype.itemsize
    ds.BitsStored, ds.HighBit = stored, stored - 1
    ds.PixelRepresentation = int(values.dtype.kind == "i")
    content = values.tobytes()
    ds.add_new("PixelData", "OW" if ds.BitsAllocated == 16 else "OB", content + bytes(len(content) % 2))
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    return ds


def table(entries: list[int], first: int, bits: int, vr: str = "US") -> Sequence:
    """A sequence with one lookup table."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", vr, entries if vr == "US" else np.array(entries, "<u2").tobytes())
    return Sequence([item])


def compressed(ds: Dataset, frame: bytes, **fields: Any) -> Dataset:
    """The film with this frame for its pixels."""
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    return ds


def runs(values: np.ndarray, stored: int, **fields: Any) -> bytes:
    """A frame of RLE."""
    ds = film(values, stored, **fields)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(RLELossless, generate_instance_uid=False)
    return get_frame(ds.PixelData, 0, number_of_frames=1)


def jpeg_2000(values: np.ndarray, bits: int | None = None) -> bytes:
    """A frame of JPEG 2000, of so many bits; in colour, transformed from RGB."""
    utils = pytest.importorskip("openjpeg.utils", reason="pylibjpeg-openjpeg writes the film")
    return utils.encode_array(values, bits_stored=bits, photometric_interpretation=1 if values.ndim == 3 else 2)


def by_gdcm(values: np.ndarray, kind: str, folder: Path) -> bytes:
    """The film's file as GDCM compresses it."""
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm writes the film")
    (folder / "plain.dcm").write_bytes(written(film(values, 8 if values.dtype == np.uint8 else 12)))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(folder / "coded.dcm"))
    assert writer.Write()
    return (folder / "coded.dcm").read_bytes()


def written(ds: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The bytes of the film's file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()
