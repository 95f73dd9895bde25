"""What each piece does in a stage: the losses that take part, what they need, the texts they read, what trains."""

from fnmatch import fnmatch
from typing import Any

from rrg.composing.contract import Contract
from rrg.composing.recipe import Recipe
from rrg.config import StageConfig

TEXTS = ("report", "reference", "phrase")
REPORT = "report"  # the language model's loss, beside the auxiliary losses' names


class Roles:
    """A recipe's pieces by what they read, give and are for.

    text_encoder: the piece that tokenises what training alone shows, and whether it is published and stays as it is.
    """

    def __init__(
        self, recipe: Recipe, kinds: dict[str, str], contracts: dict[str, Contract], configs: dict[str, Any]
    ) -> None:
        self.recipe, self.kinds, self.contracts, self.configs = recipe, kinds, contracts, configs
        self.injectors = [name for name, kind in kinds.items() if kind == "injector"]
        self.text_encoder: str | None = None
        self.text_is_frozen: bool | None = None  # None: it has nothing that could train

    def gives(self, name: str, signal: str) -> bool:
        """Whether a piece gives a signal."""
        return any(port.signal == signal for port in self.contracts[name].gives)

    def losses(self, stage: StageConfig | None) -> list[str]:
        """Losses that take part in a stage: `report`, the language model's, then auxiliary ones of weight not 0.

        stage: None before the model has entered any: all of them.
        """
        patterns = stage.losses if stage else ["*"]
        auxiliary = [
            name
            for name, kind in self.kinds.items()
            if kind == "loss" and self.configs[name].weight and any(fnmatch(name, pattern) for pattern in patterns)
        ]
        return [REPORT, *auxiliary] if stage is None or stage.report else auxiliary

    def needed(self, stage: StageConfig | None) -> set[str]:
        """Pieces that a stage's losses depend on; the others needn't run."""
        found, left = set[str](), self.losses(stage)
        if REPORT in left:
            left += [self.recipe.visual_embeds, *self.injectors]
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += [provider for wire, provider in self.recipe.wire.items() if wire.rpartition(".")[0] == name]
        return found

    def texts(self, stage: StageConfig | None) -> list[str]:
        """Texts that a stage shows and its losses read: of report, reference, phrase."""
        shown = {"report", *(stage.contexts if stage else ())}
        readers = (self.needed(stage) & self.contracts.keys()) - {self.text_encoder}
        read = {port.signal for name in readers for port in self.contracts[name].reads}
        return [
            text for text in TEXTS if text in shown and {f"{text}_{of}" for of in ("ids", "tokens", "embed")} & read
        ]

    def trains(self, name: str, stage: StageConfig) -> bool:
        """Whether a stage trains a piece: as vision tower, as connector, or by name."""
        if self.gives(name, "patch_tokens"):
            return stage.vision == "full"
        if self.gives(name, "visual_embeds"):
            return stage.report and stage.connector == "full"
        if self.kinds[name] == "injector" and not stage.report:
            return False
        if name == self.text_encoder and self.text_is_frozen is not None:
            # A published one stays as it is, one built at random learns.
            return not self.text_is_frozen and bool(self.texts(stage))
        return any(fnmatch(name, pattern) for pattern in stage.pieces or ())
