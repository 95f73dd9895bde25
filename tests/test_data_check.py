"""`rrg data check`: each fault is found where it is, and nothing is found in a clean folder."""

import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_folders import clean, noise, save, study, write_folder
from rrg.check import Check, Finding, check_folder
from rrg.check import folder as on_folder
from rrg.check.films import symmetry
from rrg.check.findings import repeats
from rrg.data.films import read_film
from rrg.data.study import SPLITS, Study
from rrg.errors import DataError
from rrg.observations import OBSERVATIONS

IU_XRAY = Path(os.environ.get("RRG_IU_XRAY", Path(__file__).parents[2] / "shared/data/iu_xray"))


def check(path: Path, **options: Any) -> Check:
    return check_folder(path, progress=False, **options)


def found(path: Path, **options: Any) -> dict[str, Finding]:
    """What is not as it should be."""
    return {finding.key: finding for finding in check(path, **options).findings if finding.level != "ok"}


def only(path: Path, key: str, **options: Any) -> Finding:
    """The one finding on a folder."""
    every = found(path, **options)
    assert list(every) == [key], {key: finding.text for key, finding in every.items()}
    assert every[key].advice
    return every[key]


@pytest.fixture
def spoiled(tmp_path: Path) -> Callable[..., Path]:
    """A clean folder whose studies have `changes` by id, with `more` studies and card fields."""

    def make(changes: dict[str, dict[str, Any]] | None = None, more: Any = (), **card: Any) -> Path:
        studies = [{**each, **(changes or {}).get(each["id"], {})} for each in clean()]
        return write_folder(tmp_path / "data", [*studies, *more], **card)

    return make


@pytest.mark.parametrize("quick", [False, True])
def test_nothing_is_found_in_a_clean_folder(spoiled: Callable[..., Path], quick: bool) -> None:
    result = check(spoiled(), quick=quick)
    assert result.levels == {"ok": len(result.findings), "note": 0, "warning": 0, "error": 0}
    assert len(result.findings) == (12 if quick else 18)
    assert result.numbers["test"] == {
        "studies": 4, "films": 6, "patients": 4, "films_a_study": {"1": 2, "2": 2}, "distinct_reports": 4,
        "in_train": {"as_is": 0, "cleaned": 0, "with_impression": 0},
        "words": {"min": 2, "q1": 2, "median": 2, "q3": 2, "max": 2}, "prevalence": dict.fromkeys(OBSERVATIONS, 0.0),
    }  # fmt: skip


def test_a_patient_in_two_splits(spoiled: Callable[..., Path]) -> None:
    finding = only(spoiled({"train1": {"patient": "p"}, "test2": {"patient": "p"}}), "patients")
    assert finding.level == "error"
    assert finding.examples == ["patient p: train1 (train), test2 (test)"]
    assert finding.numbers == {"train and test": 1}


def test_studies_of_one_patient_at_one_date(spoiled: Callable[..., Path]) -> None:
    same = {"patient": "p", "date": "2180-05-06"}
    finding = only(spoiled({"train1": same, "train2": same}), "same_time")
    assert finding.level == "note"
    across = found(spoiled({"train1": same, "val2": same}))
    assert {key: finding.level for key, finding in across.items()} == {"patients": "error", "same_time": "error"}
    assert across["same_time"].examples == ["patient p, 2180-05-06: train1 (train), val2 (val)"]


def test_studies_at_other_dates_are_others(spoiled: Callable[..., Path]) -> None:
    dates = {f"train{i}": {"patient": "p", "date": f"2180-05-0{i + 1}"} for i in range(4)}
    assert not found(spoiled(dates))


def test_identical_bytes_between_splits(spoiled: Callable[..., Path]) -> None:
    path = spoiled()
    shutil.copy(path / "images/train1-0.png", path / "images/test3-1.png")
    finding = only(path, "bytes_between")
    assert finding.level == "error"
    assert finding.numbers == {"groups": 1, "films": 2, "splits": {"train and test": 1}}
    assert [film.name for film in finding.films[0]] == ["images/train1-0.png", "images/test3-1.png"]


@pytest.mark.parametrize(("other", "within"), [("train1-1", 1), ("train2-0", 0)])
def test_identical_bytes_within_a_split(spoiled: Callable[..., Path], other: str, within: int) -> None:
    path = spoiled()
    shutil.copy(path / "images/train1-0.png", path / f"images/{other}.png")
    finding = only(path, "bytes_within")
    assert finding.level == "warning"
    assert finding.numbers == {"groups": 1, "films": 2, "splits": {"train": 1}, "within_a_study": within}


@pytest.mark.parametrize(("other", "key"), [("test0-0", "pixels_between"), ("train3-1", "pixels_within")])
def test_identical_pixels_in_other_bytes(spoiled: Callable[..., Path], other: str, key: str) -> None:
    path = spoiled()
    save(path / f"images/{other}.png", noise("images/train0-0.png"), compress_level=0)
    assert [film.name for film in only(path, key).films[0]] == ["images/train0-0.png", f"images/{other}.png"]
    assert not found(path, quick=True)


def test_equal_pixels_in_another_shape_are_another_film(spoiled: Callable[..., Path]) -> None:
    path = spoiled()
    save(path / "images/test0-0.png", noise("images/train0-0.png").reshape(70, 80))
    assert not found(path)


def write_manifest(path: Path, *lines: Any) -> None:
    text = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    (path / "films.jsonl").write_text("".join(f"{line}\n" for line in text))


@pytest.mark.parametrize("keys", [("sha256", "stored_sha256"), ("source_sha256", "sha256")])
def test_the_manifest_tells_what_films_came_from_without_opening_them(
    spoiled: Callable[..., Path], keys: tuple[str, str]
) -> None:
    path, source = spoiled(), hashlib.sha256(b"source").hexdigest()
    stored = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("train0", "test0")}
    write_manifest(path, *({"name": f"images/{n}-0.png", keys[0]: source, keys[1]: h} for n, h in stored.items()))
    assert only(path, "bytes_between", quick=True).numbers["groups"] == 1
    assert "pixels_between" not in {finding.key for finding in check(path, quick=True).findings}
    assert next(f for f in check(path).findings if f.key == "manifest").numbers["listed"] == 2


def test_a_torn_manifest_is_said_and_films_are_hashed_instead(spoiled: Callable[..., Path]) -> None:
    path = spoiled()
    shutil.copy(path / "images/train1-0.png", path / "images/test3-1.png")
    write_manifest(
        path, {"name": "images/train1-0.png"}, {"name": "a", "sha256": 3}, {"name": "a", "sha256": "00"}, "{"
    )
    every = found(path)
    assert list(every) == ["manifest", "bytes_between"]
    assert len(every["manifest"].examples) == 4
    assert every["manifest"].examples[0] == "films.jsonl line 1: lacks 'sha256'"


def test_constant_films_are_found_and_are_no_copies(spoiled: Callable[..., Path]) -> None:
    path = spoiled()
    for name in ("train0", "test0"):
        save(path / f"images/{name}-0.png", np.full((80, 70), 7, np.uint8))
    nearly = np.full((80, 70), 100, np.uint8)
    nearly[::2] = 101
    save(path / "images/val0-0.png", nearly)
    finding = only(path, "constant")
    assert finding.level == "warning"
    assert finding.examples[1] == "images/val0-0.png (study val0, val): 0.50"
    assert len(finding.films) == 3


@pytest.mark.parametrize(("height", "width", "odd"), [(63, 80, True), (64, 192, False), (64, 193, True)])
def test_films_of_odd_sizes(spoiled: Callable[..., Path], height: int, width: int, odd: bool) -> None:
    path = spoiled()
    save(path / "images/val0-0.png", noise("odd", height, width))
    if odd:
        assert only(path, "shapes").examples == [f"images/val0-0.png (study val0, val): {width}×{height}"]
    else:
        assert not found(path)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge(path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Path.unlink, "no such film"),
        (into_a_folder, "a folder, not a film"),
        (huge, "100000×100000 pixels, above the limit"),
        (lambda film: film.write_bytes(film.read_bytes()[:1000]), "cannot be decoded"),
        (lambda film: film.write_bytes(b"<svg/>"), "none of JPEG, PNG and DICOM"),
    ],
)
def test_unreadable_films(spoiled: Callable[..., Path], spoil: Callable[[Path], Any], said: str) -> None:
    path = spoiled()
    spoil(path / "images/val1-0.png")
    finding = only(path, "unreadable")
    assert finding.level == "error"
    assert finding.examples[0].startswith("images/val1-0.png: ")
    assert said in finding.examples[0]


def test_a_missing_film_is_found_without_opening_any(spoiled: Callable[..., Path]) -> None:
    path = spoiled()
    (path / "images/val1-0.png").unlink()
    assert only(path, "unreadable", quick=True).examples == ["images/val1-0.png: no such film"]


def test_films_are_looked_at_in_order(tmp_path: Path) -> None:
    path = write_folder(tmp_path, clean())
    (path / "images/test2-0.png").unlink()
    assert only(path, "unreadable", workers=2).films[0][0].name == "images/test2-0.png"


def test_reports_word_for_word_in_train(spoiled: Callable[..., Path]) -> None:
    changes = {
        "train0": {"findings": "Clear lungs. No effusion."},
        "test0": {"findings": "clear  lungs. No effusion.\n"},
        "test1": {"findings": "Clear, lungs. No effusion."},
        "val0": {"findings": "Clear lungs.", "impression": "No effusion."},
    }
    finding = only(spoiled(changes), "reports_in_train")
    assert finding.level == "warning"
    assert finding.numbers == {
        "test": {"reports": 4, "as_is": 1, "cleaned": 2, "with_impression": 2},
        "val": {"reports": 4, "as_is": 0, "cleaned": 0, "with_impression": 1},
    }
    assert finding.examples[0] == "test test0 = train train0: clear lungs. No effusion."
    assert "test, of 4: 1 (25.0%) as they are, 2 (50.0%) cleaned" in finding.text


def test_few_reports_in_train_are_a_note(spoiled: Callable[..., Path]) -> None:
    more = [study(f"more{i}", "test") for i in range(20)]
    path = spoiled({"test0": {"findings": "Report train0."}}, more)
    assert only(path, "reports_in_train").level == "note"


def test_reports_repeated_within_a_split(spoiled: Callable[..., Path]) -> None:
    finding = only(spoiled({f"val{i}": {"findings": "Clear."} for i in range(3)}), "reports_repeated")
    assert finding.level == "note"
    assert finding.examples == ["val, 3 times: Clear."]
    assert finding.numbers["val"] == {"reports": 4, "distinct": 2}


@pytest.mark.parametrize("text", [". - .", "\"/\\'", "\u202e"])
def test_reports_that_are_empty_after_cleaning(spoiled: Callable[..., Path], text: str) -> None:
    finding = only(spoiled({"val1": {"findings": text}}), "empty")
    assert finding.level == "error"
    assert finding.examples[0].startswith("study val1 (val)")


def test_an_empty_report_is_a_bad_line(spoiled: Callable[..., Path]) -> None:
    path = spoiled({"val1": {"findings": " "}})
    assert only(path, "lines").examples == ["line 6: findings is empty"]


def test_bad_lines_are_said_and_the_rest_is_checked(spoiled: Callable[..., Path]) -> None:
    path = spoiled({"train1": {"patient": "p"}, "test2": {"patient": "p"}})
    with (path / "metadata.jsonl").open("a") as file:
        file.write('not JSON\n{"id": 3}\n' + json.dumps(study("train0", "val")) + "\n")
    every = found(path)
    assert list(every) == ["lines", "patients"]
    assert every["lines"].numbers == {"problems": 3}
    assert "study train0 is already on line 1, in split train there and val here" in every["lines"].examples[2]


def test_counts_unlike_the_cards(spoiled: Callable[..., Path]) -> None:
    counts = {"train": 1, "val": 0, "test": 0, "films": 1, "patients": 1}
    assert "one of them was changed" in only(spoiled(counts=counts), "lines").examples[0]


def test_no_folder_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data folder"):
        check(tmp_path / "none")
    with pytest.raises(DataError, match=r"missing, so .* is no data folder"):
        check(tmp_path)


@pytest.mark.parametrize("text", ["", "\n"])
def test_a_folder_without_studies_is_said(tmp_path: Path, text: str) -> None:
    write_folder(tmp_path, [study("a")])
    (tmp_path / "metadata.jsonl").write_text(text)
    assert list(found(tmp_path)) == ["lines"]


def test_a_shift_of_prevalence(tmp_path: Path) -> None:
    sick = {**dict.fromkeys(OBSERVATIONS), "Edema": 1}
    studies = [study(f"{split}{i}", split) for split in ("train", "test") for i in range(40)]
    few = [{**each, "labels": sick} if each["id"] in ("test1", "test2", "test3") else each for each in studies]
    assert not found(write_folder(tmp_path / "few", few))
    many = [{**each, "labels": sick} if each["split"] == "test" else each for each in studies]
    finding = only(write_folder(tmp_path / "many", many), "prevalence")
    assert finding.level == "warning"
    assert finding.numbers == {"largest": "Edema", "train": 0.0, "test": 1.0, "shifted": ["Edema"]}


def test_studies_without_views(spoiled: Callable[..., Path]) -> None:
    finding = only(spoiled({"val1": {"views": []}, "val2": {"views": [""]}}), "views")
    assert finding.level == "note"
    assert finding.numbers == {"without": 2, "studies": 12}


def chest(lateral: bool, seed: int) -> np.ndarray:
    """Two dark lungs beside a bright middle, or in profile one dark lung before a bright spine; with noise."""
    rows, columns = np.mgrid[0:90, 0:84] / 90
    lungs = [(0.45, 0.4, 0.2)] if lateral else [(0.45, 0.24, 0.14), (0.45, 0.68, 0.14)]
    film = 150 - sum(110 * (((rows - y) / 0.3) ** 2 + ((columns - x) / w) ** 2 < 1) for y, x, w in lungs)
    film = film + (80 * columns**2 if lateral else 60 * (abs(columns - 0.46) < 0.08))
    return np.clip(film + np.random.default_rng(seed).normal(0, 9, film.shape), 0, 255).astype(np.uint8)


def pair(name: str, first_is_lateral: bool, path: Path) -> None:
    """Draw the films of a study of two."""
    for i, film in enumerate(study(name, films=2)["file_names"]):
        save(path / film, chest(lateral=(i == 0) == first_is_lateral, seed=zlib.crc32(film.encode())))


def test_studies_that_begin_with_a_lateral_are_counted_by_views_else_by_pixels(tmp_path: Path) -> None:
    views = {"a": ["lateral", "frontal"], "b": ["LL", "PA"], "c": ["frontal", "lateral"], "d": ["lateral", "lateral"]}
    named = [study(name, films=2, views=each) for name, each in views.items()]
    studies = [*named, study("noise", films=2, views=[]), study("one", views=["lateral"])]
    path = write_folder(tmp_path, [*studies, *(study(name, films=2, views=[]) for name in ("e", "f"))])
    pair("e", True, path)
    pair("f", False, path)
    finding = found(path)["lateral_first"]
    assert finding.level == "note"
    assert finding.numbers == {"studies": 7, "by_view": 2, "by_pixels": 1}
    assert finding.examples == ["study a (train)", "study b (train)", "study e (train)"]
    assert "image.views=1" in finding.advice
    assert found(path, quick=True)["lateral_first"].numbers == {"studies": 7, "by_view": 2, "by_pixels": 0}


@pytest.mark.skipif(not (IU_XRAY / "annotation.json").is_file(), reason="no IU X-Ray: set RRG_IU_XRAY")
def test_real_laterals_are_told_from_frontals_by_pixels() -> None:
    items = json.loads((IU_XRAY / "annotation.json").read_text())["test"][:120]
    pairs = [dict(zip(map(str.lower, item["views"]), item["image_path"], strict=True)) for item in items]
    seen = [
        [symmetry(read_film(IU_XRAY / "images" / films[view])) for view in ("frontal", "lateral")] for films in pairs
    ]
    assert sum(frontal > lateral for frontal, lateral in seen) >= 0.97 * len(pairs)


def counted(name: str, films: int = 1, **card: Any) -> Finding:
    """The counts of 3 / 2 / 1 studies."""
    made = [
        Study.model_validate(study(f"{split}{i}", split, films))
        for split, n in zip(SPLITS, (3, 2, 1), strict=True)
        for i in range(n)
    ]
    return on_folder.counts({"name": name, **card}, made)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def publish(name: str, *numbers: int) -> None:
        monkeypatch.setitem(on_folder.PUBLISHED, name, (on_folder.PUBLISHED[name][0], numbers))

    return publish


def test_the_published_counts() -> None:
    assert on_folder.PUBLISHED == {
        "iuxray": ("studies", (2069, 296, 590)),
        "mimiccxr": ("films", (270790, 2130, 3858)),
        "chexpertplus": ("films", (40463, 5780, 11562)),
    }


@pytest.mark.parametrize("name", ["IU X-Ray", "MIMIC-CXR", "MIMIC-CXR-JPG", "CheXpert Plus"])
def test_counts_as_published(name: str, published: Callable[..., None]) -> None:
    for known in on_folder.PUBLISHED:
        published(known, 3, 2, 1)
    assert counted(name).level == "ok"
    assert "3 / 2 / 1" in counted(name).text


def test_films_are_compared_where_studies_hold_several(published: Callable[..., None]) -> None:
    published("mimiccxr", 6, 4, 2)
    finding = counted("MIMIC-CXR", films=2)
    assert finding.level == "ok"
    assert "6 / 4 / 2 films" in finding.text
    published("mimiccxr", 3, 2, 1)
    assert "3 / 2 / 1 studies" in counted("MIMIC-CXR", films=2).text


def test_counts_unlike_the_published_say_where_and_why(published: Callable[..., None]) -> None:
    published("iuxray", 2, 2, 2)
    finding = counted("IU X-Ray", skipped={"missing film": 3}, split="drawn here, 7:1:2 by patient, seed 0")
    assert finding.level == "warning"
    assert "studies compared: train 3 (+1), val 2 (equal), test 1 (-1); published are 2 / 2 / 2" in finding.text
    for reason in ("3 missing film", "another split", "drawn here, 7:1:2"):
        assert reason in finding.text
    assert finding.numbers["differences"] == {"train": 1, "val": 0, "test": -1}
    published("mimiccxr", 9, 9, 9)
    assert "hold several films" in counted("MIMIC-CXR", films=2).text


def test_a_collection_without_published_counts_is_said_to_have_none() -> None:
    assert counted("phantom").text == "no published counts are known of phantom"


@given(st.lists(st.none() | st.integers(0, 9), max_size=30))
def test_repeats_are_all_positions_of_keys_that_occur_again(keys: list[int | None]) -> None:
    expected = [[i for i, key in enumerate(keys) if key == k] for k in range(10) if keys.count(k) > 1]
    assert sorted(repeats(keys)) == sorted(expected)
