"""Archives as collections ship them, and hostile ones: refused with one error, before much is held in memory."""

import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrg.data import archives
from rrg.data.archives import Member, members, names, read
from rrg.errors import DataError

FILES = {"a/1.png": b"one" * 700, "a/2.png": os.urandom(1500), "b.txt": b""}


def tarred(path: Path, entries: Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, content in entries:
            info.size = len(content) or info.size
            archive.addfile(info, io.BytesIO(content) if content else None)
    return path


def plain_tar(path: Path, files: Mapping[str, bytes] = FILES, mode: str = "w:gz") -> Path:
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    return tarred(path, [(folder, b""), *((tarfile.TarInfo(name), data) for name, data in files.items())], mode)


def plain_zip(path: Path, files: Mapping[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/", b"")
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "x.tar": lambda folder: plain_tar(folder / "x.tar", mode="w"),
    "x.tgz": lambda folder: plain_tar(folder / "x.tgz"),
    "x.tar.gz": lambda folder: plain_tar(folder / "x.tar.gz"),
    "x.zip": lambda folder: plain_zip(folder / "x.zip"),
    # browsers unpack what they fetch, and leave the name
    "unpacked.tgz": lambda folder: plain_tar(folder / "unpacked.tgz", mode="w"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_members_in_their_order(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path)
    assert names(path) == list(FILES)
    assert dict(members(path)) == FILES
    assert list(members(path, {"b.txt", "a/1.png", "absent"})) == [("a/1.png", FILES["a/1.png"]), ("b.txt", b"")]
    assert read(Member(path, "a/2.png")) == FILES["a/2.png"]
    with pytest.raises(DataError, match="has no member absent"):
        read(Member(path, "absent"))


def test_names_that_begin_at_the_folder_itself(tmp_path: Path) -> None:
    assert names(plain_tar(tmp_path / "x.tgz", {"./a/1.png": b"1"})) == ["a/1.png"]


NAMES = {
    "parent": "a/../../etc/passwd",
    "absolute": "/etc/passwd",
    "backslash": "a\\..\\..\\passwd",
    "drive": "C:/windows/x.png",
    "drive without a folder": "c:x.png",
    "dot": "a/./1.png",
    "empty part": "a//1.png",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_name_that_leads_out_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    files = {"ok.png": b"1", NAMES[name]: b"2"}
    path = (plain_tar if kind == "tgz" else plain_zip)(tmp_path / f"x.{kind}", files)
    for use in (names, lambda path: list(members(path, {"ok.png"}))):
        with pytest.raises(DataError, match=r"x\.\w+: member .* would lie outside .* refused"):
            use(path)


def test_name_with_a_nul_byte_is_refused(tmp_path: Path) -> None:
    path = plain_zip(tmp_path / "x.zip", {"a.png0.exe": b"1"})
    path.write_bytes(path.read_bytes().replace(b"a.png0.exe", b"a.png\0.exe"))
    with pytest.raises(DataError, match=r"member 'a\.png\\x00\.exe'"):
        names(path)


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    packed = plain_tar(tmp_path / "x.tar", {"a\udcff.png": b"1"}, "w")
    with pytest.raises(DataError, match=r"member 'a\\udcff\.png'"):
        names(packed)
    packed = plain_zip(tmp_path / "x.zip", {"aä.png": b"1"})
    packed.write_bytes(packed.read_bytes().replace("ä".encode(), b"\xff\xfe"))
    with pytest.raises(DataError, match="cannot be read as an archive"):
        names(packed)


@pytest.mark.parametrize("other", ["a.png", "A.PNG"])
def test_name_that_stands_twice_up_to_case_is_refused(tmp_path: Path, other: str) -> None:
    path = tarred(tmp_path / "x.tgz", [(tarfile.TarInfo(name), b"1") for name in ("a.png", other)])
    with pytest.raises(DataError, match=f"member {other} stands in it twice"):
        names(path)


TYPES = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
}


@pytest.mark.parametrize("kind", TYPES)
def test_links_and_devices_are_refused(tmp_path: Path, kind: str) -> None:
    info = tarfile.TarInfo("a.png")
    info.type, info.linkname = TYPES[kind], "/etc/passwd"
    path = tarred(tmp_path / "x.tgz", [(info, b"")])
    with pytest.raises(DataError, match=r"member 'a\.png' is no plain file"):
        list(members(path))


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is no plain file"):
        names(tmp_path / "x.zip")


def bounded(path: Path, use: Callable[[Path], object], message: str, at_most: int = 16 << 20) -> None:
    """It is refused, and Python held no more than that while it was read."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            use(path)
        assert tracemalloc.get_traced_memory()[1] < at_most
    finally:
        tracemalloc.stop()


def everything(path: Path) -> list[str]:
    return [name for name, _ in members(path)]


def test_member_that_declares_too_much_is_refused(tmp_path: Path) -> None:
    path = plain_zip(tmp_path / "x.zip", {"a.png": bytes(10_000)})
    with pytest.raises(DataError, match=r"member a\.png has 10,000 bytes; more than 9,999 are refused"):
        list(members(path, limit=9_999))
    assert names(path) == ["a.png"]


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bombs of some MiB are enough."""
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)


@pytest.mark.usefixtures("little")
def test_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = plain_zip(tmp_path / "x.zip", {f"{n}.png": bytes(5 << 20) for n in range(4)})
    bounded(path, names, r"expands more than 200 times, to 20,971,520 bytes", 1 << 20)


def test_zip_bomb_that_declares_little_is_refused(tmp_path: Path) -> None:
    path = plain_zip(tmp_path / "x.zip", {"a.png": bytes(20 << 20)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 20 << 20), struct.pack("<I", 1000)))
    bounded(path, everything, "cannot be read as an archive: Bad CRC-32", 1 << 20)


def test_zip_with_overlapping_members_is_refused(tmp_path: Path) -> None:
    """Many entries of the directory that share one packed content (Fifield, WOOT 2019)."""
    path = plain_zip(tmp_path / "x.zip", {f"{n}.png": bytes(1 << 20) for n in range(9)})
    with zipfile.ZipFile(path) as archive:
        first, offsets = archive.infolist()[1], [info.header_offset for info in archive.infolist()[2:]]
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\1\2")
    for offset in offsets:
        where = content.index(struct.pack("<I", offset), start)
        content[where : where + 4] = struct.pack("<I", first.header_offset)
    path.write_bytes(content)
    bounded(path, names, "overlap")


def test_zip_that_lists_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1000)
    path = plain_zip(tmp_path / "x.zip", {f"{n}": b"" for n in range(2000)})
    bounded(path, names, "more than 1,000 members", 4 << 20)
    assert names(plain_zip(tmp_path / "y.zip", {f"{n}": b"" for n in range(999)}))


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = plain_zip(tmp_path / "x.zip", {"a.png": b"1"})
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        content[content.rindex(mark) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"member a\.png is encrypted"):
        names(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_method_that_expands_without_bound_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("a.png", b"1")
    with pytest.raises(DataError, match=r"a\.png is packed by method"):
        names(tmp_path / "x.zip")


def zeros(path: Path, head: bytes, size: int) -> Path:
    """A gzip file of `head` and `size` zero bytes, written without holding them."""
    with gzip.open(path, "wb", 9) as file:
        file.write(head)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return path


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.usefixtures("little")
def test_gzip_bomb_is_refused(tmp_path: Path) -> None:
    path = zeros(tmp_path / "x.tgz", header("a.png", 20 << 20), 20 << 20)
    bounded(path, names, "expands more than 200 times", 8 << 20)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_header_without_bound_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = zeros(tmp_path / "x.tgz", header("a", 10 << 20, kind), 10 << 20)
    bounded(path, names, "a header of more than 65,536 bytes", 4 << 20)


def test_header_within_headers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(gzip.compress((header("a", 1, tarfile.GNUTYPE_LONGNAME) + b"a".ljust(512, b"\0")) * 5000))
    bounded(path, names, "cannot be read as an archive", 16 << 20)


def test_tar_with_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1000)
    path = tarred(tmp_path / "x.tgz", [(tarfile.TarInfo(f"{n}"), b"") for n in range(5000)])
    bounded(path, names, "more than 1,000 members", 4 << 20)


def test_sparse_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(header("a.png", 0, tarfile.GNUTYPE_SPARSE) + bytes(1024))
    with pytest.raises(DataError, match="is no plain file"):
        names(path)


@pytest.mark.parametrize("size", [-512, -2, 1 << 62])
def test_size_that_cannot_be_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(header("a.png", size) + bytes(2048))
    bounded(path, everything, "a.png|cannot be read")


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive" * 100, bytes(1 << 15), b"\x1f\x8b"])
@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    if name != "x.zip" and content == bytes(1 << 15):
        assert names(tmp_path / name) == []  # an empty tar
    else:
        with pytest.raises(DataError, match="cannot be read"):
            names(tmp_path / name)


@pytest.mark.parametrize("kind", ["x.tar", "x.tgz", "x.zip"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_archive_that_is_cut_short_is_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    path = KINDS[kind](tmp_path_factory.mktemp("cut"))
    whole = path.read_bytes()
    content = gzip.decompress(whole) if kind == "x.tgz" else whole
    # a tar ends with zero blocks, of which one is enough
    end = len(content.rstrip(b"\0")) + 511 if kind == "x.tar" else len(whole) - 1
    path.write_bytes(whole[: data.draw(st.integers(0, end))])
    with pytest.raises(DataError, match=r"cannot be read|declares"):
        everything(path)


@pytest.mark.parametrize("kind", ["x.tar", "x.tgz", "x.zip"])
@settings(max_examples=100, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_archive_with_a_flipped_bit_is_refused_or_reads_on(
    tmp_path_factory: pytest.TempPathFactory, kind: str, where: float, bit: int
) -> None:
    path = KINDS[kind](tmp_path_factory.mktemp("flipped"))
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        found = dict(members(path))
    except DataError:
        return
    # a tar itself has no checksum over contents; a zip's covers no names, gzip's all but its header
    assert kind == "x.tar" or set(found.values()) <= set(FILES.values())
    assert kind != "x.tgz" or found == FILES


def test_damaged_content_is_refused(tmp_path: Path) -> None:
    path = plain_tar(tmp_path / "x.tgz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # gzip's checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        everything(path)
