"""Retrieval of exemplars from the training split, by the inner product of a retriever's keys."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, RRGError
from rrg.feed.batch import Studies, collate
from rrg.feed.stream import batches, to_device
from rrg.model.model import RRGModel, Values
from rrg.ops.nearest import IVF, Nearest

CHUNK = 1024


@dataclass(frozen=True)
class Entry:
    """One training study of the index."""

    id: str
    patient: str
    report: str


class Index:
    """Keys (entries key) of the training split, and whose they are; searched exactly, or by faiss with `ivf`."""

    def __init__(self, keys: Tensor, entries: Sequence[Entry], search: Nearest | IVF | None = None) -> None:
        self.keys, self.entries = keys.float().cpu(), list(entries)
        self._nearest = search or Nearest(self.keys)
        self._of_study: dict[str, set[int]] = {}
        self._of_patient: dict[str, set[int]] = {}
        for place, entry in enumerate(self.entries):
            self._of_study.setdefault(entry.id, set()).add(place)
            self._of_patient.setdefault(entry.patient, set()).add(place)

    def search(self, keys: Tensor, studies: Sequence[Study], k: int = 1) -> list[list[tuple[Entry, float]]]:
        """The k best entries for each study by its key (studies key), with scores, best first; ties in index order.

        A study itself and whatever else its patient has are never given; fewer than k come back where the index has no
        more.

        Raises RRGError for a key that is not finite: nothing is near to it.
        """
        broken = [
            study.id for study, fine in zip(studies, keys.isfinite().all(dim=1).tolist(), strict=True) if not fine
        ]
        if broken:
            raise RRGError(f"no finite key for {len(broken)} studies, such as {broken[0]}; has training diverged?")
        found = []
        for start in range(0, len(studies), CHUNK):
            asked = studies[start : start + CHUNK]
            own = [self._of_patient.get(s.patient, set()) | self._of_study.get(s.id, set()) for s in asked]
            wanted = min(k + max(map(len, own)), len(self.entries))
            answers = self._nearest.search(keys[start : start + CHUNK].float().cpu(), wanted)
            for scores, places, mine in zip(*(each.tolist() for each in answers), own, strict=True):
                ranked = zip(places, scores, strict=True)
                others = [(self.entries[place], score) for place, score in ranked if place not in mine]
                found.append(others[:k])
        return found

    def save(self, folder: Path) -> None:
        """Write `index.safetensors`, with the cells of an approximate search, and `index.jsonl`, in a folder that
        appears at once.
        """
        partial = folder.with_name(f".{folder.name}.writing")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tensors = {"keys": self.keys}
        if isinstance(self._nearest, IVF):
            tensors |= {"centres": self._nearest.centres, "cells": self._nearest.cells}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / "index.safetensors")
        lines = [json.dumps({"id": e.id, "patient": e.patient, "report": e.report}) + "\n" for e in self.entries]
        (partial / "index.jsonl").write_text("".join(lines), encoding="utf-8")
        os.replace(partial, folder)

    @classmethod
    def open(cls, folder: Path, config: object = None) -> "Index":
        """Map a saved index into memory. config: the retriever's, which says how it is searched.

        Raises DataError where the index is missing or its files disagree.
        """
        try:
            tensors = load_file(folder / "index.safetensors")
            keys = tensors["keys"]
            lines = (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
            entries = [Entry(**json.loads(line)) for line in lines]
        except Exception as error:
            raise DataError(f"{folder}: no retrieval index that can be read: {error}") from error
        if keys.ndim != 2 or len(entries) != len(keys):
            raise DataError(f"{folder}: keys {tuple(keys.shape)} for {len(entries)} studies; the index is damaged")
        try:
            return cls(keys, entries, _search(keys, config, tensors))
        except DataError as error:
            raise DataError(f"{folder}: {error.message}; the index is damaged") from error


def _search(keys: Tensor, config: object, saved: Mapping[str, Tensor] = MappingProxyType({})) -> Nearest | IVF:
    """What searches keys as a retriever's configuration says. saved: cells that they are sorted into already."""
    if getattr(config, "search", "exact") == "exact":
        return Nearest(keys)
    probe: int = getattr(config, "probe", 16)
    if {"centres", "cells"} <= saved.keys():
        return IVF(keys, saved["centres"], saved["cells"], probe)
    return IVF.of(keys, probe)


@torch.inference_mode()
def keys_of(
    model: RRGModel,
    folder: StudyFolder,
    studies: Sequence[Study],
    what: str,
    key: Callable[[Values], Tensor],
    workers: int | None = None,
) -> Tensor:
    """Keys of some studies (studies key), with the model's weights of the moment.

    what: for the progress bar. key: from a batch's signals to its keys, such as the retriever's.
    workers: as `rrg.feed.stream.workers_for` takes them.

    Raises RRGError where a key is not finite: its study could never be ranked.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    size = model.recipe.generation.batch_size
    found = batches(Studies(folder, studies, model.recipe), size, collate, what, device=device, workers=workers)
    rows = [key(model.signals(to_device(batch, device))).cpu() for batch in found]
    model.train(training)
    keys = torch.cat(rows) if rows else torch.empty(0, 0)
    broken = [study.id for study, row in zip(studies, keys, strict=True) if not row.isfinite().all()]
    if broken:
        raise RRGError(f"{what}: no finite key for {len(broken)} studies, such as {broken[0]}; has training diverged?")
    return keys


def build_index(model: RRGModel, folder: StudyFolder, workers: int | None = None) -> Index:
    """Index the training split, and nothing of the others."""
    studies = folder.split("train")
    entries = [Entry(study.id, study.patient, study.findings) for study in studies]
    keys = keys_of(model, folder, studies, "index", model.keys, workers)
    return Index(keys, entries, _search(keys, model.retriever_config))


def exemplars(
    model: RRGModel, folder: StudyFolder, studies: Sequence[Study], index: Index, workers: int | None = None
) -> dict[str, Entry]:
    """The best training study of another patient, by study id."""
    keys = keys_of(model, folder, studies, "retrieve", model.keys, workers)
    answers = index.search(keys, studies)
    return {study.id: answer[0][0] for study, answer in zip(studies, answers, strict=True) if answer}
