"""Build a host: the language model, its tokenizer, its adapters; with weights, at random, or on the meta device."""

import inspect
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import rrg._torchvision  # noqa: F401  before transformers
from rrg.config import HostConfig, LoRA
from rrg.core_pieces.weights import need_safetensors
from rrg.errors import DataError, RRGError, UsageError
from rrg.model.hosts.adapters import adapt
from rrg.model.hosts.configuration import model_config
from rrg.model.hosts.qwen3_vl import Qwen3VLHost
from rrg.model.hosts.text import TextHost, decoder_of
from rrg.model.hosts.tokens import check_tokenizer

HOSTS: dict[str, type[TextHost]] = {"text": TextHost, "qwen3-vl": Qwen3VLHost}
"""By kind of registry.toml."""
SENTENCEPIECE = ("sentencepiece", "protobuf")  # what reads a tokenizer.model


def build_host(config: HostConfig, lora: LoRA | None, *, weights: bool = True, tokenizer: Any = None) -> TextHost:
    """The host of a recipe.

    lora: adapters to add on all linear layers of attention and feed-forward; None: none.
    weights: False builds the architecture alone, as on the meta device or before a run's own weights are loaded.
    tokenizer: the run's own, for a host that learns its tokenizer from the training reports.

    Raises RRGError where the weights or the tokenizer cannot be read.
    """
    if config.kind not in HOSTS:
        raise UsageError(f"host.kind={config.kind!r}: expected one of {', '.join(HOSTS)}")
    try:
        if weights and config.source:
            model, tokenizer = _read(config, tokenizer)
        else:
            model, tokenizer = _architecture(config), tokenizer or _at_hand(config)
    except RRGError:
        raise
    except Exception as error:  # a model folder that is wrong in any way may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RRGError(
            f"host {config.name}: the model or tokenizer of {config.source or config.name} cannot be built: {reason}; "
            "download the model, or give a whole local folder as --host"
        ) from error
    if config.kind == "text":
        model = _language_model(model)
    decoder = decoder_of(model)
    if decoder is None:
        raise UsageError(
            f"host {config.name}: {type(model).__name__} has no list of decoder layers; give a model of the LLaMA form"
        )
    _refuse_films(config, model, decoder[0])
    notes = check_tokenizer(config, tokenizer, model) if tokenizer is not None else []
    adapter, adapted = adapt(model, decoder[1], config.name, lora) if lora is not None else (None, None)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    host = HOSTS[config.kind](config, model, tokenizer)
    object.__setattr__(host, "adapter", adapter)  # peft's view holds the same modules; it is no child of its own
    host.adapted, host.notes = adapted, notes
    return host


def _read(config: HostConfig, tokenizer: Any) -> tuple[Any, Any]:
    need_safetensors(config.source, _class_of(config).__name__)
    model = _class_of(config).from_pretrained(
        config.source,
        config=model_config(config, config.source),
        trust_remote_code=False,
        use_safetensors=True,
        **_options(config),
    )
    return model, tokenizer or _tokenizer(config.source)


def _at_hand(config: HostConfig) -> Any:
    """The tokenizer of a local folder, which planning looks at too; None for hub ids and bare configurations."""
    folder = Path(config.source)
    return _tokenizer(config.source) if config.source and any(folder.glob("token*")) else None


def _tokenizer(source: str) -> Any:
    """A published tokenizer. Raises RRGError where it is a sentencepiece model alone, and its readers are missing."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        missing = [name for name in SENTENCEPIECE if not _installed(name)]
        if Path(source).is_dir():
            alone = Path(source, "tokenizer.model").is_file() and not Path(source, "tokenizer.json").is_file()
        else:  # a hub id: transformers' own words
            alone = any(name in str(error).lower() for name in SENTENCEPIECE)
        if missing and alone:
            raise RRGError(
                f"{source}: its tokenizer is a sentencepiece model alone (tokenizer.model), which needs "
                f"{' and '.join(missing)}: pip install 'rrg-compose[sentencepiece]'"
            ) from error
        raise


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _architecture(config: HostConfig) -> Any:
    settings = model_config(config, config.name)
    if config.vocab_size:
        settings.vocab_size = config.vocab_size
    return _class_of(config).from_config(settings, trust_remote_code=False, **_options(config))


def _class_of(config: HostConfig) -> Any:
    import transformers

    return getattr(transformers, HOSTS[config.kind].loader)


def _options(config: HostConfig) -> dict[str, Any]:
    # Not named, transformers takes SDPA where a class supports it, else plain attention; a folder's own wish is void.
    return {"dtype": getattr(torch, config.dtype), "attn_implementation": None}


def _language_model(model: Any) -> Any:
    """The language model of a model with towers, such as Gemma 3's, as the causal model that transformers has for it.

    Its modules move over: the towers, which a text host never runs, are left behind.
    """
    from transformers import AutoModelForCausalLM

    text = model.config.get_text_config(decoder=True)
    cls: Any = AutoModelForCausalLM._model_mapping.get(type(text), None)
    decoder = model.get_decoder()
    if text is model.config or cls is None or isinstance(model, cls):
        return model
    with torch.device("meta"):
        alone = cls._from_config(text, attn_implementation=None)
    if type(alone.base_model) is not type(decoder) or alone.base_model is alone:
        return model
    setattr(alone, alone.base_model_prefix, decoder)
    alone.set_output_embeddings(model.get_output_embeddings())
    return alone.train(model.training)


def _refuse_films(config: HostConfig, model: Any, decoder: Any) -> None:
    """A model that reads no films, since they are embeddings without tokens: found here, not in the first batch."""
    reason = ""
    if "inputs_embeds" not in inspect.signature(model.prepare_inputs_for_generation).parameters:
        reason = "of transformers cannot generate from embeddings"
    elif hasattr(decoder, "embed_tokens_per_layer"):  # Gemma 3n, the small ones of Gemma 4
        reason = "reads a token beside each embedding, in every layer"
    if reason:
        raise UsageError(
            f"host {config.name}: {type(model).__name__} {reason}, and films are embeddings; give another --host"
        )


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
