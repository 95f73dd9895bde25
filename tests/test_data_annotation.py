"""Importing IU X-Ray from annotation.json: both layouts, every kind of bad entry or film, and nothing half-written."""

import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_sources import film, item, r2gen, refused, run_import
from rrg.data.importing import Import
from rrg.data.iu_xray import FORMS, detect
from rrg.data.study import SPLITS, StudyFolder
from rrg.errors import DataError, UsageError

IU_XRAY = Path(os.environ.get("RRG_IU_XRAY", Path(__file__).parents[2] / "shared/data/iu_xray"))


def test_r2gen_form(tmp_path: Path) -> None:
    done = run_import(r2gen(tmp_path / "src", [item(1), item(2, "val"), item(3, "test")]), tmp_path / "d")
    assert done.form == FORMS["r2gen"]
    first = StudyFolder.open(tmp_path / "d").split("train")[0]
    assert (first.id, first.patient, first.findings) == ("CXR1_IM-0001", "CXR1", "Clear lungs 1.")
    assert first.file_names == ["images/CXR1_IM-0001/0.png", "images/CXR1_IM-0001/1.png"]
    assert done.folder.card["counts"] == {"train": 1, "val": 1, "test": 1, "films": 6, "patients": 3}


def test_annotated_form_keeps_its_sections(tmp_path: Path) -> None:
    extra = {"uid": "CXR1", "impression": "Normal.", "indication": "Cough", "views": ["Frontal", "Lateral"]}
    done = run_import(r2gen(tmp_path / "src", [item(1, **extra)]), tmp_path / "d")
    study = done.folder.studies[0]
    assert done.form == FORMS["annotated"]
    assert (study.impression, study.indication, study.views) == ("Normal.", "Cough", ["frontal", "lateral"])


def test_labels_are_the_labelers(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1, report="Mild edema."), item(2)])
    folder = run_import(src, tmp_path / "d").folder
    assert [study.labels["Edema"] for study in folder.studies] == [1, 0]
    assert {study.labels["Fracture"] for study in folder.studies} == {None}
    assert folder.card["labels"] == "edema"


def test_films_are_copied_byte_for_byte(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1)])
    folder = run_import(src, tmp_path / "d").folder
    copied = folder.film_path(folder.studies[0], 1).read_bytes()
    assert copied == (src / "images/CXR1_IM-0001/1.png").read_bytes()


@pytest.mark.parametrize("kind", ["16-bit", "rgba"])
def test_unusual_pngs_are_sound(tmp_path: Path, kind: str) -> None:
    src = r2gen(tmp_path / "src", [item(1)])
    film(src / "images/CXR1_IM-0001/0.png", kind)
    assert run_import(src, tmp_path / "d").problems == []


def cut_film(src: Path) -> None:
    path = src / "images/CXR2_IM-0002/1.png"
    path.write_bytes(path.read_bytes()[:60])


def cut_jpeg(src: Path) -> None:
    path = src / "images/CXR2_IM-0002/1.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8)).save(path, "jpeg")
    path.write_bytes(path.read_bytes()[:-400])


def text_film(src: Path) -> None:
    (src / "images/CXR2_IM-0002/1.png").write_text("not a film")


def remove_film(src: Path) -> None:
    (src / "images/CXR2_IM-0002/1.png").unlink()


def link_film_outside(src: Path) -> None:
    remove_film(src)
    film(src.parent / "outside.png")
    (src / "images/CXR2_IM-0002/1.png").symlink_to(src.parent / "outside.png")


def bomb_film(src: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**5))) + chunk(b"IEND", b"")
    (src / "images/CXR2_IM-0002/1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)


BAD_FILMS = {
    "missing": (remove_film, "is missing"),
    "cut png": (cut_film, "cannot be decoded"),
    "cut jpeg": (cut_jpeg, "cannot be decoded"),
    "text": (text_film, "none of JPEG, PNG and DICOM"),
    "link outside": (link_film_outside, "leads out of"),
    "bomb": (bomb_film, "above the limit"),
}


@pytest.mark.parametrize("name", BAD_FILMS)
def test_bad_film_is_listed_with_its_entry(tmp_path: Path, name: str) -> None:
    spoil, message = BAD_FILMS[name]
    src = r2gen(tmp_path / "src", [item(1), item(2)])
    spoil(src)
    (problem,) = refused(src, tmp_path / "d")
    assert problem.startswith("annotation.json train[1]: ")
    assert message in problem


BAD_ITEMS: dict[str, tuple[dict[str, Any], str]] = {
    "empty report": (item(2, report=" \n"), "empty report"),
    "no report": ({k: v for k, v in item(2).items() if k != "report"}, "report: Field required"),
    "report is a number": (item(2, report=3), "report: Input should be a valid string"),
    "duplicate id": (item(1, image_path=["b/0.png"]), "already at annotation.json train[0]"),
    "film of another study": (item(2, image_path=item(1)["image_path"]), "already used at annotation.json train[0]"),
    "film given twice": (item(2, image_path=["b.png", "b.png"]), "already used at annotation.json train[1]"),
    "no films": (item(2, image_path=[]), "at least 1 item"),
    "traversal": (item(2, image_path=["../../../etc/passwd"]), "not a plain path"),
    "absolute path": (item(2, image_path=["/etc/passwd"]), "not a plain path"),
    "null byte": (item(2, image_path=["a\0.png"]), "not a plain path"),
    "endless name": (item(2, image_path=["../" + "a" * 5000]), "not a plain path"),
    "views that do not fit": (item(2, uid="CXR2", views=["Frontal"]), "1 views for 2 films"),
    "foreign id": (item(2, id="s50414267"), "is not IU X-Ray's"),
}


@pytest.mark.parametrize("name", BAD_ITEMS)
def test_bad_item_is_listed_with_its_entry(tmp_path: Path, name: str) -> None:
    entry, message = BAD_ITEMS[name]
    (problem,) = refused(r2gen(tmp_path / "src", [item(1), entry]), tmp_path / "d")
    assert problem.startswith("annotation.json train[1]: ")
    assert message in problem


def test_overlong_film_name_is_a_problem(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1), item(2)])
    lists = json.loads((src / "annotation.json").read_text())
    lists["train"][1]["image_path"] = ["a" * 5000]
    (src / "annotation.json").write_text(json.dumps(lists))
    (problem,) = refused(src, tmp_path / "d")
    assert problem.startswith("annotation.json train[1]: ")


def test_study_in_two_splits_is_listed(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1), item(1, "test", image_path=["b/0.png"])])
    (problem,) = refused(src, tmp_path / "d")
    assert problem.startswith("annotation.json test[0]: study CXR1_IM-0001 is already at annotation.json train[0]")
    assert problem.endswith("in train there and test here")


def test_split_that_contradicts_its_list_is_listed(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1), item(2)])
    text = (src / "annotation.json").read_text()
    (src / "annotation.json").write_text(text.replace('"split": "train"', '"split": "val"', 1))
    assert refused(src, tmp_path / "d") == [
        "annotation.json train[0]: study CXR1_IM-0001 stands in train but says 'val'"
    ]


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1), item(2), item(3, report=""), item(4, "test", image_path=["/etc/passwd"])])
    remove_film(src)
    with pytest.raises(DataError) as caught:
        run_import(src, tmp_path / "d")
    assert len(caught.value.problems) == 3
    assert "3 problems (1 missing film, 1 no findings, 1 unsafe path)" in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": [', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected an object with the lists train, val, test"),
        ('{"info": "x", "licences": []}', "expected an object with the lists train, val, test"),
        ('{"val": [], "valid": []}', "'valid' is a second list of val; give one for each split"),
        ('{"test": [], "holdout": [{"id": "CXR1_IM-0001"}]}', "the list 'holdout' is of no split; expected"),
        ('[{"id": "CXR1_IM-0001", "split": "fold 1"}]', "item 0 of the list says no split; expected"),
        ('{"train": [{"id": "s1"}], "val": [], "test": []}', "none of its 1 ids begins with CXR"),
    ],
)
def test_annotation_that_is_not_r2gens_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "annotation.json").write_text(text)
    with pytest.raises(DataError, match=message):
        run_import(tmp_path, tmp_path / "d", skip_bad=True)


def respell(src: Path, change: Callable[[dict[str, Any]], Any], name: str = "annotation.json") -> Path:
    lists = json.loads((src / "annotation.json").read_text())
    (src / "annotation.json").unlink()
    (src / name).write_text(json.dumps(change(lists)))
    return src


def splits_of(done: Import) -> dict[str, list[str]]:
    return {split: [study.id for study in done.folder.split(split)] for split in SPLITS if done.folder.split(split)}


@pytest.mark.parametrize("val", ["validate", "valid", "validation", "dev", "Val"])
def test_other_names_of_the_validation_split(tmp_path: Path, val: str) -> None:
    src = r2gen(tmp_path / "src", [item(1), item(2, "val"), item(3, "test")])
    lists = json.loads((src / "annotation.json").read_text())
    lists["val"][0]["split"] = val
    done = run_import(
        respell(src, lambda _: {val: lists["val"], "test": lists["test"], "info": "mine"}), tmp_path / "d"
    )
    assert splits_of(done) == {"val": ["CXR2_IM-0002"], "test": ["CXR3_IM-0003"]}
    assert done.notes == [f"in annotation.json, {val!r} = val, no list of train"]


def test_a_test_list_alone(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1, "test"), item(2, "test")])
    done = run_import(respell(src, lambda lists: {"test": lists["test"]}), tmp_path / "d")
    assert splits_of(done) == {"test": ["CXR1_IM-0001", "CXR2_IM-0002"]}
    assert done.notes == ["in annotation.json, no list of train and val"]


def test_one_list_of_items_that_say_their_split(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1), item(2, "test"), item(3, "val")])
    flat = respell(src, lambda lists: [*lists["train"], *lists["test"], *lists["val"]], "iu_annotation.json")
    done = run_import(flat, tmp_path / "d")
    assert splits_of(done) == {"train": ["CXR1_IM-0001"], "val": ["CXR3_IM-0003"], "test": ["CXR2_IM-0002"]}
    assert done.split == "as given in iu_annotation.json"
    assert done.notes == ["in iu_annotation.json, the split = what each item says"]


def test_other_names_of_an_items_fields(tmp_path: Path) -> None:
    entry = item(1)
    renamed = {"id": entry["id"], "findings": entry["report"], "images": entry["image_path"][0]}
    done = run_import(respell(r2gen(tmp_path / "src", [entry]), lambda _: {"train": [renamed]}), tmp_path / "d")
    study = done.folder.studies[0]
    assert (study.findings, study.file_names) == ("Clear lungs 1.", ["images/CXR1_IM-0001/0.png"])
    assert done.notes == ["in annotation.json, no list of val and test, 'findings' = report, 'images' = image_path"]


def test_two_annotation_files_are_refused(tmp_path: Path) -> None:
    src = respell(r2gen(tmp_path / "src", [item(1)]), lambda lists: lists, "iu_annotation.json")
    (src / "my_Annotations.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"several annotation files \(iu_annotation.json, my_Annotations.json\); name the"
    ):
        run_import(src, tmp_path / "d")


@pytest.mark.parametrize(
    "root",
    [
        "./",
        "images/",
        "./images/",
        "iu_xray/images/",
        "/home/someone/data/iu_xray/images/",
        "/mnt/films/",
        "C:\\data\\images\\",
        "D:\\films\\",
    ],
)  # fmt: skip
@pytest.mark.parametrize("one", [True, False])
def test_paths_as_others_write_them(tmp_path: Path, root: str, one: bool) -> None:
    src = r2gen(tmp_path / "src", [item(1)])
    study = item(1)["id"]
    paths = [f"{root}{study}{'/' if chr(92) not in root else chr(92)}{n}.png" for n in range(2 - one)]
    entry = item(1, image_path=paths[0] if one else paths)
    done = run_import(respell(src, lambda _: {"train": [entry], "val": [], "test": []}), tmp_path / "d")
    assert done.folder.studies[0].file_names == [f"images/{study}/{n}.png" for n in range(2 - one)]
    moved = (
        "" if root == "./" else f"{2 - one} film paths of annotation.json are taken from where they lie below images/"
    )
    assert done.notes == [moved] * bool(moved)


def test_a_folder_named_images_below_images_is_taken_as_it_is_written(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1, image_path=["images/0.png"])])
    film(src / "images/0.png")
    done = run_import(src, tmp_path / "d")
    assert done.folder.studies[0].file_names == ["images/images/0.png"]


@pytest.mark.parametrize("path", ["/etc/passwd", "/srv/images/../../secret.png", "/srv/films/0.png", "images/../0.png"])
def test_a_path_of_another_machine_is_never_followed(tmp_path: Path, path: str) -> None:
    """Nor is a film taken for it by a name that others have too."""
    src = r2gen(tmp_path / "src", [item(1)])
    film(src / "images/0.png")
    film(src / "0.png")
    respell(src, lambda _: {"train": [item(1, image_path=path)]})
    (problem,) = refused(src, tmp_path / "d")
    assert "is not a plain path" in problem


def test_skip_bad_takes_what_is_sound_and_counts_the_rest(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1), item(2), item(3, report="")])
    cut_film(src)
    done = run_import(src, tmp_path / "d", skip_bad=True)
    assert [study.id for study in done.folder.studies] == ["CXR1_IM-0001"]
    assert len(done.problems) == 2
    assert StudyFolder.open(tmp_path / "d").card["skipped"] == {"no findings": 1, "broken film": 1}


def test_skipped_studies_leave_no_film(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1), item(2)])
    cut_film(src)
    run_import(src, tmp_path / "d", skip_bad=True)
    assert {path.parent.name for path in (tmp_path / "d").rglob("*.png")} == {"CXR1_IM-0001"}


def test_nothing_sound_is_an_error(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1, report="")])
    with pytest.raises(DataError, match="no sound study"):
        run_import(src, tmp_path / "d", skip_bad=True)
    assert not (tmp_path / "d").exists()


def test_destination_that_holds_something_is_kept(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/mine").write_text("kept")
    with pytest.raises(UsageError, match="no empty folder"):
        run_import(r2gen(tmp_path / "src", [item(1)]), tmp_path / "d")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["mine"]


def test_unknown_form_says_what_was_looked_for(tmp_path: Path) -> None:
    film(tmp_path / "images/a.png")
    with pytest.raises(DataError, match=r"(?s)not a known form.*annotation\.json.*ecgen-radiology"):
        detect(tmp_path)


def test_source_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        detect(tmp_path / "gone")


def test_source_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = r2gen(tmp_path / "src", [item(1)])

    def deny(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(DataError, match=r"src: cannot be read: .*annotation\.json"):
        run_import(src, tmp_path / "d")


INTERRUPTED = """
    import signal, sys, time
    from pathlib import Path
    from rrg.data.importing import import_collection

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts without it

    class Waiting:
        name = "waiting"

        def __call__(self, reports):
            print("films are stored", flush=True)
            time.sleep(60)

    import_collection("iu-xray", Path(sys.argv[1]), Path(sys.argv[2]), labeler=Waiting(), progress=False)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_import_stopped_in_the_middle_leaves_no_destination(tmp_path: Path, number: int) -> None:
    src = r2gen(tmp_path / "src", [item(1)])
    code = textwrap.dedent(INTERRUPTED)
    arguments = [sys.executable, "-c", code, str(src), str(tmp_path / "d")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"films are stored\n"
        process.send_signal(number)
    assert process.returncode != 0
    assert not (tmp_path / "d").exists()
    done = run_import(src, tmp_path / "d")
    assert done.notes == ["2 of 2 films were stored by an earlier run"]


@pytest.mark.skipif(not IU_XRAY.is_dir(), reason="no IU X-Ray folder: set RRG_IU_XRAY")
def test_iu_xray_has_its_published_counts(tmp_path: Path) -> None:
    done = run_import(IU_XRAY, tmp_path / "d")
    assert done.form == FORMS["annotated"]
    assert done.problems == []
    assert done.folder.warnings == []
    counts = {"train": 2069, "val": 296, "test": 590, "films": 5910, "patients": 2955}
    assert done.folder.card["counts"] == counts
