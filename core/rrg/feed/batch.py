"""From studies to batches: films decoded, prompts filled in, reports as labels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rrg.composing.recipe import Recipe
from rrg.data.films import read_pixels, unit
from rrg.data.study import Study, StudyFolder
from rrg.errors import UsageError
from rrg.model.hosts.text import TextHost
from rrg.observations import OBSERVATIONS


@dataclass(frozen=True)
class Item:
    """One study with its films (views height width), uint8 or float32 in [0, 1]."""

    study: Study
    films: np.ndarray


class Studies(Dataset):
    """Studies of one split, their films decoded when asked for.

    lengths: characters of each study's findings. The studies themselves lie as JSON in one block of bytes, which forked
    workers share. Of objects each would come to hold its own copy, since reading one writes its reference count: 350
    MiB a worker for 300,000 studies.
    """

    def __init__(self, folder: StudyFolder, studies: Sequence[Study], recipe: Recipe) -> None:
        self.path, self.image = folder.path, recipe.image
        self.lengths = [len(study.findings) for study in studies]
        self._json, ends = bytearray(), [0]
        for study in studies:
            self._json += json.dumps(study.model_dump()).encode()  # as it is, not as a data folder has it
            ends.append(len(self._json))
        self._ends = np.array(ends)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Item:
        """Raises DataError for a film that cannot be read."""
        study = Study.model_construct(**json.loads(self._json[self._ends[index] : self._ends[index + 1]]))
        films = [read_pixels(self.path / name, self.image.size) for name in study.file_names[: self.image.views]]
        return Item(study, stack(films))


def stack(films: Sequence[np.ndarray]) -> np.ndarray:
    """Films of one size as (views height width): uint8 where all are, else float32 in [0, 1]."""
    narrow = all(film.dtype == np.uint8 for film in films)
    return np.stack(films if narrow else [unit(film) for film in films])


def collate(items: Sequence[Item]) -> dict[str, Tensor]:
    """pixel_values (batch views channels height width) and view_mask (batch views): all that writing a report may see.

    pixel_values are uint8 where all films are, so that workers hand over a quarter of the bytes;
    `rrg.feed.stream.to_device` makes them floats.
    """
    views, size = max(len(item.films) for item in items), items[0].films.shape[-1]
    narrow = all(item.films.dtype == np.uint8 for item in items)
    pixels = torch.zeros(len(items), views, 1, size, size, dtype=torch.uint8 if narrow else torch.float32)
    mask = torch.zeros(len(items), views, dtype=torch.bool)
    for row, item in enumerate(items):
        pixels[row, : len(item.films), 0] = torch.from_numpy(item.films if narrow else unit(item.films))
        mask[row, : len(item.films)] = True
    return {"pixel_values": pixels, "view_mask": mask}


def disease_labels(studies: Sequence[Study]) -> Tensor:
    """(batch diseases) 1, 0, -1 uncertain, nan not mentioned."""
    rows = [[study.labels.get(name) for name in OBSERVATIONS] for study in studies]
    return torch.tensor([[float("nan") if value is None else float(value) for value in row] for row in rows])


class Prompt:
    """The recipe's prompt and the reports, in tokens of the host."""

    def __init__(self, recipe: Recipe, host: TextHost) -> None:
        # Not the host itself: workers that are not forked get this by pickle.
        self.recipe, self.tokenizer = recipe, host.tokenizer
        self.vocabulary, self.pad = host.vocabulary, host.pad
        self.before, _, self.after = recipe.host.prompt.partition("{visual}")
        self.film = ""
        if recipe.visual_embeds == "host" and host.tower is not None:
            slots = host.tokens_of_film(recipe.image.size)
            self.film = recipe.host.film.replace("{film}", host.image_token * slots)
            self._check_film(host.image_token, slots)

    def _check_film(self, image: str, slots: int) -> None:
        """Raises UsageError where the prompt holds the model's image token itself, or ends in a film: the first word of
        a report takes its place from the last token, and an image's tokens have places of two dimensions.
        """
        number = self.tokenizer.convert_tokens_to_ids(image)
        _, ids = self.ids(1, None)
        if ids.count(number) != slots:
            raise UsageError(
                f"host.prompt={self.recipe.host.prompt!r} with host.film={self.recipe.host.film!r}: {slots} of the "
                f"model's {image} stand for a film, found {ids.count(number)}; write {{visual}} and {{film}} alone"
            )
        if ids[-1] == number:
            raise UsageError(
                f"host.prompt={self.recipe.host.prompt!r} ends in a film's tokens, from which a report cannot go on; "
                "end it in text, such as a line break, or host.film in the model's end of a film"
            )

    def ids(self, films: int, exemplar: str | None) -> tuple[list[int], list[int]]:
        """Tokens before and after the visual prefix; for a host's own tower everything stands in the second part."""
        shown = ""
        if exemplar is not None:
            tokens = self._tokens(exemplar)[: self.recipe.text.exemplar]
            # A report may hold the text of a control token, such as an image's: it must not become one.
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            shown = self.recipe.host.exemplar.replace("{exemplar}", text)
        after = self.after.replace("{exemplar}", shown)
        if self.film:
            return [], self._start(self.before + self.film * films + after)
        return self._start(self.before), self._tokens(after)

    def _start(self, text: str) -> list[int]:
        ids = self._tokens(text, add_special_tokens=True)
        end = self.tokenizer.eos_token_id
        return ids[:-1] if ids and ids[-1] == end and end != self.tokenizer.bos_token_id else ids

    def _tokens(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Less the control tokens that a tokenizer knows and its model doesn't, which a report may hold as text."""
        ids = self.tokenizer(text, add_special_tokens=add_special_tokens).input_ids
        return [number for number in ids if number < self.vocabulary]

    def report(self, text: str) -> list[int]:
        ids = self._tokens(text)[: self.recipe.text.report]
        return [*ids, self.tokenizer.eos_token_id]

    def batch(self, items: Sequence[Item], exemplars: Mapping[str, str] | None, *, learn: bool) -> dict[str, Tensor]:
        """before_ids (tokens), input_ids and attention_mask (batch text), and labels (batch text) where learning.

        exemplars: report text by study id. learn: the report follows the prompt, padded right; else the prompt alone,
        padded left.
        """
        before: list[int] = []
        rows, labels = [], []
        for item in items:
            before, after = self.ids(len(item.films), (exemplars or {}).get(item.study.id))
            report = self.report(item.study.findings) if learn else []
            rows.append(after + report)
            labels.append([-100] * len(after) + report)
        batch = {
            "before_ids": torch.tensor(before, dtype=torch.long),
            "input_ids": _padded(rows, self.pad, right=learn),
            "attention_mask": _padded([[1] * len(row) for row in rows], 0, right=learn),
        }
        return batch | {"labels": _padded(labels, -100, right=True)} if learn else batch


def _padded(rows: Sequence[list[int]], value: int, *, right: bool) -> Tensor:
    width = max(map(len, rows))
    fills = [[value] * (width - len(row)) for row in rows]
    whole = [row + fill if right else fill + row for row, fill in zip(rows, fills, strict=True)]
    return torch.tensor(whole, dtype=torch.long)
