"""Films imported out of archives, and films there that are hostile."""

import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from chexpert_source import chexpert, packed, row
from data_sources import EdemaLabeler, kaggle, nlm, report, run_import
from rrg.data.importing import import_collection
from rrg.errors import DataError


def png(width: int, height: int, content: bytes) -> bytes:
    """A gray PNG that declares this size, whatever it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_films_of_nlms_archive_are_imported(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for number in (1, 2):
        report(src, number)
    contents = {path.name: path.read_bytes() for path in src.glob("*.png")}
    nlm(src)
    folder = run_import(src, tmp_path / "d").folder
    assert {path.name: path.read_bytes() for path in (folder.path / "images").iterdir()} == contents


def test_films_of_zip_chunks_are_imported(tmp_path: Path) -> None:
    src = chexpert(tmp_path / "src", [row(1, 1), row(1, 1, "view2_lateral"), row(2, 1)])
    packed(src, "png_chexpert_plus_chunk_0.zip", "png_chexpert_plus_chunk_1.zip")
    done = import_collection("chexpert-plus", src, tmp_path / "d", labeler=EdemaLabeler(), progress=False)
    assert done.folder.card["counts"]["films"] == 3
    assert [len(study.file_names) for study in done.folder.studies] == [2, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(100_000, 100_000, b""), "above the limit"),
        (b"not a film", "none of JPEG, PNG and DICOM"),
        (png(9, 11, bytes(110))[:-24], "cannot be decoded"),
    ],
    ids=["bomb", "text", "cut"],
)
def test_hostile_film_in_an_archive_is_listed(tmp_path: Path, content: bytes, message: str) -> None:
    src = kaggle(tmp_path / "src", [1, 2])
    with zipfile.ZipFile(src / "images.zip", "w") as archive:
        for path in sorted((src / "images").rglob("*.png")):
            archive.writestr(path.name, content if path.name == "2_IM-0002-1001.dcm.png" else path.read_bytes())
            path.unlink()
    with pytest.raises(DataError) as caught:
        run_import(src, tmp_path / "d")
    (problem,) = caught.value.problems
    assert "2_IM-0002-1001.dcm.png" in problem
    assert message in problem
    assert not (tmp_path / "d").exists()
