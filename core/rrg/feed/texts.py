"""The training batch, and the texts that training alone shows: report, reference report, key phrases (S2D-Align).

The collator tokenises them for the composition's text encoder; when a report is written they are absent.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from rrg.config import StageConfig
from rrg.data.phrases import key_phrases
from rrg.data.study import Study
from rrg.feed.batch import Item, Prompt, collate, disease_labels


@dataclass(frozen=True)
class Reference:
    """The reference report of one study: whose report it is, and why that one."""

    study: str
    why: str
    report: str


class Texts:
    """Gives a batch the texts that a stage's losses read, as tokens of the text encoder.

    wanted: of `report`, `reference`, `phrase`. references: by study id. Draws depend on the seed, the epoch and the
    study alone, so that a resumed run shows the same.
    """

    def __init__(
        self,
        wanted: Sequence[str],
        tokenize: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
        stage: StageConfig,
        references: dict[str, Reference],
        seed: int,
    ) -> None:
        self.wanted, self.tokenize, self.stage, self.seed = wanted, tokenize, stage, seed
        self.references, self.epoch = references, 0

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        shown = [self.of(item.study) for item in items]
        batch = {}
        for name in self.wanted:
            batch[f"{name}_ids"], batch[f"{name}_mask"] = self.tokenize([texts[name] for texts in shown])
        return batch

    def of(self, study: Study) -> dict[str, str]:
        """A study's texts in this epoch; empty where it has none, or where a joint stage leaves it out."""
        epoch = self.epoch if study.split == "train" else 0
        draw = random.Random(f"{self.seed} {epoch} {study.id}")
        contexts = self.stage.contexts
        kept = contexts[: draw.randint(0, len(contexts))] if self.stage.joint else contexts
        texts = dict.fromkeys(self.wanted, "")
        if "report" in texts:
            texts["report"] = study.findings
        if "reference" in kept and study.id in self.references:
            texts["reference"] = self.references[study.id].report
        if "phrase" in kept:
            phrases = phrases_of(study)
            chosen = sorted(draw.sample(range(len(phrases)), min(self.stage.phrases, len(phrases))))
            texts["phrase"] = ". ".join(phrases[place] for place in chosen)
        return {name: texts[name] for name in self.wanted}


def phrases_of(study: Study) -> list[str]:
    """A study's key phrases: those of its data folder, else by rule from its findings."""
    return key_phrases(study.findings) if study.phrases is None else study.phrases


class Collator:
    """A training batch of studies: films, labels, prompts and reports.

    exemplars: the retrieved report by study id. texts: what training alone shows, as tokens of the text encoder.
    """

    def __init__(self, prompt: Prompt, exemplars: Mapping[str, str] | None = None, texts: Texts | None = None) -> None:
        self.prompt, self.exemplars, self.texts = prompt, exemplars, texts

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        texts = self.texts(items) if self.texts else {}
        labels = {"disease_labels": disease_labels([item.study for item in items])}
        return collate(items) | labels | texts | self.prompt.batch(items, self.exemplars, learn=True)
