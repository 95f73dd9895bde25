"""A small copy of CheXpert Plus as it is downloaded, for the tests of its importer."""

import csv
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_sources import film
from rrg.observations import OBSERVATIONS

TABLE = "df_chexpert_plus_240401.csv"
COLUMNS = (
    "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,"
    "section_narrative,section_clinical_history,section_history,section_comparison,section_technique,"
    "section_procedure_comments,section_findings,section_impression,section_end_of_impression,section_summary,"
    "section_accession_number,age,sex,race,ethnicity,interpreter_needed,insurance_type,recent_bmi,deceased,split"
)
HEADER = next(csv.reader([COLUMNS]))


def row(patient: int, study: int, view: str = "view1_frontal", **changes: Any) -> dict[str, str]:
    """A row of the table, whose report has a findings section unless `findings` says otherwise."""
    stem = f"train/patient{patient:05d}/study{study}/{view}"
    findings = changes.pop("findings", f"Clear lungs {patient}-{study}.")
    values = {
        "path_to_image": f"{stem}.jpg",
        "path_to_dcm": f"{stem}.dcm",
        "frontal_lateral": view.rpartition("_")[2].title(),
        "ap_pa": "AP" if view.endswith("frontal") else "",
        "deid_patient_id": f"patient{patient:05d}",
        "patient_report_date_order": str(study),
        "report": f'NARRATIVE:\n"RADIOGRAPHIC EXAMINATION"\n \nFINDINGS: {findings}\n',
        "section_clinical_history": "\nCough,\nfever.",
        "section_comparison": "None.",
        "section_findings": findings,
        "section_impression": " 1. Normal.\n\n2. No change.",
        "age": "71.0",
        "split": "train",
    }
    return dict.fromkeys(HEADER, "") | values | changes


def table(src: Path, rows: Iterable[dict[str, str]], name: str = TABLE) -> Path:
    src.mkdir(exist_ok=True)
    with (src / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)
    return src / name


def chexpert(src: Path, rows: Sequence[dict[str, str]], below: str = "PNG", suffix: str = ".png") -> Path:
    """The table and a film for each row."""
    table(src, rows)
    for entry in rows:
        film(src / below / entry["path_to_image"].replace(".jpg", suffix))
    return src


def packed(src: Path, *archives: str) -> None:
    """Pack the folder PNG into zips as they are downloaded, a film after the other, and remove it."""
    films = sorted((src / "PNG").rglob("*.png"))
    for number, name in enumerate(archives):
        (src / name).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(src / name, "w") as archive:
            for path in films[number :: len(archives)]:
                archive.write(path, path.relative_to(src))
    for path in films:
        path.unlink()


def labels(src: Path, name: str, given: dict[str, dict[str, float | None]], folder: str = "chexbert_labels") -> Path:
    """CheXbert's labels by path; an observation that is not given is blank."""
    path = src / folder / f"{name}_fixed.json"
    path.parent.mkdir(exist_ok=True)
    lines = [{"path_to_image": film, **dict.fromkeys(OBSERVATIONS), **values} for film, values in given.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def annotation(src: Path, **splits: Sequence[str]) -> None:
    """CXPMRG-Bench's annotation.json in R2Gen's layout, with these films."""
    lists = {
        split: [{"id": path, "report": "clear .", "image_path": [path], "split": split} for path in paths]
        for split, paths in {"train": [], "val": [], "test": [], **splits}.items()
    }
    (src / "annotation.json").write_text(json.dumps(lists))
