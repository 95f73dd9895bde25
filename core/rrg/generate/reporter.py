"""A finished run: load it, write reports for films that it has not seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from rrg.composing.recipe import Recipe, validation_problems
from rrg.config import GenerationConfig
from rrg.data.films import film_array, read_pixels
from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, UsageError
from rrg.feed.batch import Item, Prompt, Studies, collate, stack
from rrg.feed.stream import batches, to_device
from rrg.model.hosts.build import open_tokenizer
from rrg.model.model import RRGModel, build
from rrg.model.weights import load_weights
from rrg.observations import OBSERVATIONS
from rrg.retrieve.index import Entry, Index
from rrg.runs.folder import INDEX, RECIPE, TOKENIZER, read_run, stage_folder

Film = str | Path | np.ndarray | Image.Image


@dataclass(frozen=True)
class Report:
    """A generated report, the training report that stood in its prompt, and the probability of each observation."""

    text: str
    exemplar: Entry | None = None
    probabilities: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a line of predictions.jsonl has it."""
        exemplar = {"id": self.exemplar.id, "report": self.exemplar.report} if self.exemplar else None
        return {"report": self.text, "exemplar": exemplar, "probabilities": self.probabilities}


class Reporter:
    """A trained composition that writes reports. `rrg.load` makes one."""

    def __init__(self, model: RRGModel, index: Index | None) -> None:
        self.model, self.index, self.recipe = model.eval(), index, model.recipe
        self._prompt = Prompt(model.recipe, model.host)

    def generate(self, films: Sequence[Film], **settings: Any) -> list[str]:
        """One report per film: a path, a Pillow image, or an array of any size as `rrg.data.films.film_array` takes it.

        settings: fields of GenerationConfig to change, such as beams=3.

        Raises UsageError for a wrong setting, DataError for a film that cannot be read.
        """
        return [report.text for report in self.generate_studies([[film] for film in films], **settings)]

    def generate_studies(self, studies: Sequence[Sequence[Film]], **settings: Any) -> list[Report]:
        """One report per study of one or several films."""
        config = self._settings(settings)
        items = [Item(_unseen(number), self._films(films)) for number, films in enumerate(studies)]
        size = config.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return [report for batch in batches for report in self._reports(batch, config)]

    def generate_split(
        self, folder: StudyFolder, split: str, limit: int | None = None, workers: int | None = None, **settings: Any
    ) -> Iterator[tuple[Study, Report]]:
        """Every study of a split with its report, in order.

        limit: only the first so many. workers: as `rrg.feed.stream.workers_for` takes them.
        """
        config = self._settings(settings)
        if limit is not None and limit < 1:
            raise UsageError(f"limit={limit}: give 1 or more studies")
        studies = folder.split(split)[:limit]
        if not studies:
            raise UsageError(f"{folder.path}: no study of the split {split}")
        # Items come as they are: the prompt needs an exemplar, which needs the model's own signals first.
        chosen, what = Studies(folder, studies, self.recipe), f"generate {split}"
        for items in batches(chosen, config.batch_size, list, what, device=self._device, workers=workers):
            yield from zip((item.study for item in items), self._reports(items, config), strict=True)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _settings(self, changes: dict[str, Any]) -> GenerationConfig:
        try:
            return GenerationConfig.model_validate({**self.recipe.generation.model_dump(), **changes})
        except ValidationError as error:
            raise UsageError("wrong settings of generation", validation_problems(error)) from error

    def _films(self, films: Sequence[Film]) -> np.ndarray:
        if not films:
            raise UsageError("a study without a film: give one film or more")
        image = self.recipe.image
        kept = films[: image.views]
        read = [
            read_pixels(film, image.size) if isinstance(film, str | Path) else film_array(film, image.size)
            for film in kept
        ]
        return stack(read)

    @torch.inference_mode()
    def _reports(self, items: Sequence[Item], config: GenerationConfig) -> list[Report]:
        batch = to_device(collate(items), self._device)
        values = self.model.signals(batch)
        entries = self._exemplars(items, values)
        shown = {item.study.id: entry.report for item, entry in zip(items, entries, strict=True) if entry}
        batch |= {name: t.to(self._device) for name, t in self._prompt.batch(items, shown, learn=False).items()}
        texts, _ = self.model.generate(batch, config, values, keys=[item.study.id for item in items])
        return list(map(Report, texts, entries, _probabilities(values, len(items))))

    def _exemplars(self, items: Sequence[Item], values: dict[tuple[str, str], Any]) -> list[Entry | None]:
        if self.index is None:
            return [None] * len(items)
        found = self.index.search(self.model.keys(values), [item.study for item in items])
        return [best[0][0] if best else None for best in found]


def _probabilities(values: dict[tuple[str, str], Any], studies: int) -> list[dict[str, float] | None]:
    found = (value for (_, name), value in values.items() if name == "disease_logits")
    logits: Tensor | None = next((value for value in found if value.shape[1] == len(OBSERVATIONS)), None)
    if logits is None:
        return [None] * studies
    rows = torch.sigmoid(logits.float()).tolist()
    return [{name: round(p, 4) for name, p in zip(OBSERVATIONS, row, strict=True)} for row in rows]


def _unseen(number: int) -> Study:
    """A film from outside any data set; its patient is nobody of the index."""
    name = f"\x00film {number}"
    return Study.model_construct(id=name, patient=name, split="test", file_names=[], findings="", labels={})


def load(path: str | Path, device: str | None = None) -> Reporter:
    """Open a run folder.

    device: where to run; a GPU where there is one, else the CPU.

    Raises UsageError where `path` holds no run or there is no such device, DataError where the run is unfinished or
    damaged.
    """
    folder = Path(path)
    read_run(folder)
    recipe = Recipe.open(folder / RECIPE)
    last = stage_folder(folder, recipe.stages, len(recipe.stages))
    if not last.exists():
        raise DataError(
            f"{folder}: stage {recipe.stages[-1]} is not finished; go on with: rrg train --resume --out {folder}"
        )
    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!r}: not on this machine: {str(error).splitlines()[0]}") from error
    model = build(recipe, tokenizer=open_tokenizer(folder / TOKENIZER) if recipe.host.vocab_size else None)
    for stage in recipe.stages:
        model.begin(stage)
    load_weights(model, last)
    index = Index.open(folder / INDEX, model.retriever_config) if model.configs[recipe.stages[-1]].exemplars else None
    return Reporter(model.to(where), index)
