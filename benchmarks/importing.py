"""The case `import` of `rrg bench`: films of a collection decoded into a data folder."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from runner import Measurement

from rrg.data.parallel import cores
from rrg.data.store import Format, Wanted, open_store


def importing(device: str, quick: bool) -> Iterator[Measurement]:
    """Films read, squashed to a square and written as JPEG of quality 95: by plain Pillow in one thread, and by the
    store of `rrg data import`, which hashes source and film and notes both, on one worker and on one a core. The floor
    decodes alone.
    """
    kinds = {"PNG": (512, 512, 256, 400), "JPEG": (2544, 3056, 512, 48)}
    if quick:
        kinds = {"PNG": (64, 64, 32, 40)}
    for kind, (width, height, size, count) in kinds.items():
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            paths = _films(root / "src", kind, width, height, count)
            rows: dict[str, Callable[[], object]] = {
                "decoded alone": partial(_decode, paths),
                "Pillow, one thread": partial(_pillow, paths, size, root / "plain"),
                "rrg, one worker": partial(_store, paths, size, root / "one", 1),
                f"rrg, {cores()} workers": partial(_store, paths, size, root / "all", cores()),
            }
            what = f"{count} {kind} films of {width} x {height} to {size} x {size}"
            yield Measurement(what, rows, "decoded alone", "Pillow, one thread", count=count)


def _films(folder: Path, kind: str, width: int, height: int, count: int) -> list[Path]:
    """Smooth waves under the noise of a detector, each film another."""
    folder.mkdir()
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 3, (height, width))
    paths = []
    for number in range(count):
        film = 128 + 60 * np.sin((columns + number) / 40) + 50 * np.cos(rows / 33) + noise
        paths.append(folder / f"{number}.{kind.lower()}")
        Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(paths[-1], kind)
    return paths


def _decode(paths: list[Path]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.load()


def _pillow(paths: list[Path], size: int, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in paths:
        with Image.open(path) as image:
            film = image.convert("L").resize((size, size), Image.Resampling.BILINEAR)
        film.save(folder / f"{path.stem}.jpg", quality=95)


def _store(paths: list[Path], size: int, folder: Path, workers: int) -> None:
    films = [Wanted(f"images/{path.stem}.jpg", path, number) for number, path in enumerate(paths)]
    with (
        tempfile.TemporaryDirectory(dir=folder.parent) as dest,
        open_store(Path(dest), paths[0].parent, "benchmark", Format(size), films) as store,
    ):
        assert not store.fill(workers, progress=False)
        store.finish([film.name for film in films])
