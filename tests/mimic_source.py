"""Small sources of MIMIC-CXR in PhysioNet's layouts, for the tests of its importer."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from rrg.observations import OBSERVATIONS

JPG, REPORTS = "physionet.org/files/mimic-cxr-jpg/2.0.0", "physionet.org/files/mimic-cxr/2.0.0"
METADATA = [
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
]  # fmt: skip
SPLIT = ["dicom_id", "study_id", "subject_id", "split"]
REPORT = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough

 COMPARISON:  None.

 FINDINGS:

 Mild edema in film
 {study}.  Seen by ___.

 IMPRESSION:

 No acute process.
"""


@dataclass
class Case:
    """A study of the source: its films as (view, position) in the metadata's order."""

    patient: str
    study: str
    films: Sequence[tuple[str, str]] = (("LATERAL", "Erect"), ("PA", "Erect"))
    split: str = "train"
    day: str = "21800506"
    time: str = "213014.531"
    report: str | None = REPORT

    @property
    def folder(self) -> str:
        return f"p{self.patient[:2]}/p{self.patient}/s{self.study}"

    def film(self, number: int) -> str:
        return "-".join(f"{int(self.study) * 31 + number * 7 + part:08x}" for part in range(5))


def cases() -> list[Case]:
    """Three patients: one with three studies, out of order, and one without a findings section."""
    return [
        Case("10000032", "50414267", time="213014.531"),
        Case("10000032", "53189527", day="21800626", time="165500.312", films=[("AP", "Recumbent")]),
        Case("10000032", "56699142", day="21800506", time="92045.1"),
        Case("10000764", "57375967", split="validate"),
        Case("10000898", "50771383", split="test", report=" INDICATION: Cough.\n\n IMPRESSION: Normal.\n"),
        Case("10000898", "54205396", split="test", films=[("", ""), ("AP", "")]),
    ]


def table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A CSV, gzipped by its suffix."""
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    content = text.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def film(path: Path, case: Case, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(int(case.study) + number).integers(0, 255, (12, 10), np.uint8)
    if path.suffix == ".jpg":
        Image.fromarray(pixels).save(path)
    else:
        dicom(path, case, number, pixels)


def dicom(path: Path, case: Case, number: int, pixels: np.ndarray) -> None:
    """A film as MIMIC-CXR's: its header says the view, the patient's position, the date."""
    film, orientation = Dataset(), Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = generate_uid()
    film.PatientID, film.Modality, film.PhotometricInterpretation = case.patient, "DX", "MONOCHROME2"
    film.ViewPosition, orientation.CodeMeaning = case.films[number]
    film.PatientOrientationCodeSequence = [orientation]
    film.StudyDate, film.StudyTime = case.day, f"{float(case.time):010.3f}"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PixelRepresentation = 1, 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 8, 8, 7
    film.PixelData = pixels.tobytes()
    film.save_as(path, enforce_file_format=True)


def films(root: Path, studies: Sequence[Case], suffix: str = ".jpg") -> None:
    for case in studies:
        for number in range(len(case.films)):
            film(root / case.folder / f"{case.film(number)}{suffix}", case, number)


def reports(root: Path, studies: Sequence[Case]) -> None:
    for case in studies:
        if case.report is not None:
            path = root / f"{case.folder}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(case.report.replace("{study}", case.study))


def report_archive(path: Path, studies: Sequence[Case]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for case in studies:
            if case.report is not None:
                archive.writestr(f"files/{case.folder}.txt", case.report.replace("{study}", case.study))


def metadata(root: Path, studies: Sequence[Case], suffix: str = ".csv.gz") -> None:
    rows = [
        [
            case.film(n),
            case.patient,
            case.study,
            "CHEST (PA AND LAT)",
            view,
            12,
            10,
            case.day,
            case.time,
            "",
            "",
            position,
        ]
        for case in studies
        for n, (view, position) in enumerate(case.films)
    ]
    table(root / f"mimic-cxr-2.0.0-metadata{suffix}", METADATA, rows)


def split(root: Path, studies: Sequence[Case], suffix: str = ".csv.gz") -> None:
    rows = [[case.film(n), case.study, case.patient, case.split] for case in studies for n in range(len(case.films))]
    table(root / f"mimic-cxr-2.0.0-split{suffix}", SPLIT, rows)


def labels(root: Path, studies: Sequence[Case], kind: str = "chexpert", present: str = "Lung Opacity") -> None:
    """MIMIC-CXR-JPG's labels, in alphabetical order: one observation present, Fracture uncertain, Edema absent."""
    names = sorted("Airspace Opacity" if name == "Lung Opacity" and kind == "negbio" else name for name in OBSERVATIONS)
    values = {present: "1.0", "Fracture": "-1.0", "Edema": "0.0"}
    rows = [[case.patient, case.study, *(values.get(name, "") for name in names)] for case in studies]
    table(root / f"mimic-cxr-2.0.0-{kind}.csv.gz", ["subject_id", "study_id", *names], rows)


def annotation(path: Path, studies: Sequence[Case], **changes: Any) -> None:
    """R2Gen's file: an item for each film, the first of which takes the changes."""
    lists: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for case in studies:
        name = {"validate": "val"}.get(case.split, case.split)
        lists[name] += [
            {
                "id": case.film(n),
                "study_id": int(case.study),
                "subject_id": int(case.patient),
                "report": f"Lungs of\n {case.study} are clear.",
                "image_path": [f"{case.folder}/{case.film(n)}.jpg"],
                "split": name,
            }
            for n in range(len(case.films))
        ]
    lists["train"][0] |= changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(lists))


def jpg_source(src: Path, studies: Sequence[Case] | None = None) -> Path:
    """MIMIC-CXR-JPG and the reports' archive as `wget -r` leaves them, with every table."""
    studies = cases() if studies is None else studies
    films(src / JPG / "files", studies)
    for write in (metadata, split, labels):
        write(src / JPG, studies)
    labels(src / JPG, studies, "negbio", "Airspace Opacity")
    report_archive(src / REPORTS / "mimic-cxr-reports.zip", studies)
    return src


def beside(src: Path) -> None:
    """Films, reports and unpacked tables in one root."""
    films(src / "files", cases())
    reports(src / "files", cases())
    metadata(src, cases(), ".csv")
    split(src, cases(), ".csv")


def r2gen(src: Path, **changes: Any) -> Path:
    """R2Gen's folder, with the metadata table beside it."""
    films(src / "images", cases())
    annotation(src / "mimic_annotation.json", cases(), **changes)
    metadata(src, cases())
    return src
