"""Small random hosts and studies for every test that runs a model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rrg._torchvision  # noqa: F401  before transformers
from rrg.batch import Item, Prompt, collate
from rrg.composition import compose
from rrg.data.study import Study
from rrg.hosts.build import learn_tokenizer
from rrg.model import RRGModel, build
from rrg.observations import OBSERVATIONS

pytest_plugins = ["tiny_runs"]  # fixtures of whole runs
collect_ignore = ["stranger"]  # its own tests need it installed; test_new.py runs them

SENTENCES = [
    "The heart is normal in size and the lungs are clear.",
    "There is a small left pleural effusion with adjacent atelectasis.",
    "No pneumothorax. Mild cardiomegaly without edema.",
]
IMAGE, VISION_START, VISION_END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
HOSTS = ("llama", "phi3", "qwen3", "qwen3-vl")
TEXT = {
    "vocab_size": 320,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Settings under which a composition on the registry's `tiny` host builds in milliseconds.
SMALL = {
    "host.config": {k: TEXT[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    | {"num_attention_heads": 3, "num_key_value_heads": 3, "attention_dropout": 0.0},
    "host.vocab_size": 320,
    "image.size": 32,
    "image.augment": 0.0,
    "core.encoder.model": "resnet10t",
    "core.encoder.options": {"channels": [8, 8, 16, 16], "stem_width": 4},
    "core.encoder.dropout": 0.0,
    "core.connector.dropout": 0.0,
    "text.report": 12,
    "generation.max_new_tokens": 6,
}
SMALL_LEAD = {"lead.experts.hidden": 10, "lead.experts.feature": 6, "lead.gate.width": 8, "lead.gate.bias": -1.0}


def tiny_model(kind: str, seed: int = 0) -> Any:
    """A random model of three layers, in evaluation mode."""
    import transformers as t

    torch.manual_seed(seed)
    if kind == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**TEXT, num_key_value_heads=3, initializer_range=0.3)).eval()
    if kind == "phi3":
        return t.Phi3ForCausalLM(t.Phi3Config(**TEXT, num_key_value_heads=3, initializer_range=0.3)).eval()
    text = {**TEXT, "num_key_value_heads": 1, "head_dim": 8, "initializer_range": 0.3}
    if kind == "qwen3":
        return t.Qwen3ForCausalLM(t.Qwen3Config(**text)).eval()
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    vision = {
        "depth": 3,
        "hidden_size": 12,
        "intermediate_size": 16,
        "num_heads": 1,
        "out_hidden_size": 24,
        "patch_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": 0.3,
    }
    config = t.Qwen3VLConfig(
        text_config={**text, "vocab_size": 400, "rope_parameters": rope},
        vision_config=vision,
        vision_start_token_id=390,
        vision_end_token_id=391,
        image_token_id=392,
        video_token_id=393,
        initializer_range=0.3,
    )
    return t.Qwen3VLForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return learn_tokenizer(SENTENCES * 3, 320)


@pytest.fixture(scope="session")
def qwen3_vl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Qwen3-VL and its tokenizer, as the hub would give it."""
    folder = tmp_path_factory.mktemp("qwen3-vl")
    model, tokenizer = tiny_model("qwen3-vl"), learn_tokenizer(SENTENCES * 3, 320)
    fill = [f"<|unused{i}|>" for i in range(390 - len(tokenizer))]
    tokenizer.add_tokens([*fill, VISION_START, VISION_END, IMAGE], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids(IMAGE) == model.config.image_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def composed(tokenizer: Any, qwen3_vl_folder: Path) -> Callable[..., RRGModel]:
    """Compose and build: composed("lead+dmsr", host="qwen3-vl", drop=[...], **{"lead.gate.bias": -9.0})."""

    def make(expression: str, host: str = "tiny", drop: Sequence[str] = (), seed: int = 0, **settings: Any) -> RRGModel:
        name = str(qwen3_vl_folder) if host == "qwen3-vl" else host
        small = {k: v for k, v in SMALL.items() if host == "tiny" or not k.startswith("host.")}
        if host == "qwen3-vl":
            small["host.prompt"] = "{visual}{exemplar}Findings: "
        chosen = {**small, **(SMALL_LEAD if "lead" in expression else {}), **settings}
        # Settings of pieces that this composition lacks stay out.
        plain = compose(expression, host=name, drop=drop)
        known = {"host", "image", "text", "generation", "stages"}
        chosen = {
            k: v
            for k, v in chosen.items()
            if k in settings or k.partition(".")[0] in known or ".".join(k.split(".")[:2]) in plain.pieces
        }
        recipe = compose(expression, host=name, drop=drop, settings=chosen)
        torch.manual_seed(seed)
        return build(recipe, tokenizer=tokenizer if host == "tiny" else None).eval()

    return make


def items(films: Sequence[int], size: int = 32, seed: int = 0) -> list[Item]:
    """Studies with so many random films each."""
    rng = np.random.default_rng(seed)
    made = []
    for number, count in enumerate(films):
        labels = {name: [None, 0.0, 1.0, -1.0][rng.integers(4)] for name in OBSERVATIONS}
        study = Study.model_construct(
            id=f"s{number}",
            patient=f"p{number}",
            split="train",
            file_names=["f.png"] * count,
            findings=" ".join(SENTENCES[: number % 3 + 1]),
            labels=labels,
        )
        made.append(Item(study, rng.random((count, size, size), dtype=np.float32)))
    return made


def batch_of(model: RRGModel, studies: Sequence[Item], learn: bool = True, exemplars: Any = None) -> dict[str, Any]:
    prompt = Prompt(model.recipe, model.host)
    return collate(studies) | prompt.batch(studies, exemplars, learn=learn)
