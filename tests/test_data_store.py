"""The store of an import's films: nothing lost and nothing twice, whatever stops it, and its films as asked for."""

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_sources import EdemaLabeler, check_whole, film, import_command, item, manifest, r2gen, run_import
from rrg.cli import main
from rrg.data import store
from rrg.data.archives import Member
from rrg.data.films import read_film
from rrg.data.importing import Entries, copy_studies
from rrg.data.parallel import parallel
from rrg.data.store import Format, open_store
from rrg.data.study import StudyFolder
from rrg.errors import DataError, RRGError, UsageError


def spoil(path: Path) -> bytes:
    """Cut a film short; its bytes as they were."""
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    return whole


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Path, Path]:
    """A source of four studies, and where its import was stopped by a film that is whole again by now."""
    src = r2gen(tmp_path / "src", [item(number) for number in range(1, 5)])
    path = src / "images/CXR3_IM-0003/0.png"
    whole = spoil(path)
    with pytest.raises(DataError) as caught:
        run_import(src, tmp_path / "d", size=8)
    assert f"7 of 8 films are kept in {tmp_path / '.d.importing'}, and the same command goes on" in str(caught.value)
    assert "leave these studies out by --skip-bad" in str(caught.value)
    path.write_bytes(whole)
    return src, tmp_path / "d"


def test_a_bad_film_keeps_the_others(stopped: tuple[Path, Path]) -> None:
    src, dest = stopped
    assert not dest.exists()
    assert len(manifest(dest.with_name(".d.importing"))) == 7
    done = run_import(src, dest, size=8)
    assert done.notes == ["7 of 8 films were stored by an earlier run"]
    check_whole(dest, 8)


def test_skip_bad_goes_on_from_there(stopped: tuple[Path, Path]) -> None:
    src, dest = stopped
    spoil(src / "images/CXR3_IM-0003/0.png")
    done = run_import(src, dest, size=8, skip_bad=True)
    assert done.notes == ["7 of 8 films were stored by an earlier run"]
    assert done.folder.card["skipped"] == {"broken film": 1}
    check_whole(dest, 6)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_a_kill_leaves_becomes_the_same_folder(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        src = r2gen(root / "src", [item(number) for number in range(1, 4)])
        run_import(src, root / "whole", size=8)
        whole = spoil(src / "images/CXR2_IM-0002/1.png")
        with pytest.raises(DataError):
            run_import(src, root / "d", size=8)
        (src / "images/CXR2_IM-0002/1.png").write_bytes(whole)
        folder = root / ".d.importing"
        size = (folder / "films.jsonl").stat().st_size
        os.truncate(folder / "films.jsonl", data.draw(st.integers(0, size), "bytes of the manifest"))
        for film_path in sorted(folder.rglob("*.jpg")):
            what = data.draw(st.sampled_from(["whole", "gone", "empty"]), film_path.name)
            if what == "gone":
                film_path.unlink()
            elif what == "empty":
                os.truncate(film_path, 0)
        (folder / ".123.part").write_bytes(b"half a film")
        run_import(src, root / "d", size=8)
        check_whole(root / "d", 6)
        made, expected = contents(root / "d"), contents(root / "whole")
        del made["films.jsonl"], expected["films.jsonl"]  # the times of change of what was spoilt
        assert made == expected


def test_a_source_that_changed_is_stored_anew(stopped: tuple[Path, Path]) -> None:
    src, dest = stopped
    path = src / "images/CXR1_IM-0001/0.png"
    Image.fromarray(np.full((20, 20), 200, np.uint8)).save(path)
    done = run_import(src, dest, size=8)
    assert done.notes == ["6 of 8 films were stored by an earlier run"]
    check_whole(dest, 8)
    assert read_film(dest / "images/CXR1_IM-0001/0.jpg").min() > 0.75


def test_a_study_that_left_the_source_leaves_no_film(stopped: tuple[Path, Path]) -> None:
    src, dest = stopped
    r2gen(src, [item(number) for number in (2, 3)])
    run_import(src, dest, size=8)
    check_whole(dest, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 9}, "size 8 there and 9 here"),
        ({}, "size 8 there and None here"),
        ({"size": 8, "fit": "pad"}, "fit squash there and pad here"),
    ],
)
def test_other_settings_are_refused(stopped: tuple[Path, Path], options: dict[str, Any], message: str) -> None:
    src, dest = stopped
    before = contents(dest.with_name(".d.importing"))
    with pytest.raises(UsageError, match=f"{message}.*Give what stands there to go on with it, or remove that folder"):
        run_import(src, dest, **options)
    assert contents(dest.with_name(".d.importing")) == before


def test_another_source_is_refused(stopped: tuple[Path, Path]) -> None:
    src, dest = stopped
    shutil.copytree(src, src.with_name("other"))
    with pytest.raises(UsageError, match=r"source .*src there and .*other here"):
        run_import(src.with_name("other"), dest, size=8)


def test_a_destination_in_its_source_is_refused(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1)])
    with pytest.raises(UsageError, match="name a folder outside"):
        run_import(src, src / "d")
    assert sorted(path.name for path in src.iterdir()) == ["annotation.json", "images"]


def test_a_kill_before_the_first_film_binds_nobody(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1)])
    folder = tmp_path / ".d.importing"
    folder.mkdir()
    (folder / "import.json").write_text('{"source": "another"}')
    run_import(src, tmp_path / "d")
    check_whole(tmp_path / "d", 2)


def test_settings_that_were_lost_begin_anew(stopped: tuple[Path, Path]) -> None:
    src, dest = stopped
    dest.with_name(".d.importing").joinpath("import.json").unlink()
    assert run_import(src, dest, size=9).notes == []
    check_whole(dest, 8)
    assert {line["width"] for line in manifest(dest)} == {9}


def test_two_imports_into_one_folder(stopped: tuple[Path, Path]) -> None:
    src, dest = stopped
    with open_store(dest, src, "IU X-Ray", Format(8), []) as held:
        with pytest.raises(UsageError, match="another process is importing into it"):
            run_import(src, dest, size=8)
        held.finish([])
    assert (dest / "films.jsonl").exists()


def test_what_the_reader_finds_is_said_before_anything_is_written(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1), item(2, report="")])
    with pytest.raises(DataError, match="nothing was written"):
        run_import(src, tmp_path / "d", size=8)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_nothing_stored_leaves_nothing(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1, image_path=["a.png"])])
    spoil(src / "images/a.png")
    for skip_bad in (False, True):
        with pytest.raises(DataError, match="nothing was written"):
            run_import(src, tmp_path / "d", size=8, skip_bad=skip_bad)
        assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_squash_and_pad(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1, image_path=["wide.png", "high.png"])])
    light = np.full((60, 120), 200, np.uint8)
    Image.fromarray(light).save(src / "images/wide.png")
    Image.fromarray(light.T).save(src / "images/high.png")
    squashed, padded = (run_import(src, tmp_path / fit, size=40, fit=fit).folder for fit in ("squash", "pad"))
    for folder, dark in ((squashed, 0), (padded, 10)):
        wide, high = (read_film(folder.film_path(folder.studies[0], i)) * 255 for i in (0, 1))
        assert wide.shape == high.shape == (40, 40)
        np.testing.assert_allclose(high, wide.T, atol=6)
        expected = np.full((40, 40), 200)
        expected[:dark] = expected[40 - dark :] = 0
        np.testing.assert_allclose(wide, expected, atol=12)  # JPEG's blocks cross the edge
    assert padded.card["films"] == {"size": 40, "fit": "pad", "format": "JPEG, quality 95"}


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), size=st.integers(1, 64))
def test_a_padded_film_is_whole_and_central(width: int, height: int, size: int) -> None:
    file = io.BytesIO()
    Image.new("L", (width, height), 255).save(file, "png")
    stored, *sides = Format(size, "pad").stored("a.png", "a.jpg", file.getvalue())
    assert sides == [size, size]
    with Image.open(io.BytesIO(stored)) as image:
        assert image.mode == "L"
        light = np.asarray(image) > 127
    rows, columns = light.any(axis=1), light.any(axis=0)
    scale = size / max(width, height)
    for seen, side in ((rows, height), (columns, width)):
        if side * scale >= 8:  # thinner ones blur into the black in JPEG's blocks
            assert abs(seen.sum() - side * scale) <= 2
            assert abs(int(seen.argmax()) - int(seen[::-1].argmax())) <= 2


@pytest.mark.parametrize(
    ("name", "copied", "decoded"),
    [
        ("images/a.png", "images/a.png", "images/a.jpg"),
        ("images/a.JPEG", "images/a.JPEG", "images/a.jpg"),
        ("images/p10/a.dcm", "images/p10/a.jpg", "images/p10/a.jpg"),
        ("images/1.2.840.55", "images/1.2.840.55.jpg", "images/1.2.840.55.jpg"),
        ("images/a.b/c", "images/a.b/c.jpg", "images/a.b/c.jpg"),
    ],
)
def test_names_of_films(name: str, copied: str, decoded: str) -> None:
    assert (Format().name(name), Format(8).name(name)) == (copied, decoded)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 8001}, {"size": 8, "fit": "crop"}, {"fit": "pad"}])
def test_formats_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Format(**options)


def test_two_films_of_one_name(tmp_path: Path) -> None:
    items = [item(1, image_path=["a.png"]), item(2, image_path=["a.jpg"]), item(3, image_path=["b.png", "b.jpg"])]
    src = r2gen(tmp_path / "src", items)
    assert run_import(src, tmp_path / "copied").problems == []
    done = run_import(src, tmp_path / "d", size=8, skip_bad=True)
    assert [(problem.where, problem.kind) for problem in done.problems] == [
        ("annotation.json train[1]", "two films of one name"),
        ("annotation.json train[2]", "two films of one name"),
    ]
    assert f"images/a.jpg, as {src / 'images/a.png'} is" in done.problems[0].text
    check_whole(tmp_path / "d", 1)


def from_archives(archives: Sequence[Path], dest: Path, gone: str = "") -> tuple[StudyFolder, Entries]:
    """A study of the films `a.png` and `sub/b.png` of each archive, the second without labels of its own."""
    entries = Entries()
    for number, archive in enumerate(archives):
        names = ["a.png", gone or "sub/b.png"]
        fields = {"id": f"s{number}", "patient": "p", "split": "train", "findings": "Clear."}
        files = [f"images/{number}/{name}" for name in names]
        entries.add(archive.name, [Member(archive, name) for name in names], file_names=files, **fields)
    card = {"name": "packed", "source": "a test", "licence": "none"}
    options: dict[str, Any] = {"given": None, "skip_bad": True, "workers": 2, "progress": False, "notes": []}
    return copy_studies(dest, archives[0].parent, entries, card, EdemaLabeler(), form=Format(), **options), entries


@pytest.fixture
def archives(tmp_path: Path) -> list[Path]:
    src = tmp_path / "packed"
    src.mkdir()
    for name in ("a.png", "sub/b.png", "unwanted.png"):
        film(tmp_path / "films" / name)
    with tarfile.open(src / "one.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "films", arcname=".")
    with zipfile.ZipFile(src / "two.zip", "w") as packed:
        for name in ("a.png", "sub/b.png", "unwanted.png"):
            packed.write(tmp_path / "films" / name, name)
    return [src / "one.tar.gz", src / "two.zip"]


def test_films_of_archives(tmp_path: Path, archives: list[Path]) -> None:
    folder, _ = from_archives(archives, tmp_path / "d")
    check_whole(tmp_path / "d", 4)
    assert folder.card["films"] == {"copied": "unchanged"}
    assert [line["source"] for line in manifest(tmp_path / "d")] == [
        "a.png in one.tar.gz", "sub/b.png in one.tar.gz", "a.png in two.zip", "sub/b.png in two.zip",
    ]  # fmt: skip
    for study in folder.studies:
        assert folder.film_path(study, 1).read_bytes() == (tmp_path / "films/sub/b.png").read_bytes()


def test_a_broken_archive_keeps_the_films_of_another(
    tmp_path: Path, archives: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile.ZipFile, "infolist", lambda _: (_ for _ in ()).throw(zipfile.BadZipFile("cut short")))
    with pytest.raises(DataError, match=r"two\.zip: cannot be read as an archive: cut short; 2 of 4 films are kept"):
        from_archives(archives, tmp_path / "d")
    monkeypatch.undo()
    from_archives(archives, tmp_path / "d")
    check_whole(tmp_path / "d", 4)


def test_a_member_that_is_gone(tmp_path: Path, archives: list[Path]) -> None:
    with pytest.raises(DataError, match="no sound study") as caught:
        from_archives(archives, tmp_path / "d", gone="c.png")
    assert len(caught.value.problems) == 2
    assert f"c.png in {archives[0]}: no such film" in caught.value.problems[0]


def test_jobs_are_taken_as_they_are_needed() -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    for number, result in enumerate(parallel(abs, jobs(), workers=2)):
        assert result == number
        assert taken <= number + 2 * 2 + 1


def die(*_: object) -> None:
    os._exit(9)


def test_a_worker_that_is_ended_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = r2gen(tmp_path / "src", [item(number) for number in range(1, 20)])
    monkeypatch.setattr(store, "_store", die)
    with pytest.raises(RRGError, match=r"a worker was ended from outside.*fewer --workers"):
        run_import(src, tmp_path / "d", workers=2)
    monkeypatch.undo()
    run_import(src, tmp_path / "d", workers=2)
    check_whole(tmp_path / "d", 38)


# Nothing is compiled: Python would keep the first 5,000 bytes of a module's code, and fail on them ever after.
LIMITED = (
    "import resource, sys; sys.dont_write_bytecode = True; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); "
)


def test_a_full_disk(tmp_path: Path) -> None:
    """The manifest may grow to 5,000 bytes: the system cuts a line of it short, as a full disk does."""
    src = r2gen(tmp_path / "src", [item(number) for number in range(1, 20)])
    words = import_command(src, tmp_path / "d", "--size", "8", before=LIMITED)
    for _ in range(2):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "could not be made: [Errno 27] File too large" in done.stderr
        assert "of 38 films are kept in" in done.stderr
        assert 4500 < (tmp_path / ".d.importing/films.jsonl").stat().st_size <= 5000
    assert main(words[3:]) == 0
    check_whole(tmp_path / "d", 38)
