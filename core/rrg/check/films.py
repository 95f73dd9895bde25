"""Findings on films: unreadable, constant, of absurd size, and the same film in several places.

Every film is decoded wholly, at full size: a truncated one shows only so, and a hash of reduced pixels would miss a
JPEG and a PNG of equal pixels. Of each only a `Look` is kept.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from rrg.check.findings import Film, Finding, by_splits, listed, repeats, some, splits_of
from rrg.data.films import film_bytes, read_film
from rrg.data.parallel import cores, parallel
from rrg.data.store import FEW, MANIFEST
from rrg.data.study import Study
from rrg.data.tables import records
from rrg.errors import DataError

SMALLEST, LONGEST_ASPECT = 64, 3.0
"""A film's shorter side in pixels, and its longer side over the shorter."""
FRONTAL, APART = 0.6, 0.05
"""Symmetry of a frontal film at least, and by how much a lateral one is below it."""
FLAT = 1.0
"""Standard deviation in grey levels of 255 below which a film shows nothing."""


class Look(NamedTuple):
    """What is kept of a film. source: SHA-256 of its bytes, or b"". spread: standard deviation in grey levels.

    symmetry: see `symmetry`.
    """

    source: bytes = b""
    pixels: bytes | None = None
    height: int = 0
    width: int = 0
    spread: float = 0.0
    error: str = ""
    symmetry: float = 0.0

    @property
    def flat(self) -> bool:
        return self.pixels is not None and self.spread < FLAT


def source_hashes(path: Path) -> tuple[dict[str, bytes], list[str]]:
    """Film name → SHA-256 of the bytes that it was imported from, by the manifest of `path`; problems of its lines."""
    hashes: dict[str, bytes] = {}
    problems: list[str] = []
    if not (path / MANIFEST).is_file():
        return hashes, problems
    try:
        for number, record in records(path / MANIFEST, "films of a data folder"):
            try:
                if isinstance(record, str):
                    raise ValueError(record)
                digest = bytes.fromhex(record["source_sha256"] if "source_sha256" in record else record["sha256"])
                if len(digest) != 32:
                    raise ValueError("its sha256 has not 64 hexadecimal digits")
                hashes[str(record["name"])] = digest
            except (KeyError, TypeError, ValueError) as error:
                problems.append(f"{MANIFEST} line {number}: {_why(error)}")
    except DataError as error:
        problems.append(error.message.removeprefix(f"{path}/"))
    return hashes, problems


def look(path: Path, source: bytes | None) -> Look:
    """Decode a film. source: the hash of its bytes, where it is known."""
    try:
        content = film_bytes(path)
        film = read_film(path, content=content)
        source = source or hashlib.sha256(content).digest()
    except DataError as error:
        return Look(source or b"", error=error.message)
    except (OSError, ValueError) as error:
        return Look(source or b"", error=f"{path}: cannot be read: {error}")
    pixels = hashlib.sha256(repr(film.shape).encode())
    pixels.update(np.ascontiguousarray(film).data)
    spread = 255 * float(film.std())
    return Look(source, pixels.digest()[:16], film.shape[0], film.shape[1], spread, symmetry=symmetry(film))


def symmetry(film: np.ndarray) -> float:
    """How much a film (height width) is like its mirror image, in [-1, 1]: the correlation at the best middle line.

    A frontal film is near .9, a lateral one near .4.
    """
    small = np.asarray(Image.fromarray(film.astype(np.float32)).resize((32, 32), Image.Resampling.BOX), np.float64)
    inner, best = small[3:29, 3:29], -1.0
    for shift in range(-4, 5):
        part = inner[:, max(0, shift) : 26 + min(0, shift)]
        part = part - part.mean()
        best = max(best, float((part * part[:, ::-1]).sum() / max(float((part**2).sum()), 1e-9)))
    return best


def lateral_first(studies: Sequence[Study], films: Sequence[Film], looks: Sequence[Look]) -> Finding:
    """Studies of several films whose first is a lateral one and another is not: by their views, else by their pixels.

    By pixels, a lateral film is less symmetric than its study's other one. In NLM's order of IU X-Ray's 2,955 pairs
    this finds 310 of the 329 that begin with a lateral, and 11 that do not.
    """
    seen: dict[str, list[float]] = {}
    for film, its in zip(films, looks, strict=True):
        seen.setdefault(film.study.id, []).append(its.symmetry)
    several = [study for study in studies if len(study.file_names) > 1]
    by_view, by_pixels = [], []
    for study in several:
        if all(study.views) and study.views:
            first, *others = ("lat" in view.lower() or view.upper() in ("LL", "RL") for view in study.views)
            if first and not all(others):
                by_view.append(study)
        elif max(seen[study.id][1:]) > max(FRONTAL, seen[study.id][0] + APART):
            by_pixels.append(study)
    found = by_view + by_pixels
    numbers = {"studies": len(several), "by_view": len(by_view), "by_pixels": len(by_pixels)}
    if not found:
        return Finding(
            "lateral_first", "first films", "ok", "no study is seen to begin with a lateral", numbers=numbers
        )
    return Finding(
        "lateral_first", "first films", "note",
        f"{len(found):,} of {some(len(several), 'study')} of several films begin with a lateral one: {len(by_view):,} "
        f"by their views, {len(by_pixels):,} by their pixels, which err in about 1 %",
        "With image.views=1 a model sees the lateral film alone of these. Leave image.views at 2, or put the frontal "
        "film first in file_names.",
        [f"study {study.id} ({study.split})" for study in found],
        [[Film(study, i) for i in range(2)] for study in found], numbers,
    )  # fmt: skip


def look_at(
    folder: Path, films: Sequence[Film], known: Mapping[str, bytes], workers: int | None, progress: bool
) -> list[Look]:
    """A look at every film, in order, in parallel."""
    jobs = ((film.name, known.get(film.name)) for film in films)
    with closing(parallel(partial(_look, folder), jobs, min(workers or cores(), len(films) // FEW + 1))) as looks:
        hidden = None if progress else True
        return list(tqdm(looks, "films", total=len(films), unit="film", leave=False, disable=hidden))


def _look(folder: Path, job: tuple[str, bytes | None]) -> Look:
    return look(folder / job[0], job[1])


def unlooked(folder: Path, films: Sequence[Film], known: Mapping[str, bytes]) -> list[Look]:
    """What is known without opening films: whether they are there, and their hashes by the manifest."""
    there = (os.path.isfile(folder / film.name) for film in films)
    return [
        Look(known.get(film.name, b""), error="" if found else f"{film.name}: no such film")
        for film, found in zip(films, there, strict=True)
    ]


def manifest(films: Sequence[Film], known: Mapping[str, bytes], problems: Sequence[str]) -> Finding:
    """Whether the films' hashes are those of their sources."""
    listed_here = sum(film.name in known for film in films)
    numbers = {"films": len(films), "listed": listed_here, "problems": len(problems)}
    if problems:
        return Finding(
            "manifest", "manifest", "warning", f"{some(len(problems), 'line')} of {MANIFEST} cannot be read",
            "The hashes of those films are taken from their files; import anew to have the manifest whole.",
            list(problems), numbers=numbers,
        )  # fmt: skip
    text = f"{MANIFEST} has the sources' hashes of {listed_here:,} of {some(len(films), 'film')}"
    return Finding("manifest", "manifest", "ok", text if known else "none: hashes are of the files", numbers=numbers)


def unreadable(films: Sequence[Film], looks: Sequence[Look], folder: Path, opened: bool) -> Finding:
    """Films that are missing or that do not decode."""
    bad = [(film, seen) for film, seen in zip(films, looks, strict=True) if seen.error]
    numbers = {"films": len(films), "opened": opened, "unreadable": len(bad)}
    if not bad:
        text = f"all {some(len(films), 'film')} decode" if opened else "all are there; none was opened"
        return Finding("unreadable", "unreadable films", "ok", text, numbers=numbers)
    return Finding(
        "unreadable", "unreadable films", "error", f"{len(bad):,} of {some(len(films), 'film')}",
        "Fetch these films again and import anew, or leave their studies out.",
        [seen.error.removeprefix(f"{folder}/") for _, seen in bad], [[film] for film, _ in bad], numbers,
    )  # fmt: skip


def constant(films: Sequence[Film], looks: Sequence[Look]) -> Finding:
    """Films that show nothing."""
    flat = [(film, seen) for film, seen in zip(films, looks, strict=True) if seen.flat]
    if not flat:
        return Finding("constant", "constant films", "ok", "none", numbers={"films": 0})
    return Finding(
        "constant", "constant films", "warning",
        f"{some(len(flat), 'film')} whose grey levels (of 255) have a standard deviation below {FLAT:g}",
        "There is nothing to see on them: leave them out. They are not compared below.",
        [f"{film}: {seen.spread:.2f}" for film, seen in flat], [[film] for film, _ in flat], {"films": len(flat)},
    )  # fmt: skip


def shapes(films: Sequence[Film], looks: Sequence[Look]) -> Finding:
    """Films too small, or too long for a chest."""
    odd, sides = [], [min(seen.height, seen.width) for seen in looks if seen.pixels is not None]
    for film, seen in zip(films, looks, strict=True):
        short, long = sorted((seen.height, seen.width))
        if seen.pixels is not None and (short < SMALLEST or long > LONGEST_ASPECT * short):
            odd.append((film, seen))
    if not odd:
        text = f"shorter side {min(sides):,} to {max(sides):,} pixels" if sides else "no film to measure"
        return Finding("shapes", "film sizes", "ok", text, numbers={"films": 0})
    return Finding(
        "shapes", "film sizes", "warning",
        f"{some(len(odd), 'film')} below {SMALLEST} pixels a side, or longer than {LONGEST_ASPECT:g} times their width",
        "Look at them: these are thumbnails, strips or scanning marks rather than chest films.",
        [f"{film}: {seen.width}×{seen.height}" for film, seen in odd], [[film] for film, _ in odd], {"films": len(odd)},
    )  # fmt: skip


def identical(films: Sequence[Film], looks: Sequence[Look], pixels: bool) -> Iterator[Finding]:
    """The same film in several places, by its bytes and, where they were decoded, by its `pixels`.

    Between splits, and within one.
    """
    by_bytes = repeats(seen.source if seen.source and not seen.flat else None for seen in looks)
    by_pixels = [
        group
        for group in repeats(None if seen.flat else seen.pixels for seen in looks)
        if len({looks[i].source for i in group}) > 1
    ]
    ways = [("bytes", "identical films", "the same bytes", by_bytes)] if any(seen.source for seen in looks) else []
    ways += [("pixels", "identical pixels", "the same pixels in different files", by_pixels)] if pixels else []
    for key, title, same, groups in ways:
        sides: tuple[list[list[Film]], list[list[Film]]] = ([], [])
        for group in groups:
            placed = [films[i] for i in group]
            sides[len(splits_of(_studies(placed))) > 1].append(placed)
        yield _shared(f"{key}_between", title, same, sides[True], True)
        yield _shared(f"{key}_within", title, same, sides[False], False)


def _shared(key: str, title: str, same: str, groups: list[list[Film]], between: bool) -> Finding:
    where = "in two splits" if between else "within a split"
    title = f"{title}, {'splits' if between else 'one split'}"
    if not groups:
        return Finding(key, title, "ok", f"none {where} with {same}", numbers={"groups": 0})
    within = sum(len({film.study.id for film in group}) == 1 for group in groups)
    counts = by_splits(map(_studies, groups))
    numbers: dict[str, Any] = {"groups": len(groups), "films": sum(map(len, groups)), "splits": counts}
    text = f"{some(len(groups), 'group')} of films {where} with {same}: {listed(counts)}"
    if not between:
        numbers["within_a_study"] = within
        text += f"; {within:,} of them within one study"
    return Finding(
        key, title, "error" if between else "warning", text,
        "One split shows films of another: remove one side, and look whether these are one study under two ids."
        if between
        else "One of them is a copy, or a film is in the wrong place: look at them, keep one.",
        [" = ".join(map(str, group)) for group in groups], groups, numbers,
    )  # fmt: skip


def _studies(group: Sequence[Film]) -> list[Study]:
    return [film.study for film in group]


def _why(error: Exception) -> str:
    return f"lacks {error}" if isinstance(error, KeyError) else str(error)
