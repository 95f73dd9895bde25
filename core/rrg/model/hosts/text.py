"""A text language model as host: it reads [prompt before | visual prefix | prompt after, report] as embeddings."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.config import GenerationConfig, HostConfig
from rrg.errors import UsageError
from rrg.model.hosts.adapters import Adapted
from rrg.model.hosts.lengths import lengths_of


class TextHost(nn.Module):
    """An unmodified causal language model of transformers and what the composition needs to know of it."""

    loader = "AutoModelForCausalLM"  # the class of transformers that reads it
    tower: nn.Module | None = None  # a vision tower of its own; a text model's prefix comes from the composition
    vision = 0  # width of the tower's patch tokens
    image_token = ""  # what stands in the prompt for one position of a film
    merge = 1  # side of the blocks in which the tower keeps its patches together

    def __init__(self, config: HostConfig, model: Any, tokenizer: Any) -> None:
        from transformers import GenerationConfig as Decoding

        super().__init__()
        self.config, self.model, self.tokenizer = config, model, tokenizer
        model.generation_config = Decoding()  # the recipe decides: a published one may bring sampling and penalties
        self.adapter: Any = None  # peft's view of the same model, where adapters train
        self.adapted: Adapted | None = None
        self.notes: list[str] = []  # what a user should know of it

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder[1]

    @cached_property
    def decoder(self) -> tuple[Any, nn.ModuleList]:
        return cast(tuple[Any, nn.ModuleList], decoder_of(self.model))

    @property
    def pad(self) -> int:
        """What fills a row: padding is masked, so the end token does where the tokenizer has no pad token, or one that
        the model has no embedding for.
        """
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None and pad < self.vocabulary else self.tokenizer.eos_token_id)

    @property
    def vocabulary(self) -> int:
        """Tokens that the model has embeddings for."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def width(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    def language_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The language model's own parameters, injected modules and vision tower apart."""
        return [(n, p) for n, p in self.model.named_parameters() if ".rrg." not in n]

    # What a host with a vision tower of its own does besides.

    def tower_parameters(self, connector: bool) -> list[tuple[str, nn.Parameter]]:
        """Parameters of the tower, or of the connector behind it, by their names in `model`."""
        return []

    def tokens_of_film(self, size: int) -> int:
        """Positions that one film of `size` pixels takes in the prompt."""
        return 0

    def tower_flops(self, size: int) -> int:
        """About the FLOPs in which the tower and its connector see one film of `size` pixels."""
        return 0

    def see(self, pixel_values: Tensor, view_mask: Tensor) -> dict[str, Any]:
        """Run the tower: its signals by name, such as patch_tokens (batch patches vision)."""
        return {}

    def assemble_native(self, batch: dict[str, Tensor], seen: Any, size: int) -> dict[str, Any]:
        """Arguments of the model where its own tower and connector feed it. seen: `visual_embeds` of `see`."""
        raise UsageError(f"visual_embeds=host: {self.config.name} has no vision tower; name a connector's piece")

    def assemble(self, batch: dict[str, Tensor], visual_embeds: Tensor, visual_mask: Tensor) -> dict[str, Any]:
        """Arguments of the language model for a batch.

        batch: before_ids (tokens), input_ids and attention_mask (batch text), labels where learning.
        visual_embeds: (batch slots host), zeros or anything finite where visual_mask (batch slots) is false.
        """
        embed = self.model.get_input_embeddings()
        rows = visual_embeds.shape[0]
        before = embed(batch["before_ids"]).expand(rows, -1, -1)
        embeds = torch.cat([before, visual_embeds.to(before.dtype), embed(batch["input_ids"])], dim=1)
        ones = torch.ones(before.shape[:2], dtype=torch.long, device=embeds.device)
        mask = torch.cat([ones, visual_mask.long(), batch["attention_mask"]], dim=1)
        # Labels lie over the end of the text, so what stands there keeps its place.
        embeds, mask = gaps_first(embeds, mask, fixed=batch["labels"].shape[1] if "labels" in batch else 0)
        return {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions(mask)}

    def loss(self, inputs: dict[str, Any], labels: Tensor, smoothing: float) -> Tensor:
        """Mean cross-entropy of the next token (LEAD eq. 3). labels: (batch text), -100 where not scored."""
        keep = min(labels.shape[1] + 1, inputs["attention_mask"].shape[1])
        # Some families leave logits_to_keep unread, and give all.
        logits = self.model(**inputs, use_cache=False, logits_to_keep=keep).logits[:, -keep:-1]
        labels = labels[:, labels.shape[1] - logits.shape[1] :]
        return F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, label_smoothing=smoothing
        )

    @torch.inference_mode()
    def generate(
        self,
        inputs: dict[str, Any],
        settings: GenerationConfig,
        keys: Sequence[str] | None = None,
        num_return_sequences: int = 1,
        **options: Any,
    ) -> list[str]:
        """Reports, `num_return_sequences` per study, one study's together, without special tokens.

        keys: a name for each study, which what is drawn for it depends on; its place in the batch where absent.
        options: further ones of transformers' GenerationConfig.

        Raises UsageError where the host has a table of fewer positions than the prompt and `max_new_tokens` need.
        """
        studies, length = inputs["inputs_embeds" if "inputs_embeds" in inputs else "input_ids"].shape[:2]
        limits, parts = (
            lengths_of(self.model, self.decoder[0]),
            f"prompt {length} + max_new_tokens {settings.max_new_tokens}",
        )
        if limits.table:
            limits.check(self.config.name, length + settings.max_new_tokens, parts)
        if not settings.do_sample:
            return self._written(inputs, settings, num_return_sequences=num_return_sequences, **options)
        names = list(keys) if keys is not None else [str(row) for row in range(studies)]
        runs = []
        for number in range(num_return_sequences):
            draws = [drawing(settings, name, number) for name in names]
            runs.append(self._written(inputs, settings, draws=draws, **options))
        return [text for texts in zip(*runs, strict=True) for text in texts]

    def _written(
        self,
        inputs: dict[str, Any],
        settings: GenerationConfig,
        draws: Sequence[torch.Generator] | None = None,
        **options: Any,
    ) -> list[str]:
        from transformers import GenerationConfig as Decoding

        end = self.tokenizer.eos_token_id
        decoding = Decoding(
            max_new_tokens=settings.max_new_tokens,
            num_beams=settings.beams,
            length_penalty=settings.length_penalty,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=self.pad,
            **options,
        )
        drawn = {"logits_processor": drawn_by(settings, draws)} if draws else {}
        ids = self.model.generate(**inputs, generation_config=decoding, **drawn)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def drawing(settings: GenerationConfig, study: str, number: int) -> torch.Generator:
    """The chance by which one study's `number`-th report is drawn: of the seed and the study, not of the batch."""
    digest = hashlib.sha256(json.dumps([settings.seed or 0, study, number]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def drawn_by(settings: GenerationConfig, draws: Sequence[torch.Generator]) -> list[Any]:
    """Logits processors under which the likeliest token is a drawn one.

    The largest of log p + Gumbel noise is distributed as p (Gumbel 1954), so each row is drawn by its own generator;
    transformers' sampling draws all rows by one.
    """
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    found: list[Any] = []
    if settings.temperature is not None:
        found.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k is not None:
        found.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p is not None:
        found.append(TopPLogitsWarper(settings.top_p))

    def noisy(ids: Tensor, scores: Tensor) -> Tensor:
        waits = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=draw) for draw in draws])
        return scores.float() - waits.log().to(scores.device)

    return [*found, noisy]


def decoder_of(model: Any) -> tuple[nn.Module, nn.ModuleList] | None:
    """The module that turns embeddings to hidden states, and its decoder layers, whatever their name (`layers`, GPT-2's
    `h`): it holds the words' embeddings and one list of modules. None where there is no such one.
    """
    words = model.get_input_embeddings()
    for module in model.modules():
        children = list(module.children())
        if any(child is words for child in children):
            lists = [child for child in children if isinstance(child, nn.ModuleList) and len(child)]
            named = getattr(module, "layers", lists[0] if len(lists) == 1 else None)
            return (module, named) if isinstance(named, nn.ModuleList) else None
    return None


def gaps_first(embeds: Tensor, mask: Tensor, fixed: int) -> tuple[Tensor, Tensor]:
    """Move each row's gaps (slots of absent films, padding of prompts) to its front, but for the last `fixed` places.

    The next token is predicted at the place just before it, so neither a report nor generation may begin behind a gap.
    embeds: (batch text host). mask: (batch text).
    """
    stays = torch.arange(mask.shape[1], device=mask.device) >= mask.shape[1] - fixed
    order = torch.argsort((mask.bool() | stays).int(), dim=1, stable=True)
    return embeds.gather(1, order.unsqueeze(-1).expand_as(embeds)), mask.gather(1, order)


def positions(mask: Tensor) -> Tensor:
    """Position of every token, counted over what the mask keeps; the same in training and in generation."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)
