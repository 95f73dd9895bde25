"""Small random hosts and studies for every test that runs a model."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import rrg._torchvision  # noqa: F401  before transformers
from rrg.composing.composition import compose
from rrg.model.hosts.build import learn_tokenizer
from rrg.model.model import RRGModel, build
from rrg.testing import compositions
from rrg.testing.hosts import tiny_model

pytest_plugins = ["tiny_runs", "report_runs"]  # fixtures of whole runs
collect_ignore = ["stranger"]  # its own tests need it installed; test_new.py runs them

SENTENCES = [
    "The heart is normal in size and the lungs are clear.",
    "There is a small left pleural effusion with adjacent atelectasis.",
    "No pneumothorax. Mild cardiomegaly without edema.",
]
IMAGE, VISION_START, VISION_END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
SMALL = {**compositions.SMALL, **compositions.ENCODER, "core.connector.dropout": 0.0}
SMALL_LEAD = {"lead.experts.hidden": 10, "lead.experts.feature": 6, "lead.gate.width": 8, "lead.gate.bias": -1.0}


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    """docs/generate.py, which writes the pages that come from the code."""
    path = Path(__file__).parent.parent / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    from tiny_runs import SEED  # not above: pytest loads it as a plugin first

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
        torch.manual_seed(seed + SEED)
        return build(recipe, tokenizer=tokenizer if host == "tiny" else None).eval()

    return make
