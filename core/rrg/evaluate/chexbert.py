"""CheXbert (Smit et al., EMNLP 2020) from the user's own checkpoint file.

The published checkpoint is `{"model_state_dict": {"module.bert.…", "module.linear_heads.i.weight", ….bias}}`: a BERT
and 14 heads on its first token, 13 of 4 classes (0 blank, 1 positive, 2 negative, 3 uncertain) and the last, No
Finding, of 2. The shape of the BERT is read from the tensors, so nothing but the tokenizer is looked up.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import rrg._torchvision  # noqa: F401  before transformers
from rrg.errors import DataError, UsageError
from rrg.observations import OBSERVATIONS

# isort: split
from transformers import AutoTokenizer, BertConfig, BertModel

NAME = "chexbert"
TOKENIZER = "bert-base-uncased"
LONGEST = 512
_HEAD = 64
"""Width of an attention head, the same in every released BERT; a state dict does not tell it."""
_CLASSES = (4,) * 13 + (2,)
_LABELS = np.array([np.nan, 1, 0, -1], np.float32)
"""By class id."""


class CheXbert(nn.Module):
    """A labeler as `rrg.labels.Labeler`."""

    name = NAME

    def __init__(
        self, checkpoint: Path, tokenizer: str | Path = TOKENIZER, device: str | None = None, batch_size: int = 32
    ) -> None:
        """tokenizer: a folder, or a hub id. device: a GPU where there is one, else the CPU.

        Raises DataError where the file is no CheXbert checkpoint or holds more than tensors, UsageError where the
        tokenizer cannot be had or is not the checkpoint's.
        """
        super().__init__()
        state = _read(checkpoint)
        self.bert = BertModel(_config(state, checkpoint), add_pooling_layer=False)
        self.linear_heads = nn.ModuleList(nn.Linear(self.bert.config.hidden_size, n) for n in _CLASSES)
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(f"{checkpoint}: {_NO_CHEXBERT}", str(error).splitlines()[1:4]) from None
        self._tokenizer = _tokenizer(tokenizer, self.bert.config.vocab_size)
        self._batch_size = batch_size
        self.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, reports: Sequence[str]) -> np.ndarray:
        """(reports, 14) float32 in {1, 0, -1, nan}; columns in the order of OBSERVATIONS.

        White space becomes single spaces; a report keeps its first 510 tokens, as in the published code.
        """
        labels = np.full((len(reports), len(OBSERVATIONS)), np.nan, np.float32)
        texts = [" ".join(report.split()) for report in reports]
        # Reports of like length share a batch, so little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        starts = range(0, len(order), self._batch_size)
        for start in tqdm(starts, desc="CheXbert", unit="batch", leave=False, disable=None):
            places = order[start : start + self._batch_size]
            batch = self._tokenizer(
                [texts[i] for i in places], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
            ).to(self.bert.device)
            first = self.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0][:, 0]
            classes = torch.stack([head(first).argmax(-1) for head in self.linear_heads], 1)
            labels[places] = _LABELS[classes.cpu().numpy()]
        return labels


_NO_CHEXBERT = "no CheXbert checkpoint: expected a BERT and 14 linear heads under model_state_dict"


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, without the wrapper's `module.` and what this model has no place for."""
    try:
        with warnings.catch_warnings():  # of pickle's version
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such checkpoint") from None
    except UnpicklingError:
        raise DataError(
            f"{path}: is damaged, or holds more than tensors and so is not opened, since unpickling runs code; "
            "save its model_state_dict alone"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise DataError(f"{path}: cannot be read as a checkpoint that torch.save wrote ({reason})") from None
    state = content.get("model_state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path}: {_NO_CHEXBERT}")
    names = {re.sub(r"^module\.", "", name): value for name, value in state.items()}
    unused = ("bert.pooler.", "bert.embeddings.position_ids")
    return {name: value for name, value in names.items() if not name.startswith(unused)}


def _config(state: Mapping[str, Tensor], path: Path) -> BertConfig:
    try:
        vocabulary, width = state["bert.embeddings.word_embeddings.weight"].shape
        positions, _ = state["bert.embeddings.position_embeddings.weight"].shape
        inner, _ = state["bert.encoder.layer.0.intermediate.dense.weight"].shape
    except (KeyError, ValueError):
        raise DataError(f"{path}: {_NO_CHEXBERT}") from None
    if positions < LONGEST or width % _HEAD:
        raise DataError(f"{path}: {_NO_CHEXBERT}; found {positions} positions and a width of {width}")
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=_layers(state),
        num_attention_heads=width // _HEAD,
        intermediate_size=inner,
        max_position_embeddings=positions,
    )


def _layers(names: Iterable[str]) -> int:
    found = (re.match(r"bert\.encoder\.layer\.(\d+)\.", name) for name in names)
    return 1 + max(int(match[1]) for match in found if match)


def _tokenizer(name: str | Path, vocabulary: int) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"tokenizer {str(name)!r} cannot be had: {str(error).splitlines()[0]}; give a folder that holds "
            f"{TOKENIZER}'s vocab.txt or tokenizer.json with --tokenizer DIR"
        ) from None
    if len(tokenizer) != vocabulary:
        raise UsageError(f"tokenizer {str(name)!r} has {len(tokenizer)} tokens, but the checkpoint {vocabulary}")
    return tokenizer
