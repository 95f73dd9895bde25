"""Mode `chexpert` beside the CheXpert labeler's own output, and docs/labeler.md, which tells how far they agree."""

import csv
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rrg.observations import OBSERVATIONS

DOCS = Path(__file__).parent.parent / "docs"
IU_XRAY = Path(os.environ.get("RRG_IU_XRAY", Path(__file__).parents[2] / "shared/data/iu_xray"))
AT_LEAST = {
    **dict.fromkeys(["Lung Opacity", "Lung Lesion", "Atelectasis", "Pleural Effusion"], 0.95),
    **dict.fromkeys(["Support Devices", "No Finding"], 0.95),
    **dict.fromkeys(["Cardiomegaly", "Fracture", "Pneumothorax", "Consolidation"], 0.85),
}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate_labeler.py"""
    spec = importlib.util.spec_from_file_location("generate_labeler", DOCS / "generate_labeler.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def labels(generate: ModuleType) -> Any:
    path = IU_XRAY / "chexpert_labels_dev.csv"
    if not path.is_file():
        pytest.skip("no IU X-Ray labels: set RRG_IU_XRAY")
    return generate.read(path)


def test_all_four_classes_agree_with_the_original(generate: ModuleType, labels: Any) -> None:
    agrees = generate.agrees(labels)
    assert agrees.shape == (1611, 14)
    assert agrees.mean() >= 0.9955
    assert agrees.all(1).mean() >= 0.953


def test_they_agree_on_the_studies_that_the_rules_were_not_written_on(generate: ModuleType, labels: Any) -> None:
    assert generate.agrees(labels)[labels.numbers % 4 == 3].mean() >= 0.99


@pytest.mark.parametrize("name", AT_LEAST)
def test_positives_agree_with_the_original(generate: ModuleType, labels: Any, name: str) -> None:
    assert generate.f1(labels, 1)[OBSERVATIONS.index(name)] >= AT_LEAST[name]


def test_the_page_is_current(generate: ModuleType, labels: Any) -> None:
    current = generate.PAGE.read_text(encoding="utf-8") == generate.page(labels)
    assert current, "docs/labeler.md is older than the rules; renew it with docs/generate_labeler.py"


ROWS = [
    {"uid": "CXR1", "report": "No edema. Mild cardiomegaly.", "Edema": "0", "Cardiomegaly": "1"},
    {"uid": "CXR3", "report": "The lungs are clear.", "No Finding": "1", "Fracture": "-1"},
]


def written(path: Path, names: tuple[str, ...]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["uid", "report", *names], restval="")
        writer.writeheader()
        writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("names", [OBSERVATIONS, OBSERVATIONS[-1:] + OBSERVATIONS[:-1], tuple(sorted(OBSERVATIONS))])
def test_labels_are_matched_by_name_in_any_order(generate: ModuleType, tmp_path: Path, names: tuple[str, ...]) -> None:
    labels = generate.read(written(tmp_path / "labels.csv", names))
    expected = np.full((2, 14), np.nan)
    expected[0, [OBSERVATIONS.index("Edema"), OBSERVATIONS.index("Cardiomegaly")]] = 0, 1
    expected[1, [OBSERVATIONS.index("No Finding"), OBSERVATIONS.index("Fracture")]] = 1, -1
    np.testing.assert_array_equal(labels.wanted, expected)
    wrong = np.argwhere(~generate.agrees(labels))
    assert wrong.tolist() == [[1, OBSERVATIONS.index("Fracture")]]


def test_f1_is_blank_where_a_class_does_not_occur(generate: ModuleType, tmp_path: Path) -> None:
    labels = generate.read(written(tmp_path / "labels.csv", OBSERVATIONS))
    scores = dict(zip(OBSERVATIONS, generate.f1(labels, 1), strict=True))
    assert scores["Cardiomegaly"] == scores["No Finding"] == 1
    assert np.isnan(scores["Edema"])
    assert "| Edema | 0 |  | 1 | 1.000 | 0 |  | 1.0000 |" in generate.table(labels)
