"""The films of an import, decoded or copied in parallel into a folder that the next run goes on with.

`.NAME.importing/` beside DEST holds the films under their final names, the manifest `films.jsonl`, to which a film's
line is added once the film is whole, and `import.json`, which says what is being imported and how. It becomes DEST
when all is there.
"""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image
from tqdm import tqdm

from rrg.data.archives import Member, members
from rrg.data.films import film_bytes, is_dicom, read_pixels
from rrg.data.parallel import parallel
from rrg.data.write import refuse_occupied
from rrg.errors import DataError, RRGError, UsageError

if sys.platform != "win32":  # there, two imports into one folder are not noticed
    import fcntl

MANIFEST, SETTINGS = "films.jsonl", "import.json"
FORMAT, QUALITY = "JPEG, quality 95", 95  # as MIMIC-CXR-JPG's
MAX_SIZE = 8000
COPIED, MAGIC = (".jpg", ".jpeg", ".png"), (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
DECODED = (".dcm", ".dicom")
FEW = 16  # films that are stored before another process has started

Fit = Literal["squash", "pad"]
FITS: tuple[Fit, ...] = get_args(Fit)


@dataclass(frozen=True)
class Format:
    """How films are stored: without `size`, JPEG and PNG unchanged, and DICOM decoded as it is; with it, as JPEGs of
    (size size), squashed, or padded with black so that the aspect ratio stays.

    Raises UsageError for a size or fit that makes no sense.
    """

    size: int | None = None
    fit: Fit = "squash"

    def __post_init__(self) -> None:
        if self.size is not None and not 0 < self.size <= MAX_SIZE:
            raise UsageError(f"films of size {self.size}: give a number of pixels from 1 to {MAX_SIZE:,}")
        if self.fit not in FITS:
            raise UsageError(f"fit {self.fit!r} is none of {', '.join(FITS)}")
        if self.size is None and self.fit != "squash":
            raise UsageError(f"fit {self.fit} needs a size: films keep theirs without one")

    def name(self, given: str) -> str:
        """What the film that the source calls `given` is called: decoded ones end in .jpg."""
        suffix = PurePosixPath(given).suffix
        if self.size is None and suffix.lower() in COPIED:
            return given
        return (given.removesuffix(suffix) if suffix.lower() in COPIED + DECODED else given) + ".jpg"

    def card(self, films: Iterable["Wanted"]) -> dict[str, Any]:
        """What dataset.json says of the films."""
        if self.size is not None:
            return {**asdict(self), "format": FORMAT}
        decoded = any(not film.source.name.lower().endswith(COPIED) for film in films)
        return {"copied": "unchanged"} | ({"DICOM": f"decoded at full size, {FORMAT}"} if decoded else {})

    def stored(self, source: str, name: str, content: bytes) -> tuple[bytes, int, int]:
        """A film's bytes as they are stored under `name`, its width and its height. Raises DataError as `read_film`."""
        film = read_pixels(source, self.size if self.fit == "squash" else None, content)
        if self.size is None and name.lower().endswith(COPIED) and content.startswith(MAGIC):
            return content, film.shape[1], film.shape[0]
        image = Image.fromarray(film if film.dtype == np.uint8 else np.rint(film * 255).astype(np.uint8))
        if self.size is not None and self.fit == "pad":
            image = _padded(image, self.size)
        file = io.BytesIO()
        image.save(file, "jpeg", quality=QUALITY)
        return file.getvalue(), *image.size


def _padded(image: Image.Image, size: int) -> Image.Image:
    """The whole film in the middle of a black square."""
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    square = Image.new("L", (size, size))
    corner = (size - width) // 2, (size - height) // 2
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), corner)
    return square


class Wanted(NamedTuple):
    """A film to store: its name in the new folder, where it lies, and the number of the entry it belongs to."""

    name: str
    source: Path | Member
    entry: int


Job = tuple[Wanted, bytes | None]
BROKEN, BURNT_IN = "broken film", "burnt-in text"


class Unfit(NamedTuple):
    """Why a film cannot be stored: the kind of problem, and the details."""

    kind: str
    text: str


class Store:
    """The folder of an unfinished import. done: name → where its line begins in the manifest, for stored films."""

    def __init__(
        self, folder: Path, src: Path, form: Format, films: Sequence[Wanted], manifest: BinaryIO, lock: int | None
    ) -> None:
        self.folder, self.src, self.form, self.films = folder, src, form, films
        self._manifest, self._lock = manifest, lock
        self.done: dict[str, int] = {}
        self._resume()

    def _resume(self) -> None:
        """Find out which films an earlier run has stored, from sources that have not changed since."""
        wanted, end = {film.name: film for film in self.films}, 0
        self._manifest.seek(0)
        for line in self._manifest:
            if not line.endswith(b"\n"):  # cut short by a kill
                break
            entry = _parsed(line)
            if film := wanted.get(entry.get("name", "")):
                self.done.pop(film.name, None)
                if self._is_current(film, entry):
                    self.done[film.name] = end
            end += len(line)
        self._manifest.truncate(end)

    def _is_current(self, film: Wanted, entry: dict[str, Any]) -> bool:
        try:
            found = self._relative(film.source), *_stamp(film.source), (self.folder / film.name).stat().st_size
        except OSError:
            return False
        return found == tuple(entry.get(key) for key in ("source", "source_bytes", "source_mtime_ns", "bytes"))

    def _relative(self, source: Path | Member) -> str:
        """A source as the manifest names it: relative to SRC, so that nothing of this machine gets into DEST."""
        if isinstance(source, Member):
            return f"{source.name} in {self._relative(source.archive)}"
        return os.path.relpath(source, self.src) if source != self.src else source.name

    @property
    def kept(self) -> str:
        """What an import that ends early leaves."""
        if not os.fstat(self._manifest.fileno()).st_size:
            return "nothing was written"
        stored = f"{len(self.done):,} of {len(self.films):,} films"
        return f"{stored} are kept in {self.folder}, and the same command goes on from there"

    def fill(self, workers: int, progress: bool) -> list[tuple[Wanted, Unfit]]:
        """Store the films that are not stored yet. Gives those that cannot be, and why."""
        left = [film for film in self.films if film.name not in self.done]
        store = partial(_store, str(self.folder), self.form)
        results = parallel(store, _jobs(left), min(workers, len(left) // FEW + 1), self._lock)
        total, begun, hidden = len(self.films), len(self.done), None if progress else True
        bad = []
        with (
            tqdm(total=total, initial=begun, desc="films", unit="film", leave=False, disable=hidden) as bar,
            closing(results),
        ):
            for film, found in results:
                if isinstance(found, Unfit):
                    bad.append((film, found))
                else:
                    self._note(film, found)
                bar.update()
        return bad

    def _note(self, film: Wanted, found: dict[str, Any]) -> None:
        line = {"name": film.name, "source": self._relative(film.source), **found}
        begin = self._manifest.seek(0, os.SEEK_END)
        self._manifest.write(json.dumps(line).encode() + b"\n")
        self._manifest.flush()
        self.done[film.name] = begin

    def finish(self, names: Sequence[str]) -> None:
        """Leave these films alone in the folder, and the manifest in their order."""
        ordered = self.folder / f".{MANIFEST}"
        with ordered.open("wb") as file:
            for name in names:
                self._manifest.seek(self.done[name])
                file.write(self._manifest.readline())
        os.replace(ordered, self.folder / MANIFEST)
        kept = {MANIFEST, SETTINGS, *names}
        for root, folders, files in os.walk(self.folder, topdown=False):
            for path in (Path(root, name) for name in files):
                if path.relative_to(self.folder).as_posix() not in kept:
                    path.unlink()
            for path in (Path(root, name) for name in folders):
                with suppress(OSError):  # holds films
                    path.rmdir()


@contextmanager
def open_store(dest: Path, src: Path, collection: str, form: Format, films: Sequence[Wanted]) -> Iterator[Store]:
    """The folder beside `dest` in which its films are collected; it becomes `dest` when the block ends well.

    On an error it stays for the next run, unless no film was ever stored in it; the error says so.

    Raises: UsageError where `dest` holds something or lies in `src`, where another process imports into it, or where
    the folder holds another import; RRGError where the disk refuses (full, not writable).
    """
    dest = Path(dest).absolute()
    folder = dest.with_name(f".{dest.name}.importing")
    if Path(os.path.realpath(dest)).is_relative_to(os.path.realpath(src)):
        raise UsageError(f"{dest}: lies in {src}, whose films would then be those of both; name a folder outside")
    try:
        refuse_occupied(dest)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise UsageError(f"{folder}: no folder, and films are collected there; remove it, or name another DEST")
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder) as lock:
            fresh = _settle(folder, {"source": os.path.realpath(src), "collection": collection, **asdict(form)})
            with _opened(folder, fresh) as manifest:
                refuse_occupied(dest)  # another process may have finished before the lock was free
                store = Store(folder, src, form, films, manifest, lock)
                try:
                    yield store
                except RRGError as error:
                    raise type(error)(f"{error.message}; {store.kept}", error.problems) from error
                except (OSError, BrokenProcessPool) as error:
                    raise RRGError(f"{dest}: could not be made: {_reason(error)}; {store.kept}") from error
            os.replace(folder, dest)
            (dest / SETTINGS).unlink()
    except OSError as error:
        raise RRGError(f"{dest}: could not be made: {error}") from error


def _reason(error: OSError | BrokenProcessPool) -> str:
    if isinstance(error, OSError):
        return str(error)
    return "a worker was ended from outside, as where memory is short: give fewer --workers"


@contextmanager
def _held(folder: Path) -> Iterator[int | None]:
    """Keep other processes from importing into the folder. Gives the lock's descriptor."""
    if sys.platform == "win32":
        yield None
        return
    lock = os.open(folder / SETTINGS, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(f"{folder}: another process is importing into it; wait for it, or name another DEST") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield lock
    finally:
        os.close(lock)


@contextmanager
def _opened(folder: Path, fresh: bool) -> Iterator[BinaryIO]:
    """The manifest, to read and to add to. A folder whose manifest stays empty is removed."""
    manifest = (folder / MANIFEST).open("w+b" if fresh else "a+b")
    try:
        yield manifest
    finally:
        empty = not os.fstat(manifest.fileno()).st_size
        with suppress(OSError):  # the line that a full disk did not take
            manifest.close()
        if empty:
            shutil.rmtree(folder, ignore_errors=True)


def _settle(folder: Path, settings: dict[str, Any]) -> bool:
    """Write the settings where no film is stored yet (True), else hold them against those of the run before."""
    path, manifest = folder / SETTINGS, folder / MANIFEST
    before = _parsed(path.read_bytes()) if manifest.exists() and manifest.stat().st_size and path.exists() else {}
    if not before:
        path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        return True
    if unlike := [key for key in settings if before.get(key) != settings[key]]:
        raise UsageError(
            f"{folder}: holds the films of another import, which did not finish: "
            + ", ".join(f"{key} {before.get(key)} there and {settings[key]} here" for key in unlike)
            + ". Give what stands there to go on with it, or remove that folder to begin anew"
        )
    return False


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _stamp(source: Path | Member) -> tuple[int, int]:
    """Bytes and time of change of the file that a film lies in: where both are the same, so is the film."""
    status = os.stat(source.archive if isinstance(source, Member) else source)
    return status.st_size, status.st_mtime_ns


def _jobs(films: Sequence[Wanted]) -> Iterator[Job]:
    """The films; those in archives with their bytes, in one pass an archive."""
    packed: dict[Path, dict[str, Wanted]] = {}
    for film in films:
        if isinstance(film.source, Member):
            packed.setdefault(film.source.archive, {})[film.source.name] = film
        else:
            yield film, None
    for archive, wanted in packed.items():
        for name, content in members(archive, wanted):
            yield wanted.pop(name), content
            if not wanted:
                break
        yield from ((film, None) for film in wanted.values())


def _store(folder: str, form: Format, job: Job) -> tuple[Wanted, dict[str, Any] | Unfit]:
    """Write one film into the folder under its name. Gives what the manifest says of it, or why it cannot be stored."""
    film, content = job
    try:
        size, changed = _stamp(film.source)
        content = film_bytes(Path(str(film.source))) if content is None else content
        if _has_burnt_in_text(content, str(film.source)):
            return film, Unfit(BURNT_IN, f"{film.source}: its header says that its pixels hold text, perhaps a name")
        stored, width, height = form.stored(str(film.source), film.name, content)
    except DataError as error:
        return film, Unfit(BROKEN, error.message)
    except OSError as error:
        return film, Unfit(BROKEN, f"{film.source}: cannot be read: {error.strerror}")
    path, unfinished = Path(folder, film.name), Path(folder, f".{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_bytes(stored)
    os.replace(unfinished, path)
    return film, {
        "source_bytes": size,
        "source_mtime_ns": changed,
        "source_sha256": hashlib.sha256(content).hexdigest(),
        "width": width,
        "height": height,
        "bytes": len(stored),
        "sha256": hashlib.sha256(stored).hexdigest(),
    }


def _has_burnt_in_text(content: bytes, where: str) -> bool:
    if not is_dicom(content):
        return False
    from rrg.data.dicom import header

    return header(content, where).burned_in
