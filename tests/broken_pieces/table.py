"""For each check of the contract suite a tiny piece that breaks its promise and no other: its kind and class.

What a check of the index or of the injection promises cannot be broken by a piece's own sums: those pieces reach for
what is not theirs, as a hostile plugin might. The pieces are in modules by kind, which fill the table.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from rrg.model.inject import Injection, LayerPieces
from rrg.retrieve.index import Index

BROKEN: dict[str, tuple[str, Any]] = {}
# What hostile pieces replace, and the methods themselves.
TAMPERED = [
    (Index, "search"),
    (Index, "save"),
    (Injection, "prepare"),
    (LayerPieces, "apply_to"),
    (nn.Dropout, "forward"),
]
SEARCH, SAVE, PREPARE, APPLY_TO, _ = (getattr(cls, name) for cls, name in TAMPERED)


def breaks(check: str, kind: str) -> Callable[[Any], Any]:
    def register(cls: Any) -> Any:
        BROKEN[check] = (kind, cls)
        return cls

    return register
