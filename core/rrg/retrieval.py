"""Exact retrieval of exemplars from the training split, by the inner product of a retriever's keys."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from rrg.batch import Collator, Prompt, Studies
from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError
from rrg.model import RRGModel

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
        numbers: dict[str, int] = {}
        self._patients = torch.tensor([numbers.setdefault(e.patient, len(numbers)) for e in self.entries])
        self._numbers = numbers

    def search(self, keys: Tensor, patients: Sequence[str], k: int = 1) -> list[list[tuple[Entry, float]]]:
        """The k best entries of each query (queries key) and their scores, best first; equal scores in index order.

        An entry of the query's own patient is never given, so neither is its own study; fewer than k come back where
        the index has no more.
        """
        found = []
        for start in range(0, len(patients), CHUNK):
            scores = keys[start : start + CHUNK].float().cpu() @ self.keys.T
            owners = torch.tensor([self._numbers.get(p, -1) for p in patients[start : start + CHUNK]])
            scores.masked_fill_(owners[:, None] == self._patients[None, :], -torch.inf)
            best, order = scores.sort(dim=1, descending=True, stable=True)
            for row, places in zip(best[:, :k].tolist(), order[:, :k].tolist(), strict=True):
                found.append([(self.entries[i], s) for s, i in zip(row, places, strict=True) if s > -torch.inf])
        return found

    def save(self, folder: Path) -> None:
        """Write `index.safetensors` and `index.jsonl` into a folder that appears at once."""
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        save_file({"keys": self.keys.contiguous()}, partial / "index.safetensors")
        lines = [json.dumps({"id": e.id, "patient": e.patient, "report": e.report}) for e in self.entries]
        (partial / "index.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
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
        if len(entries) != len(keys):
            raise DataError(f"{folder}: {len(keys)} keys for {len(entries)} studies; the index is damaged")
        return cls(keys, entries)


@torch.inference_mode()
def keys_of(model: RRGModel, folder: StudyFolder, studies: Sequence[Study], what: str) -> Tensor:
    """The retriever's keys of some studies (studies key), with the model's weights of the moment."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    loader = DataLoader(
        Studies(folder, studies, model.recipe),
        batch_size=model.recipe.generation.batch_size,
        collate_fn=Collator(Prompt(model.recipe, model.host), learn=False),
    )
    rows = []
    for batch in tqdm(loader, desc=what, unit="batch", leave=False, disable=None):
        rows.append(model.keys(model.signals({k: v.to(device) for k, v in batch.items()})).cpu())
    model.train(training)
    return torch.cat(rows) if rows else torch.empty(0, 0)


def build_index(model: RRGModel, folder: StudyFolder) -> Index:
    """Index the training split, and nothing of the others."""
    studies = folder.split("train")
    entries = [Entry(study.id, study.patient, study.findings) for study in studies]
    return Index(keys_of(model, folder, studies, "index"), entries)


def exemplars(model: RRGModel, folder: StudyFolder, studies: Sequence[Study], index: Index) -> dict[str, Entry]:
    """The best training study of another patient, by study id."""
    keys = keys_of(model, folder, studies, "retrieve")
    answers = index.search(keys, [study.patient for study in studies])
    return {study.id: answer[0][0] for study, answer in zip(studies, answers, strict=True) if answer}
