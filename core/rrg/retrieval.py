"""Exact retrieval of exemplars from the training split, by the inner product of a retriever's keys."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from rrg.batch import Studies, collate
from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, RRGError
from rrg.model import RRGModel, Values

CHUNK = 1024


@dataclass(frozen=True)
class Entry:
    """One training study of the index."""

    id: str
    patient: str
    report: str


class Index:
    """Keys (entries key) of the training split, and whose they are."""

    def __init__(self, keys: Tensor, entries: Sequence[Entry]) -> None:
        self.keys, self.entries = keys.float().cpu(), list(entries)
        self._places = {entry.id: place for place, entry in enumerate(self.entries)}
        self._numbers: dict[str, int] = {}
        self._owners = torch.tensor([self._numbers.setdefault(e.patient, len(self._numbers)) for e in self.entries])

    def search(self, keys: Tensor, studies: Sequence[Study], k: int = 1) -> list[list[tuple[Entry, float]]]:
        """The k best entries for each study by its key (studies key), with scores, best first; ties in index order.

        A study itself and whatever else its patient has are never given; fewer than k come back where the index has no
        more.
        """
        found = []
        for start in range(0, len(studies), CHUNK):
            asked = studies[start : start + CHUNK]
            scores = keys[start : start + CHUNK].float().cpu() @ self.keys.T
            patients = torch.tensor([self._numbers.get(study.patient, -1) for study in asked])
            themselves = torch.tensor([self._places.get(study.id, -1) for study in asked])
            excluded = (patients[:, None] == self._owners) | (themselves[:, None] == torch.arange(len(self.entries)))
            scores.masked_fill_(excluded, -torch.inf)
            # topk alone breaks ties as it likes: it finds the k-th score, and everything that reaches it is sorted.
            least = scores.topk(min(k, scores.shape[1]), dim=1).values[:, -1]
            for row, threshold in zip(scores, least, strict=True):
                places = ((row >= threshold) & (row > -torch.inf)).nonzero().flatten()
                best, order = row[places].sort(descending=True, stable=True)
                chosen = zip(places[order[:k]].tolist(), best[:k].tolist(), strict=True)
                found.append([(self.entries[place], score) for place, score in chosen])
        return found

    def save(self, folder: Path) -> None:
        """Write `index.safetensors` and `index.jsonl` into a folder that appears at once."""
        partial = folder.with_name(f".{folder.name}.writing")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file({"keys": self.keys.contiguous()}, partial / "index.safetensors")
        lines = [json.dumps({"id": e.id, "patient": e.patient, "report": e.report}) + "\n" for e in self.entries]
        (partial / "index.jsonl").write_text("".join(lines), encoding="utf-8")
        os.replace(partial, folder)

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """Read a saved index. Raises DataError where it is missing or its two files disagree."""
        try:
            keys = load_file(folder / "index.safetensors")["keys"]
            lines = (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
            entries = [Entry(**json.loads(line)) for line in lines]
        except Exception as error:
            raise DataError(f"{folder}: no retrieval index that can be read: {error}") from error
        if keys.ndim != 2 or len(entries) != len(keys):
            raise DataError(f"{folder}: keys {tuple(keys.shape)} for {len(entries)} studies; the index is damaged")
        return cls(keys, entries)


@torch.inference_mode()
def keys_of(
    model: RRGModel, folder: StudyFolder, studies: Sequence[Study], what: str, key: Callable[[Values], Tensor]
) -> Tensor:
    """Keys of some studies (studies key), with the model's weights of the moment.

    what: for the progress bar. key: from a batch's signals to its keys, such as the retriever's.

    Raises RRGError where a key is not finite: its study could never be ranked.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    loader = DataLoader(
        Studies(folder, studies, model.recipe),
        batch_size=model.recipe.generation.batch_size,
        collate_fn=collate,
    )
    rows = []
    for batch in tqdm(loader, desc=what, unit="batch", leave=False, disable=None):
        rows.append(key(model.signals({k: v.to(device) for k, v in batch.items()})).cpu())
    model.train(training)
    keys = torch.cat(rows) if rows else torch.empty(0, 0)
    broken = [study.id for study, row in zip(studies, keys, strict=True) if not row.isfinite().all()]
    if broken:
        raise RRGError(f"{what}: no finite key for {len(broken)} studies, such as {broken[0]}; has training diverged?")
    return keys


def build_index(model: RRGModel, folder: StudyFolder) -> Index:
    """Index the training split, and nothing of the others."""
    studies = folder.split("train")
    entries = [Entry(study.id, study.patient, study.findings) for study in studies]
    return Index(keys_of(model, folder, studies, "index", model.keys), entries)


def exemplars(model: RRGModel, folder: StudyFolder, studies: Sequence[Study], index: Index) -> dict[str, Entry]:
    """The best training study of another patient, by study id."""
    keys = keys_of(model, folder, studies, "retrieve", model.keys)
    answers = index.search(keys, studies)
    return {study.id: answer[0][0] for study, answer in zip(studies, answers, strict=True) if answer}
