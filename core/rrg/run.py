"""A finished run: load it, write reports for films that it has not seen."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from rrg.batch import Collator, Item, Prompt, Studies
from rrg.config import GenerationConfig, StageConfig
from rrg.data.films import read_film
from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, UsageError
from rrg.hosts.build import open_tokenizer
from rrg.model import RRGModel, build
from rrg.observations import OBSERVATIONS
from rrg.recipe import Recipe
from rrg.retrieval import Entry, Index
from rrg.weights import load_weights


class Reporter:
    """A trained composition that writes reports. `rrg.load` makes one."""

    def __init__(self, model: RRGModel, index: Index | None, path: Path) -> None:
        self.model, self.index, self.path = model.eval(), index, path
        self.recipe = model.recipe
        self._prompt = Prompt(model.recipe, model.host)

    def generate(self, films: Sequence[str | Path | np.ndarray], **settings: Any) -> list[str]:
        """One report per film; a film is a path or an array (height width) in [0, 1].

        settings: fields of GenerationConfig to change, such as beams=3.
        """
        return [report for report, _ in self.generate_studies([[film] for film in films], **settings)]

    def generate_studies(
        self, studies: Sequence[Sequence[str | Path | np.ndarray]], **settings: Any
    ) -> list[tuple[str, dict[str, Any]]]:
        """One report per study of one or several films, with its exemplar and probabilities."""
        items = [Item(_unseen(i), self._films(films)) for i, films in enumerate(studies)]
        config = self._settings(settings)
        size = config.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return [answer for batch in batches for answer in self._answer(batch, config)]

    def generate_split(
        self, folder: StudyFolder, split: str, limit: int | None = None, **settings: Any
    ) -> Iterator[dict[str, Any]]:
        """Predictions of a split, in order: id, report, reference, exemplar, probabilities."""
        studies = folder.split(split)[:limit]
        if not studies:
            raise UsageError(f"{folder.path}: no study of the split {split}")
        config = self._settings(settings)
        # Items come as they are: the prompt needs an exemplar, which needs the model's own signals first.
        loader = DataLoader(Studies(folder, studies, self.recipe), batch_size=config.batch_size, collate_fn=list)
        for items in tqdm(loader, desc=f"generate {split}", unit="batch", disable=None):
            for item, (report, evidence) in zip(items, self._answer(items, config), strict=True):
                yield {"id": item.study.id, "report": report, "reference": item.study.findings, **evidence}

    def _settings(self, changes: dict[str, Any]) -> GenerationConfig:
        return GenerationConfig.model_validate({**self.recipe.generation.model_dump(), **changes})

    def _films(self, films: Sequence[str | Path | np.ndarray]) -> np.ndarray:
        size = self.recipe.image.size
        kept = list(films)[: self.recipe.image.views]
        arrays = [f if isinstance(f, np.ndarray) else read_film(Path(f), size) for f in kept]
        wrong = [array.shape for array in arrays if array.shape != (size, size)]
        if wrong or not arrays:
            raise UsageError(f"a film given as an array has the shape {(size, size)} in this run; given {wrong or 'none'}")
        return np.stack(arrays).astype(np.float32)

    def _answer(self, items: Sequence[Item], config: GenerationConfig) -> list[tuple[str, dict[str, Any]]]:
        device = next(self.model.parameters()).device
        shown = self._exemplars(items, device) if self.index is not None else None
        texts = {study: entry.report for study, entry in shown.items()} if shown is not None else None
        batch = Collator(self._prompt, learn=False, exemplars=texts)(items)
        reports, values = self.model.generate({k: v.to(device) for k, v in batch.items()}, config)
        logits = next((value for (_, name), value in values.items() if name == "disease_logits"), None)
        answers = []
        for row, (item, report) in enumerate(zip(items, reports, strict=True)):
            entry = shown.get(item.study.id) if shown else None
            evidence: dict[str, Any] = {
                "exemplar": {"id": entry.id, "report": entry.report} if entry else None,
                "probabilities": None,
            }
            if logits is not None:
                chances = torch.sigmoid(logits[row].float()).tolist()
                evidence["probabilities"] = {n: round(p, 4) for n, p in zip(OBSERVATIONS, chances, strict=True)}
            answers.append((report, evidence))
        return answers

    @torch.inference_mode()
    def _exemplars(self, items: Sequence[Item], device: torch.device) -> dict[str, Entry]:
        assert self.index is not None
        batch = Collator(self._prompt, learn=False)(items)
        keys = self.model.keys(self.model.signals({k: v.to(device) for k, v in batch.items()}))
        answers = self.index.search(keys, [item.study.patient for item in items])
        return {item.study.id: answer[0][0] for item, answer in zip(items, answers, strict=True) if answer}


def _unseen(number: int) -> Study:
    """A film from outside any data set; its patient is nobody of the index."""
    name = f"\x00film {number}"
    return Study.model_construct(id=name, patient=name, split="test", file_names=[], findings="", labels={})


def load(path: str | Path, device: str | None = None) -> Reporter:
    """Open a run folder.

    device: where to run; a GPU where there is one, else the CPU.

    Raises UsageError where `path` holds no run, DataError where it is unfinished or damaged.
    """
    folder = Path(path)
    if not (folder / "recipe.toml").exists():
        raise UsageError(f"{folder} holds no run (no recipe.toml); make one with: rrg train RECIPE --data DIR --out {folder}")
    recipe = Recipe.open(folder / "recipe.toml")
    last = folder / "stages" / f"{len(recipe.stages):02d}-{recipe.stages[-1]}"
    if not (last / "pieces.safetensors").exists():
        raise DataError(f"{folder}: stage {recipe.stages[-1]} is not finished; go on with: rrg train --resume --out {folder}")
    tokenizer = open_tokenizer(folder / "tokenizer") if recipe.host.vocab_size else None
    model = build(recipe, tokenizer=tokenizer)
    load_weights(model, last)
    stage: StageConfig = model.configs[recipe.stages[-1]]
    index = Index.open(folder / "index") if model.retriever and stage.exemplars else None
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Reporter(model, index, folder)


def write_predictions(reporter: Reporter, folder: StudyFolder, split: str, path: Path, **settings: Any) -> list[dict[str, Any]]:
    """Generate a split and write predictions.jsonl, which appears when it is whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    written = []
    try:
        with partial.open("w", encoding="utf-8") as file:
            for prediction in reporter.generate_split(folder, split, **settings):
                file.write(json.dumps(prediction, ensure_ascii=False) + "\n")
                written.append(prediction)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return written


def run_data(path: Path) -> Path:
    """The data folder that a run was trained on. Raises DataError where the run doesn't say or it is gone."""
    try:
        data = Path(json.loads((path / "run.json").read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path / 'run.json'} does not say which data the run was trained on; give --data") from error
    if not data.is_dir():
        raise DataError(f"{data}, on which {path} was trained, is gone; give --data")
    return data
