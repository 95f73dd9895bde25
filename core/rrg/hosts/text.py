"""A text language model as host: it reads [prompt before | visual prefix | prompt after, report] as embeddings."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.config import GenerationConfig, HostConfig


class TextHost(nn.Module):
    """An unmodified causal language model of transformers and what the composition needs to know of it."""

    film_tokens = 0  # image tokens that one film takes in the prompt; a text model's prefix is made of embeddings

    def __init__(self, config: HostConfig, model: Any, tokenizer: Any) -> None:
        from transformers import GenerationConfig as Decoding

        super().__init__()
        self.config, self.model, self.tokenizer = config, model, tokenizer
        model.generation_config = Decoding()  # the recipe decides: a published one may bring sampling and penalties
        self.adapter: Any = None  # peft's view of the same model, where adapters train

    @property
    def layers(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.model.get_decoder().layers)

    @property
    def width(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    def language_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The language model's own parameters, injected modules and vision tower apart."""
        return [(n, p) for n, p in self.model.named_parameters() if ".rrg." not in n]

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
        logits = self.model(**inputs, use_cache=False, logits_to_keep=keep).logits[:, :-1]
        labels = labels[:, labels.shape[1] - logits.shape[1] :]
        return F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, label_smoothing=smoothing
        )

    @torch.inference_mode()
    def generate(self, inputs: dict[str, Any], settings: GenerationConfig, **options: Any) -> list[str]:
        """Reports, one per study (times `num_return_sequences` where given), without special tokens."""
        from transformers import GenerationConfig as Decoding

        end = self.tokenizer.eos_token_id
        decoding = Decoding(
            max_new_tokens=settings.max_new_tokens,
            num_beams=settings.beams,
            length_penalty=settings.length_penalty,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else end,
            **options,
        )
        ids = self.model.generate(**inputs, generation_config=decoding)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


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
