"""What a run's modules see: the model re-reads a generated report beside its films, and hooks note gates and attention.

Pieces are known by what they are, not by their names. A gate is an injected module that is `gated`: its method `gate`
takes what `forward` takes and gives a value in [0, 1] by token and channel (batch text host), as LEAD's. Disease tokens
are what asks the patches by `nn.MultiheadAttention` with one query per observation, as DAST's.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rrg.data.study import StudyFolder
from rrg.feed.batch import Prompt, Studies, collate
from rrg.feed.stream import to_device
from rrg.generate.reporter import Reporter, load
from rrg.model.model import RRGModel
from rrg.observations import OBSERVATIONS
from rrg.report.cases import Case
from rrg.report.internals import Attention, Gate, Internals


class Reader:
    """A loaded run that re-reads cases."""

    def __init__(self, run: Path, folder: StudyFolder) -> None:
        """Raises what `rrg.generate.reporter.load` raises, and whatever building the model may."""
        self.reporter: Reporter = load(run)
        self.model: RRGModel = self.reporter.model
        self.folder = folder
        self.prompt = Prompt(self.model.recipe, self.model.host)

    @property
    def has_something(self) -> bool:
        """Whether the run has gates or disease tokens at all."""
        return bool(self._gates() or self._attentions())

    @torch.inference_mode()
    def read(self, case: Case) -> Internals:
        """Re-read one case: its films, its exemplar where the run retrieves, its generated report token by token.

        Raises DataError where a film cannot be read.
        """
        assert case.study is not None
        device = next(self.model.parameters()).device
        item = Studies(self.folder, [case.study], self.model.recipe)[0]
        exemplar = case.prediction.exemplar if self.reporter.index is not None else None
        batch = collate([item])
        batch |= self.prompt.batch([item], {case.id: exemplar.report} if exemplar else None, learn=False)
        report = self.prompt.report(case.prediction.report)[:-1]  # without the end
        batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([report], dtype=torch.long)], dim=1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        batch = to_device(batch, device)
        with self._noted() as (gates, attention):
            values = self.model.signals(batch)
            once = self.model.recipe.generation.model_copy(update={"max_new_tokens": 1, "beams": 1})
            self.model.generate(batch, once, values)  # its first step reads the whole prompt, the report included
        patches = next((value.shape[1] for (_, name), value in values.items() if name == "patch_tokens"), 0)
        return Internals(self._of_gates(gates, report), self._of_attention(attention, patches, len(item.films)))

    @contextmanager
    def _noted(self) -> Iterator[tuple[dict[tuple[str, int], Tensor], dict[str, Tensor]]]:
        """Hooks for the time of one reading: gates (text) by piece and layer, attention (queries keys) by module."""
        gates: dict[tuple[str, int], Tensor] = {}
        attention: dict[str, Tensor] = {}

        def note_gate(key: tuple[str, int]) -> Any:
            def hook(module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
                gates[key] = module.gate(*args, **kwargs)[0].float().mean(dim=-1).cpu()

            return hook

        def note_attention(key: str) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], _: Any) -> None:
                # `forward`, since a call would come back here.
                attention[key] = module.forward(*args, **{**kwargs, "need_weights": True})[1][0].float().cpu()

            return hook

        with ExitStack() as hooks:
            for place, gate in self._gates().items():
                handle = gate.register_forward_pre_hook(note_gate(place), with_kwargs=True)
                hooks.callback(handle.remove)
            for name, asks in self._attentions().items():
                hooks.callback(asks.register_forward_hook(note_attention(name), with_kwargs=True).remove)
            yield gates, attention

    def _gates(self) -> dict[tuple[str, int], nn.Module]:
        return {
            (name, layer): module
            for name, modules in self.model.injection.pieces.items()
            for layer, module in modules.items()
            if getattr(module, "gated", False)
        }

    def _attentions(self) -> dict[str, nn.MultiheadAttention]:
        """The first of each piece that gives disease tokens."""
        found: dict[str, nn.MultiheadAttention] = {}
        for name, piece in self.model.modules_by_piece.items():
            given = {port.signal for port in self.model.contracts[name].gives}
            if "disease_tokens" in given:
                inner = [module for module in piece.modules() if isinstance(module, nn.MultiheadAttention)]
                if inner:
                    found[name] = inner[0]
        return found

    def _of_gates(self, gates: dict[tuple[str, int], Tensor], report: list[int]) -> list[Gate]:
        if not report:
            return []
        tokens = [self._token(number) for number in report]
        found = []
        for piece in dict.fromkeys(name for name, _ in gates):
            layers = [layer for name, layer in gates if name == piece]
            # A token is written at the place before its own.
            values = np.stack([gates[piece, layer][-len(report) - 1 : -1].numpy() for layer in layers])
            found.append(Gate(piece, layers, tokens, values))
        return found

    def _token(self, number: int) -> str:
        """A token as it reads, with a space before what begins a word."""
        tokenizer: Any = self.prompt.tokenizer
        raw = str(tokenizer.convert_ids_to_tokens(number))
        return " " * raw.startswith(("Ġ", "▁")) + (tokenizer.decode([number]).strip() or raw.lstrip("Ġ▁"))

    def _of_attention(self, found: dict[str, Tensor], patches: int, films: int) -> Attention | None:
        """The first whose keys are patches of square films."""
        merge = self.model.host.merge if self.model.native else 1
        for piece, weights in found.items():
            side = round((patches / films) ** 0.5)
            if weights.shape == (len(OBSERVATIONS), films * side * side):
                return Attention(piece, in_rows(weights.numpy(), films, side, merge))
        return None


def in_rows(weights: np.ndarray, films: int, side: int, merge: int = 1) -> np.ndarray:
    """(observations patches) to (observations films rows columns). merge: side of the blocks of patches that a host's
    own tower keeps together.
    """
    blocks = weights.reshape(-1, films, side // merge, side // merge, merge, merge)
    return blocks.transpose(0, 1, 2, 4, 3, 5).reshape(-1, films, side, side)
