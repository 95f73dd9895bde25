"""A data folder of a few noise films, and a composition small enough to train in seconds; fixtures for conftest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rrg.composition import compose
from rrg.data.study import StudyFolder
from rrg.recipe import Recipe
from rrg.run import Reporter, load
from rrg.testing.data import noise_folder
from rrg.training import train

SETTINGS: dict[str, Any] = {
    "image.size": 32,
    "image.augment": 0.5,
    "core.encoder.model": "test_resnet",
    "core.encoder.dropout": 0.1,
    "host.config.hidden_size": 32,
    "host.config.intermediate_size": 48,
    "host.config.num_hidden_layers": 2,
    "host.config.num_attention_heads": 2,
    "host.config.num_key_value_heads": 2,
    "host.vocab_size": 300,
    "generation.max_new_tokens": 7,
    "lead.experts.hidden": 12,
    "lead.experts.feature": 5,
    "lead.experts.dropout": 0.1,
    "lead.gate.width": 9,
    "stages.batch_size": 2,
    "stages.accumulation": 2,
    "stages.lr": 1e-2,
    "lead.train.epochs": 2,
    "core.exemplars.epochs": 1,
}


def tiny_recipe(expression: str = "lead+dmsr", host: str | None = None, **settings: Any) -> Recipe:
    """Settings with `__` for the dot: stages__max_steps=3. Those of pieces that are not there are left out."""
    given = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
    if "lead" not in expression:
        given = {name: value for name, value in given.items() if not name.startswith("lead.")}
    if "dmsr" not in expression:
        given.pop("core.exemplars.epochs")
    if host is not None:
        given = {name: value for name, value in given.items() if not name.startswith("host.")}
    return compose(expression, host=host, settings=given)


def log_of(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    clocked = ("runtime", "per_second")
    kept = [{k: v for k, v in line.items() if not k.endswith(clocked)} for line in lines]
    return [line for line in kept if "train_loss" not in line]  # a mean over the steps since the last start


def weights_of(run: Path) -> dict[str, bytes]:
    """Every weight file of the run's stages and indexes, whole."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.safetensors"))}


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def kill_at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """kill_at_step(n): training dies in the middle of the n-th micro-batch from now on; 0: it lives."""
    from rrg.trainer import StageTrainer

    alive, left = StageTrainer.training_step, [0]

    def step(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return alive(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", step)

    def arm(steps: int) -> None:
        left[0] = steps

    return arm


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return noise_folder(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, folder: StudyFolder) -> Path:
    """A finished run of lead+dmsr: two epochs of LEAD's training, one with exemplars, four steps each."""
    out = tmp_path_factory.mktemp("tiny") / "run"
    train(tiny_recipe(), folder, out, save_steps=3)
    return out


@pytest.fixture(scope="session")
def reporter(tiny_run: Path) -> Reporter:
    return load(tiny_run, "cpu")


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory, folder: StudyFolder) -> Path:
    """A tiny LLaMA with its tokenizer, as a hub's download lies on disk."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from rrg.hosts.build import learn_tokenizer

    path = tmp_path_factory.mktemp("tiny") / "llama"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    learn_tokenizer([study.findings for study in folder.split("train")], 300).save_pretrained(path)
    return path
