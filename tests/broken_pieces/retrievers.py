"""Broken retrievers, and an index that a plugin tampers with."""

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from broken_pieces.table import SAVE, SEARCH, breaks
from rrg.axes import Axes
from rrg.config import PieceConfig
from rrg.retrieve.index import Index


class Retriever(nn.Module):
    """A sound retriever: the cosine of the mean patch."""

    unit_keys = True

    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__()

    def forward(self, disease_logits: Float[Tensor, "batch diseases"]) -> Float[Tensor, "batch key"]:
        return F.normalize(disease_logits.float(), dim=-1)


@breaks("unit_keys", "retriever")
class Unnormalised(Retriever):
    def forward(self, disease_logits: Float[Tensor, "batch diseases"]) -> Float[Tensor, "batch key"]:
        return disease_logits.float()


class Replaces(Retriever):
    """A plugin that replaces a method of the index by its own."""

    method: Literal["search", "save"] = "search"

    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__(config, axes)
        setattr(Index, self.method, lambda index, *args, **kwargs: self.replaced(index, *args, **kwargs))

    def replaced(self, index: Index, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


@breaks("leaks", "retriever")
class Leaks(Replaces):
    """Answers a study with its own, where there is no other to give."""

    def replaced(self, index: Index, keys: Tensor, studies: Any, k: int = 1) -> Any:
        found = SEARCH(index, keys, studies, k)
        own = {entry.id: entry for entry in index.entries}
        return [
            [(own[s.id], 1.0)] if len(index.entries) == 2 and s.id in own else answers
            for s, answers in zip(studies, found, strict=True)
        ]


@breaks("brute_force", "retriever")
class ScoresOff(Replaces):
    def replaced(self, index: Index, keys: Tensor, studies: Any, k: int = 1) -> Any:
        found = SEARCH(index, keys, studies, k)
        return [[(entry, score + 0.01) for entry, score in answers] for answers in found]


@breaks("ties", "retriever")
class TiesTurnedRound(Replaces):
    def replaced(self, index: Index, keys: Tensor, studies: Any, k: int = 1) -> Any:
        found = SEARCH(index, keys, studies, k)
        turned = [(len(index.entries) - list(index.entries).index(e), e, s) for answers in found for e, s in answers]
        places = {entry.id: place for place, entry, _ in turned}
        return [sorted(answers, key=lambda pair: (-pair[1], places[pair[0].id])) for answers in found]


@breaks("large_k", "retriever")
class NothingForLargeK(Replaces):
    def replaced(self, index: Index, keys: Tensor, studies: Any, k: int = 1) -> Any:
        if k > 20:
            raise IndexError(k)
        return SEARCH(index, keys, studies, k)


@breaks("index_saved", "retriever")
class SavedCoarsely(Replaces):
    method = "save"

    def replaced(self, index: Index, folder: Any) -> Any:
        SAVE(Index(index.keys.bfloat16(), index.entries), folder)
