"""Core's text encoder: any sentence-transformers or Hugging Face model by hub id or folder, or a small one of its own.

It reads what training alone shows: the study's report, a reference report, key phrases.
"""

import json
import re
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

import rrg._torchvision  # noqa: F401  before transformers
from rrg.axes import Axes
from rrg.config import Folder, PieceConfig
from rrg.core_pieces.weights import need_safetensors, refuse_missing
from rrg.errors import DataError, UsageError
from rrg.masked import masked, masked_mean

# Architectures of the papers' encoders, so that planning asks no hub.
KNOWN = {
    "emilyalsentzer/Bio_ClinicalBERT": {"model_type": "bert", "vocab_size": 28996},
    "microsoft/BiomedVLP-CXR-BERT-specialized": {"model_type": "bert", "vocab_size": 30522},
}
KNOWN_WORDS = "the heart and lungs are normal"
WORD = re.compile(r"\w+|[^\w\s]")


class TextEncoderConfig(PieceConfig):
    model: Annotated[str, Folder] = Field(
        "",
        description="hub id or folder of a sentence-transformers or Hugging Face text encoder, such as "
        "emilyalsentzer/Bio_ClinicalBERT or microsoft/BiomedVLP-CXR-BERT-specialized; empty: a small one over hashed "
        "words, built at random",
    )
    frozen: bool | None = Field(
        None, description="unset: a published encoder stays as it is, one built at random learns"
    )
    tokens: int = Field(256, ge=2, description="longest text in tokens; the rest is cut off")
    width: int = Field(128, ge=8, description="of the small encoder's vectors")
    depth: int = Field(2, ge=1, description="layers of the small encoder")
    words: int = Field(8192, ge=64, description="places that the small encoder hashes words to")


class Encoded(NamedTuple):
    report_tokens: Float[Tensor, "batch report language"] | None
    report_embed: Float[Tensor, "batch language"] | None
    reference_tokens: Float[Tensor, "batch reference language"] | None
    phrase_tokens: Float[Tensor, "batch phrase language"] | None


class TextEncoder(nn.Module):
    """Token vectors of each text that is there, and one vector per report: pooled as the published model pools, else
    the mean of its tokens. What is not there gives nothing.
    """

    def __init__(self, config: TextEncoderConfig, axes: Axes) -> None:
        super().__init__()
        self.published = ("encoder",) if config.model else ()
        self.frozen = bool(config.model) if config.frozen is None else config.frozen
        self.encoder: Any = _published(config) if config.model else HashedWords(config)
        self.language: int = self.encoder.language  # type: ignore[assignment]

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids (batch tokens) and mask (batch tokens), padded right; an empty text has no token."""
        return self.encoder.tokenize(texts)  # type: ignore[no-any-return]

    def forward(
        self,
        report_ids: Int[Tensor, "batch report"] | None = None,
        report_mask: Bool[Tensor, "batch report"] | None = None,
        reference_ids: Int[Tensor, "batch reference"] | None = None,
        reference_mask: Bool[Tensor, "batch reference"] | None = None,
        phrase_ids: Int[Tensor, "batch phrase"] | None = None,
        phrase_mask: Bool[Tensor, "batch phrase"] | None = None,
    ) -> Encoded:
        report, embed = self._read(report_ids, report_mask)
        reference, _ = self._read(reference_ids, reference_mask)
        phrase, _ = self._read(phrase_ids, phrase_mask)
        return Encoded(report, embed, reference, phrase)

    def _read(self, ids: Tensor | None, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if ids is None or mask is None:
            return None, None
        # A text without a token would be a softmax over nothing: its first place is read, and left out again.
        seen = mask.clone()
        seen[:, 0] = True
        tokens, embed = self.encoder(ids, seen)
        empty = ~mask.any(dim=1, keepdim=True)
        return masked(tokens, mask), embed.masked_fill(empty, 0.0)


class HashedWords(nn.Module):
    """A small transformer over words that are hashed to places (Weinberger et al. 2009): it needs no vocabulary."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.words, self.length, self.language = config.words, config.tokens, config.width
        self.embed = nn.Embedding(config.words, config.width)
        self.places = nn.Embedding(config.tokens, config.width)
        layer = nn.TransformerEncoderLayer(
            config.width, 4, 4 * config.width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.depth, nn.LayerNorm(config.width), enable_nested_tensor=False)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = [WORD.findall(text.lower())[: self.length] for text in texts]
        return padded([[zlib.crc32(word.encode()) % self.words for word in words] for words in found])

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        places = self.places(torch.arange(ids.shape[1], device=ids.device))
        tokens = self.layers(self.embed(ids) + places, src_key_padding_mask=~mask)
        return tokens, masked_mean(tokens, mask)


class Published(nn.Module):
    """A model of sentence-transformers up to its pooling; what it puts behind, such as a projection, is left out."""

    def __init__(self, model: Any, length: int) -> None:
        super().__init__()
        self.transformer, self.pooling = model[0].float(), model[1].float()
        self.tokenizer = model.tokenizer
        self.language = int(self.transformer.get_embedding_dimension())
        if self.language != self.pooling.get_embedding_dimension():
            raise ValueError("its pooling joins several vectors; give a model that pools to its own width")
        self.length = min(length, model.get_max_seq_length() or length)
        if set(self.tokenizer(KNOWN_WORDS)["input_ids"]) <= {*self.tokenizer.all_special_ids}:
            raise ValueError("its tokenizer knows no plain word; are the tokenizer's files missing?")

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = self.tokenizer(list(texts), truncation=True, max_length=self.length)["input_ids"]
        return padded([ids if text.strip() else [] for ids, text in zip(found, texts, strict=True)])

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        found = self.pooling(self.transformer({"input_ids": ids, "attention_mask": mask.long()}))
        return found["token_embeddings"], found["sentence_embedding"]


class Planned(nn.Module):
    """A published encoder's architecture alone, for planning on the meta device: no weights are read."""

    def __init__(self, name: str) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        if name in KNOWN:
            config = AutoConfig.for_model(**KNOWN[name])
        else:
            config = AutoConfig.from_pretrained(_transformer_of(name), trust_remote_code=False)
        self.model: Any = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
        self.language = int(self.model.config.hidden_size)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = ids.new_empty(*ids.shape, self.language, dtype=torch.float32)
        return tokens, masked_mean(tokens, mask)


def _published(config: TextEncoderConfig) -> nn.Module:
    try:
        _register_cxr_bert()
        if torch.get_default_device().type == "meta":
            return Planned(config.model)
        if config.model.startswith(("/", ".", "~")) and not Path(config.model).is_dir():
            raise ValueError("no such folder")
        from transformers import AutoModel

        name = _transformer_of(config.model)
        need_safetensors(name, "AutoModel")
        refuse_missing(
            AutoModel.from_pretrained(name, trust_remote_code=False, use_safetensors=True, output_loading_info=True)[1]
        )
        from sentence_transformers import SentenceTransformer

        options = {"use_safetensors": True}
        model = SentenceTransformer(config.model, device="cpu", trust_remote_code=False, model_kwargs=options)
        return Published(model, config.tokens)
    except DataError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"core.text.model={config.model}: {reason}; expected a hub id or folder of a sentence-transformers or "
            "Hugging Face text encoder, or nothing for the small one"
        ) from error


def _transformer_of(name: str) -> str:
    """Where the transformer of a sentence-transformers folder lies; other folders and hub ids as they are."""
    listed = Path(name) / "modules.json"
    if not listed.is_file():
        return name
    modules = json.loads(listed.read_text(encoding="utf-8"))
    # A class of any other package would be imported and called.
    if foreign := [module["type"] for module in modules if not module["type"].startswith("sentence_transformers.")]:
        raise ValueError(f"modules.json names {foreign[0]}, which is not of sentence_transformers and is not run")
    return str(Path(name) / modules[0]["path"])


@cache
def _register_cxr_bert() -> None:
    """CXR-BERT is a BERT under a model type of its own, which transformers would ask its repository's code for."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

    class CXRBertConfig(BertConfig):
        model_type = "cxr-bert"

    class CXRBertModel(BertModel):
        config_class = CXRBertConfig

    AutoConfig.register("cxr-bert", CXRBertConfig)
    AutoModel.register(CXRBertConfig, CXRBertModel)
    AutoTokenizer.register(CXRBertConfig, BertTokenizer)


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """ids (batch tokens), 0 behind each row's end, and where there are any (batch tokens)."""
    width = max([1, *map(len, rows)])
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return ids, torch.tensor([[place < len(row) for place in range(width)] for row in rows])
