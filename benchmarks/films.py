"""Films on disk to batches for the model: plain Pillow, Hugging Face datasets, and rrg's loader."""

import io
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from runner import Measurement
from torch import Tensor
from torch.utils.data import DataLoader

from rrg.composing.composition import compose
from rrg.data.phantom.anatomy import sample_anatomy
from rrg.data.phantom.film import draw_film, sample_technique
from rrg.data.study import Study, StudyFolder
from rrg.data.write import write_metadata
from rrg.feed.batch import Studies, collate
from rrg.feed.stream import batches, to_device
from rrg.observations import OBSERVATIONS

Call = Callable[[], object]
Way = Callable[[], Iterator[Tensor]]
SIZE, BATCH = 224, 16


def films(device: str, quick: bool) -> Iterator[Measurement]:
    """Phantom films, JPEG of 512 pixels and of the model's own 224, into batches of 16. The floor decodes alone. Worker
    processes start within the time measured.
    """
    count, drawn = (2 * BATCH, 2) if quick else (32 * BATCH, 16)
    for side in (SIZE,) if quick else (512, SIZE):
        with tempfile.TemporaryDirectory() as temporary:
            folder = _folder(Path(temporary) / "data", side, count, drawn)
            ways = _ways(folder, device, Path(temporary) / "cache")
            for name, way in ways.items():
                same = all(torch.equal(a, b) for a, b in zip(way(), ways["Pillow"](), strict=True))
                assert same, f"{name} gives other films than Pillow"
            rows: dict[str, Call] = {name: lambda way=way: deque(way(), maxlen=0) for name, way in ways.items()}
            rows["decoding alone"] = lambda folder=folder: [_decode(folder.film_path(s)) for s in folder.studies]
            yield Measurement(f"{side} px, {count} films", rows, "decoding alone", "Pillow", count=count)


def _ways(folder: StudyFolder, device: str, cache: Path) -> dict[str, Way]:
    """Each gives the batches (batch height width) on the device, in order."""
    where = torch.device(device)
    paths = [folder.film_path(study) for study in folder.studies]
    studies = Studies(folder, folder.studies, compose("lead", settings={"image.size": SIZE}))

    def pillow() -> Iterator[Tensor]:
        return (
            torch.from_numpy(np.stack([_squashed(Image.open(path)) for path in paths[start : start + BATCH]])).to(where)
            for start in range(0, len(paths), BATCH)
        )

    def ours(workers: int) -> Iterator[Tensor]:
        found = batches(studies, BATCH, collate, "films", device=where, workers=workers)
        return (to_device(batch, where)["pixel_values"][:, 0, 0] for batch in found)

    ways: dict[str, Way] = {"Pillow": pillow, **{f"rrg, {_workers(n)}": lambda n=n: ours(n) for n in (0, 1, 2)}}
    if find_spec("datasets"):
        ways |= {f"datasets, {_workers(n)}": _datasets(folder, where, cache, n) for n in (0, 2)}
    return ways


def _decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _workers(count: int) -> str:
    return f"{count} worker{'s' * (count > 1)}" if count else "in process"


def _squashed(image: Image.Image) -> np.ndarray:
    with image:
        gray = image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(gray, np.float32) / np.float32(255)


def _datasets(folder: StudyFolder, where: torch.device, cache: Path, workers: int) -> Way:
    """The folder by Hugging Face's imagefolder, its films squashed by the same two lines of Pillow."""
    import datasets

    datasets.disable_progress_bars()
    opened = datasets.load_dataset("imagefolder", data_dir=str(folder.path), cache_dir=str(cache))["train"]
    opened.set_transform(lambda rows: {"film": [torch.from_numpy(_squashed(images[0])) for images in rows["images"]]})
    loader = DataLoader(opened, batch_size=BATCH, num_workers=workers)
    return lambda: (batch["film"].to(where) for batch in loader)


def _folder(path: Path, side: int, count: int, drawn: int) -> StudyFolder:
    """So many studies of one film each; the films drawn anew are fewer, and stored again and again."""
    (path / "images").mkdir(parents=True)
    contents = cycle([_film(side, seed) for seed in range(drawn)])
    labels: dict[str, float | None] = dict.fromkeys(OBSERVATIONS)
    studies = []
    for number in range(count):
        name = f"images/{number}.jpg"
        (path / name).write_bytes(next(contents))
        text = f"The lungs are clear. Film {number}."
        studies.append(Study(id=name, patient=name, split="train", file_names=[name], findings=text, labels=labels))
    write_metadata(path, studies, {"name": "phantom", "labels": "exact", "source": "drawn", "licence": "CC0-1.0"})
    return StudyFolder.open(path)


def _film(side: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    technique = replace(sample_technique(rng), rows=side, columns=side)
    film, file = draw_film(sample_anatomy(rng), [], "frontal", technique, seed), io.BytesIO()
    Image.fromarray((film * 255 + 0.5).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()
