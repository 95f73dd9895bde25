"""Build a host: the language model, its tokenizer, its adapters; with weights, at random, or on the meta device."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rrg._torchvision  # noqa: F401  before transformers
from rrg.config import HostConfig, LoRA
from rrg.errors import DataError, RRGError, UsageError
from rrg.files import need_safetensors
from rrg.hosts.configuration import model_config
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
    try:
        model, tokenizer = _read(config, tokenizer) if weights and config.source else (_architecture(config), tokenizer)
    except RRGError:
        raise
    except Exception as error:  # a model folder that is wrong in any way may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RRGError(
            f"host {config.name}: the model or tokenizer of {config.source or config.name} cannot be built: {reason}; "
            "download the model, or give a whole local folder as --host"
        ) from error
    if not isinstance(getattr(model.get_decoder(), "layers", None), nn.ModuleList):
        raise UsageError(
            f"host {config.name}: {type(model).__name__} has no list of decoder layers; give a model of the LLaMA form"
        )
    adapter = _adapt(model, config, lora) if lora is not None else None
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    host = (Qwen3VLHost if config.kind == "qwen3-vl" else TextHost)(config, model, tokenizer)
    object.__setattr__(host, "adapter", adapter)  # peft's view holds the same modules; it is no child of its own
    return host


def _read(config: HostConfig, tokenizer: Any) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    need_safetensors(config.source, _class_of(config).__name__)
    model = _class_of(config).from_pretrained(
        config.source,
        config=model_config(config, config.source),
        trust_remote_code=False,
        use_safetensors=True,
        **_options(config),
    )
    return model, tokenizer or AutoTokenizer.from_pretrained(config.source, trust_remote_code=False)


def _architecture(config: HostConfig) -> Any:
    settings = model_config(config, config.name)
    if config.vocab_size:
        settings.vocab_size = config.vocab_size
    return _class_of(config).from_config(settings, trust_remote_code=False, **_options(config))


def _class_of(config: HostConfig) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if config.kind == "qwen3-vl" else AutoModelForCausalLM


def _options(config: HostConfig) -> dict[str, Any]:
    return {"dtype": getattr(torch, config.dtype), "attn_implementation": "sdpa"}


def _adapt(model: Any, config: HostConfig, lora: LoRA) -> Any:
    """Add LoRA to the decoder layers' linear modules in place; what comes back saves and loads peft's folder."""
    from peft import LoraConfig, get_peft_model

    found = {n.rpartition(".")[2] for n, m in model.get_decoder().named_modules() if isinstance(m, nn.Linear)}
    targets = sorted(found & set(LINEAR))
    if not targets:
        raise UsageError(
            f"host {config.name}: LoRA finds no linear layer of attention or feed-forward; it has {sorted(found)}"
        )
    where = r".*language_model.*\." if config.kind == "qwen3-vl" else r".*\."  # not the vision tower's layers
    settings = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=f"{where}({'|'.join(targets)})"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")  # peft asks transformers for it
        return get_peft_model(model, settings)


def learn_tokenizer(reports: list[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer learnt from the training reports: frequent words are one token, nothing is unknown."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(
        reports, vocab_size=vocab_size, min_frequency=2, special_tokens=special, show_progress=False
    )
    learner._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=learner._tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def open_tokenizer(folder: Path) -> Any:
    """A run's own tokenizer. Raises DataError where the folder holds none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder}: no tokenizer that can be read: {reason}") from error
