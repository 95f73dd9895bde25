"""Tables that someone else wrote: records with their lines, and hostile ones refused within bounds."""

import gzip
import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from rrg.data.archives import Member
from rrg.data.tables import MAX_LINE_BYTES, Record, records
from rrg.errors import DataError


def rows(path: Path | Member, *columns: str) -> list[Record]:
    return list(records(path, "test tables", columns=columns))


def refused(path: Path, at_most: int = 64 << 20) -> str:
    """Why it is refused; Python held no more than that while it was read."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            rows(path)
        assert tracemalloc.get_traced_memory()[1] < at_most
    finally:
        tracemalloc.stop()
    return caught.value.message


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.json.gz"])
def test_member_of_an_archive_reads_like_a_file(tmp_path: Path, name: str) -> None:
    text = b'a,b\n1,"x\ny"\n3,\n' if ".csv" in name else b'{"a": "1", "b": "x\\ny"}\n\n{"a": "3", "b": ""}\n'
    content = gzip.compress(text) if name.endswith(".gz") else text
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(f"labels/{name}", content)
    first, second = {"a": "1", "b": "x\ny"}, {"a": "3", "b": ""}
    assert rows(tmp_path / name) == [(2 if ".csv" in name else 1, first), (4 if ".csv" in name else 3, second)]
    assert rows(Member(tmp_path / "x.zip", f"labels/{name}")) == rows(tmp_path / name)


def test_line_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n1,")
    os.truncate(path, 1 << 30)
    assert refused(path) == f"{path}: line 2: longer than 4 MiB: not test tables"


def test_line_of_a_gigabyte_in_gzip_is_refused(tmp_path: Path) -> None:
    piece = gzip.compress(b"x" * (16 << 20), 1)
    with (tmp_path / "t.csv.gz").open("wb") as file:
        file.write(gzip.compress(b"a,b\n"))
        for _ in range(64):
            file.write(piece)
    assert "line 2: longer than 4 MiB" in refused(tmp_path / "t.csv.gz")


def test_record_of_many_lines_is_refused(tmp_path: Path) -> None:
    """Each cell and each line is short; only the record never ends."""
    with (tmp_path / "t.csv").open("w") as file:
        file.write("a,b\n")
        for _ in range(100):
            file.write('"x\ny",' * 20_000)
    assert "line 2: longer than 4 MiB" in refused(tmp_path / "t.csv")


def test_records_of_any_number_may_be_longer_together(tmp_path: Path) -> None:
    cell = "x" * (MAX_LINE_BYTES // 3)
    (tmp_path / "t.csv").write_text("a\n" + f"{cell}\n" * 7)
    assert len(rows(tmp_path / "t.csv", "a")) == 7


def test_nul_byte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,2\n3,\x004\n")
    assert refused(tmp_path / "t.csv") == f"{tmp_path / 't.csv'}: line 3: a NUL byte: not test tables"


def test_gzip_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    content = gzip.compress(b"a,b\n" + os.urandom(999).hex().encode() + b",1\n")
    (tmp_path / "t.csv.gz").write_bytes(content[:-20])
    assert "cannot be read" in refused(tmp_path / "t.csv.gz")
