"""DICOM films that pydicom writes, for the tests that read them."""

import io
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

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


def written(ds: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The bytes of the film's file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()
