"""Data folders: opening validates everything and lists every problem; writing is all or nothing."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from rrg.data import study as study_module
from rrg.data.study import Study, StudyFolder
from rrg.data.write import new_folder, write_metadata
from rrg.errors import DataError, RRGError, UsageError
from rrg.observations import OBSERVATIONS
from rrg.testing.data import noise_folder

CARD = {"name": "Test", "labels": "exact", "source": "this test", "licence": "none"}


def fields(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"s{number}",
        "patient": f"p{number}",
        "split": "train",
        "file_names": [f"images/{number}.png"],
        "findings": "The lungs are clear.",
        "labels": dict.fromkeys(OBSERVATIONS),
        **changes,
    }


def write(folder: Path, lines: list[dict[str, Any] | str]) -> Path:
    """A data folder with these metadata lines, raw where a string, and a tiny film for every name that is sound."""
    (folder / "images").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(CARD))
    (folder / "metadata.jsonl").write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    )
    for line in lines:
        for name in [] if isinstance(line, str) else line.get("file_names", []):
            if name.startswith("images/") and ".." not in name:
                Image.fromarray(np.full((3, 5), 7, np.uint8)).save(folder / name)
    return folder


def problems(folder: Path) -> list[str]:
    with pytest.raises(DataError) as caught:
        StudyFolder.open(folder)
    return caught.value.problems


def test_what_is_written_opens_again(tmp_path: Path) -> None:
    studies = [
        Study(**fields(1, labels={**dict.fromkeys(OBSERVATIONS), "Edema": -1, "Fracture": 1}, views=["frontal"])),
        Study(**fields(2, split="test", impression="Normal — no change.", indication="Cough")),
    ]
    with new_folder(tmp_path / "d") as folder:
        (folder / "images").mkdir()
        for number in (1, 2):
            Image.fromarray(np.zeros((3, 5), np.uint8)).save(folder / f"images/{number}.png")
        write_metadata(folder, studies, CARD)
    opened = StudyFolder.open(tmp_path / "d")
    assert opened.studies == studies
    assert opened.card == {**CARD, "counts": {"train": 1, "val": 0, "test": 1, "films": 2, "patients": 2}}
    assert opened.film_path(studies[1], 0) == tmp_path / "d/images/2.png"


def test_split_selects_in_file_order(tmp_path: Path) -> None:
    folder = StudyFolder.open(write(tmp_path / "d", [fields(3), fields(1, split="val"), fields(2)]))
    assert [study.id for study in folder.split("train")] == ["s3", "s2"]


def test_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'dev' is none of train, val, test"):
        StudyFolder.open(write(tmp_path / "d", [fields()])).split("dev")


def test_every_problem_is_listed_with_its_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [fields(1), "not json", fields(2), "[]", fields(4, findings=" ")])
    found = problems(folder)
    assert [problem.split(":")[0] for problem in found] == ["line 2", "line 4", "line 5"]


def test_invalid_utf8_is_a_problem_of_its_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [fields(1)])
    with (folder / "metadata.jsonl").open("ab") as file:
        file.write(b'{"id": "\xff"}\n')
    assert problems(folder)[0].startswith("line 2: Invalid JSON")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"findings": " \n"}, "findings is empty"),
        ({"split": "dev"}, "split: Input should be 'train', 'val' or 'test'"),
        ({"file_names": []}, "file_names: List should have at least 1 item"),
        ({"views": ["frontal", "lateral"]}, "2 views for 1 films"),
        ({"labels": {"Edema": 1}}, "labels must hold the 14 observations: missing"),
        ({"labels": dict.fromkeys([*OBSERVATIONS, "Scoliosis"])}, r"unknown \['Scoliosis'\]"),
        ({"labels": {**dict.fromkeys(OBSERVATIONS), "Edema": 0.5}}, r"not \{'Edema': 0.5\}"),
        ({"labels": {**dict.fromkeys(OBSERVATIONS), "Edema": float("nan")}}, r"not \{'Edema': nan\}"),
        ({"findings": "x" * 70_000}, "findings: String should have at most 65536"),
        ({"age": 60}, "age: Extra inputs are not permitted"),
        ({"id": ""}, "id: String should have at least 1"),
    ],
)
def test_schema_violations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Study(**fields(**changes))
    assert re.search(message, study_module.describe(caught.value))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x.png", "images/../../x.png", "images//x.png", "./x.png", "a\\b.png", "a\0.png", ""]
)
def test_file_names_stay_below_the_folder(name: str) -> None:
    with pytest.raises(ValidationError):
        Study(**fields(file_names=[name]))


def test_longest_study_fits_in_a_line() -> None:
    text, name = "x" + "\x01" * ((1 << 16) - 1), "\x01" * 256
    texts = {"findings": text, "impression": text, "indication": text}
    longest = Study(**fields(id=name, patient=name, file_names=[name] * 64, views=[name] * 64, **texts))
    assert len(longest.model_dump_json()) < study_module.MAX_LINE_BYTES


def test_duplicate_id_names_both_lines(tmp_path: Path) -> None:
    assert problems(write(tmp_path / "d", [fields(1), fields(2), fields(1)])) == [
        "line 3: study s1 is already on line 1"
    ]


def test_study_in_two_splits_names_both(tmp_path: Path) -> None:
    assert problems(write(tmp_path / "d", [fields(1), fields(1, split="test")])) == [
        "line 2: study s1 is already on line 1, in split train there and test here"
    ]


def test_patient_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [fields(1, patient="p"), fields(2, patient="p", split="test")])
    assert StudyFolder.open(folder).warnings == ["patient p has studies in test, train"]


def test_missing_film_is_listed(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [fields(1), fields(2)])
    (folder / "images/2.png").unlink()
    assert problems(folder) == ["line 2: film images/2.png of study s2 is missing"]


def test_film_that_is_a_device_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [fields(1)])
    (folder / "images/1.png").unlink()
    (folder / "images/1.png").symlink_to("/dev/zero")
    assert problems(folder) == ["line 1: film images/1.png of study s1 is not a file"]


def test_huge_film_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [fields(1)])
    os.truncate(folder / "images/1.png", study_module.MAX_FILM_BYTES + 1)
    assert problems(folder) == ["line 1: film images/1.png is larger than 256 MiB"]


def test_endless_line_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [fields(1), "x" * (study_module.MAX_LINE_BYTES + 1)])
    with pytest.raises(DataError, match="line 2 is longer than 2 MiB"):
        StudyFolder.open(folder)


def test_huge_metadata_is_refused_unread(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [fields(1)])
    os.truncate(folder / "metadata.jsonl", study_module.MAX_METADATA_BYTES + 1)
    with pytest.raises(DataError, match="larger than 2 GiB"):
        StudyFolder.open(folder)


def test_cut_metadata_is_noticed_by_the_counts(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [fields(1), fields(2)])
    write_metadata(folder, StudyFolder.open(folder).studies, CARD)
    lines = (folder / "metadata.jsonl").read_text().splitlines(keepends=True)
    (folder / "metadata.jsonl").write_text(lines[0])
    assert "'train': 2" in problems(folder)[0]
    assert "'train': 1" in problems(folder)[0]


def test_folder_without_studies_is_refused(tmp_path: Path) -> None:
    assert problems(write(tmp_path / "d", [])) == ["metadata.jsonl holds no study"]


def test_folder_that_does_not_exist_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rrg data import"):
        StudyFolder.open(tmp_path / "gone")


@pytest.mark.parametrize("name", ["dataset.json", "metadata.jsonl"])
def test_missing_part_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "d", [fields()])
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: missing"):
        StudyFolder.open(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected a JSON object, found a list"),
        ('{"name": "x", "labels": 3}', "lacks labels, source, licence"),
        ('{"name": "\\ud800"}', "holds half a surrogate pair"),
    ],
)
def test_bad_card_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = write(tmp_path / "d", [fields()])
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=message):
        StudyFolder.open(folder)


def test_new_folder_appears_only_when_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep/d") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "deep/d").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["d"]
    assert (tmp_path / "deep/d/a").read_text() == "a"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "d") as folder:
            (folder / "a").write_text("a")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("kept")
    with pytest.raises(UsageError, match="already exists and is no empty folder"), new_folder(tmp_path):
        pytest.fail("the block must not run")
    assert (tmp_path / "a").read_text() == "kept"


def test_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with new_folder(tmp_path / "d") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "d/a").exists()


def test_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("kept")
    with pytest.raises(UsageError, match="already exists"), new_folder(tmp_path / "d"):
        pytest.fail("the block must not run")


def test_disk_that_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RRGError, match="could not be made"), new_folder(tmp_path / "file/d"):
        pytest.fail("the block must not run")


def test_permissions_are_those_of_an_ordinary_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "d"):
        pass
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "d").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_datasets_opens_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    labels = {**dict.fromkeys(OBSERVATIONS, 0.0), "Edema": None}
    lines = [
        fields(1, file_names=["images/1a.png", "images/1b.png"], views=["frontal", "lateral"], labels=labels),
        fields(2, split="test", labels={**labels, "Edema": 1.0}),
    ]
    folder = write(tmp_path / "d", lines)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    first, second = loaded[0], loaded[1]
    assert [image.size for image in first["images"]] == [(5, 3), (5, 3)]
    assert len(second["images"]) == 1
    assert (first["id"], first["views"], first["labels"]["Edema"]) == ("s1", ["frontal", "lateral"], None)
    assert (second["split"], second["labels"]["Edema"]) == ("test", 1.0)


def large(path: Path, late: bool) -> Path:
    """More than 10 MB of studies, of which the last alone has no date, or (late) a date, views, a label and phrases."""
    folder = write(path, [fields(1)])
    known: dict[str, Any] = {"date": "2180-05-06T21:30:14"}
    full = known | {
        "views": ["frontal"],
        "phrases": ["clear lungs"],
        "labels": {**dict.fromkeys(OBSERVATIONS), "Edema": 1.0},
    }
    first, last = ({}, full) if late else (known | {"phrases": ["clear lungs"]}, {"phrases": []})
    of_all = {"split": "train", "file_names": ["images/1.png"], "findings": "Clear. " * 9300}
    changes = [of_all | first] * 169 + [of_all | last]
    write_metadata(folder, (Study(**fields(i, **each)) for i, each in enumerate(changes)), CARD)
    assert (folder / "metadata.jsonl").stat().st_size > 10 << 20
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("late", "by_name"), [(False, True), (False, False), (True, False)])
def test_hugging_face_datasets_opens_more_than_it_takes_types_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool, by_name: bool
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = str(large(tmp_path / "d", late))
    given = {"path": "imagefolder", "data_dir": folder} if by_name else {"path": folder}
    loaded = datasets.load_dataset(**given, cache_dir=str(tmp_path / "cache"))["train"]
    assert len(loaded) == 170
    dated = [row is not None for row in loaded["date"]]
    assert dated == [not late] * 169 + [late]
    assert loaded[169]["labels"]["Edema"] == (1.0 if late else None)
    assert loaded[169]["images"][0].size == (5, 3)


@pytest.mark.filterwarnings("ignore")
def test_the_types_that_a_folder_ships_are_its_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = noise_folder(tmp_path / "d", {"train": 1})
    loaded = datasets.load_dataset(str(folder.path), cache_dir=str(tmp_path / "cache"))["train"]
    assert {"file_names" if name == "images" else name for name in loaded.features} == set(Study.model_fields)
    assert (loaded[0]["findings"], loaded[0]["date"]) == (folder.studies[0].findings, None)


def test_a_date_that_is_not_known_is_null_in_the_file_and_empty_in_a_study() -> None:
    study = Study(**fields(1))
    assert json.loads(study.model_dump_json())["date"] is None
    assert Study.model_validate_json(study.model_dump_json()) == study
    assert study.date == ""


@pytest.mark.parametrize("name", ["metadata.jsonl", "dataset.json"])
def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(tmp_path: Path, name: str) -> None:
    folder = noise_folder(tmp_path / "data")
    (folder.path / name).unlink()
    os.mkfifo(folder.path / name)
    with pytest.raises(DataError, match=f"{name}: no plain file"):
        StudyFolder.open(folder.path)
