"""Build a host: the language model, its tokenizer, its adapters; with weights, at random, or on the meta device."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

import rrg._torchvision  # noqa: F401  before transformers
from rrg.config import HostConfig, LoRA
from rrg.errors import RRGError, UsageError
from rrg.hosts.names import read_config
from rrg.hosts.qwen3_vl import Qwen3VLHost
from rrg.hosts.text import TextHost

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj"]


def build_host(config: HostConfig, lora: LoRA | None, *, weights: bool = True, tokenizer: Any = None) -> TextHost:
    """The host of a recipe.

    lora: adapters to add on all linear layers of attention and feed-forward; None: none.
    weights: False builds the architecture alone, as on the meta device or before a run's own weights are loaded.
    tokenizer: the run's own, for a host that learns its tokenizer from the training reports.

    Raises RRGError where the weights or the tokenizer cannot be read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen3VLForConditionalGeneration

    native = config.kind == "qwen3-vl"
    builder = Qwen3VLForConditionalGeneration if native else AutoModelForCausalLM
    options = {"dtype": getattr(torch, config.dtype), "attn_implementation": "sdpa"}
    if weights and config.source:
        try:
            model = builder.from_pretrained(config.source, config=None, **config.config, **options)
            tokenizer = AutoTokenizer.from_pretrained(config.source)
        except (OSError, ValueError) as error:
            raise RRGError(
                f"host {config.name}: weights or tokenizer of {config.source} cannot be read: {str(error).splitlines()[0]}; "
                "download the model, or give its local folder as --host"
            ) from error
    else:
        content = {**read_config(config.name), **config.config}
        if config.vocab_size:
            content["vocab_size"] = config.vocab_size
        kind = content.pop("model_type")
        architecture = AutoConfig.for_model(kind, **content)
        model = builder._from_config(architecture, **options) if native else builder.from_config(architecture, **options)
    adapter = _adapt(model, config, lora) if lora is not None else None
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    host = (Qwen3VLHost if native else TextHost)(config, model, tokenizer)
    object.__setattr__(host, "adapter", adapter)  # peft's view holds the same modules; it is no child of its own
    return host


def _adapt(model: nn.Module, config: HostConfig, lora: LoRA) -> Any:
    """Add LoRA to the decoder layers' linear modules in place; what comes back saves and loads peft's adapter folder."""
    from peft import LoraConfig, get_peft_model

    found = {n.rpartition(".")[2] for n, m in model.get_decoder().named_modules() if isinstance(m, nn.Linear)}
    targets = sorted(found & set(LINEAR))
    if not targets:
        raise UsageError(f"host {config.name}: LoRA finds no linear layer of attention or feed-forward; has {sorted(found)}")
    where = r".*language_model.*\." if config.kind == "qwen3-vl" else r".*\."  # not the vision tower's layers
    settings = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=f"{where}({'|'.join(targets)})"
    )
    return get_peft_model(model, settings)


def learn_tokenizer(reports: list[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer learnt from the training reports: frequent words are one token, nothing is unknown."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(reports, vocab_size=vocab_size, min_frequency=2, special_tokens=special, show_progress=False)
    learner._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=learner._tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def open_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
