"""What lies in a source: its files, and those within its archives."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from rrg.data import archives
from rrg.data.archives import Member, is_archive
from rrg.data.importing import Film, Unsound
from rrg.errors import DataError, UsageError


def need_folder(src: Path, hint: str) -> None:
    """Raises UsageError where `src` is no folder."""
    if not src.is_dir():
        raise UsageError(f"{src}: {'a file, not a folder' if src.exists() else 'no such folder'}; {hint}")


def inside(src: Path, path: Path) -> Path:
    """`path`, which lies in `src`. Raises DataError where a link leads out of `src`."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(src)):
        raise DataError(
            f"{path}: a link that leads out of {src}, to {real}: refused; put what it points to in its place"
        )
    return path


def archives_of(src: Path) -> list[Path]:
    """`src` itself if it is an archive, else those directly in it and one folder below."""
    if src.is_file():
        if not is_archive(src):
            raise UsageError(f"{src}: no folder and no archive ({', '.join(archives.SUFFIXES)})")
        return [src]
    found = [*src.glob("*"), *src.glob("*/*")]
    return [inside(src, path) for path in sorted(found) if is_archive(path) and path.is_file()]


def listing(src: Path) -> dict[str, Film]:
    """Every file below the folder `src` and in its archives, or in the archive `src`, by where it lies.

    Such as "images/a.png", and "films.zip/a.png" for a member. Raises DataError for an archive that is refused and for
    a link to a folder out of `src`.
    """
    files: dict[str, Film] = {}
    for folder, below, names in os.walk(src):
        for name in below:
            inside(src, Path(folder, name))
        files |= {os.path.relpath(os.path.join(folder, name), src): Path(folder, name) for name in names}
    for archive in archives_of(src):
        prefix = archive.name if archive == src else os.path.relpath(archive, src)
        files |= {f"{prefix}/{name}": Member(archive, name) for name in archives.names(archive)}
    return {where.replace(os.sep, "/"): files[where] for where in sorted(files)}


def contents(src: Path, files: Mapping[str, Film], limit: int) -> Iterator[tuple[str, bytes | Unsound]]:
    """(where, content) of these files of `listing`, each archive read once; Unsound for a file that cannot be taken.

    Raises DataError for an archive that is refused, or for a member of more than `limit` bytes.
    """
    packed: dict[Path, dict[str, str]] = {}
    for where, file in files.items():
        if isinstance(file, Member):
            packed.setdefault(file.archive, {})[file.name] = where
            continue
        try:
            if file.is_file() and inside(src, file).stat().st_size <= limit:
                yield where, file.read_bytes()
            else:
                yield where, Unsound("malformed entry", f"no plain file, or larger than {limit >> 20} MiB")
        except OSError as error:
            yield where, Unsound("malformed entry", f"cannot be read: {error.strerror}")
    for archive, wanted in packed.items():
        for name, content in archives.members(archive, wanted.keys(), limit):
            yield wanted[name], content
