"""A data folder of a few noise films, and a composition small enough to train in seconds; fixtures for conftest."""

import json
import os
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rrg.composing.composition import compose
from rrg.composing.recipe import Recipe
from rrg.data.study import StudyFolder
from rrg.feed.batch import Prompt, Studies, collate
from rrg.feed.stream import to_device
from rrg.generate.reporter import Reporter, load
from rrg.model.hosts.build import open_tokenizer
from rrg.model.model import RRGModel, build
from rrg.retrieve.index import build_index, exemplars
from rrg.runs.folder import TOKENIZER
from rrg.testing.data import noise_folder
from rrg.train.training import train

# What a test shows must not hang on what so short a training learns: `make test-portable` takes other seeds too.
SEED = int(os.environ.get("RRG_TEST_SEED", "0"))
SETTINGS: dict[str, Any] = {
    "seed": SEED,
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
    from rrg.train.trainer import StageTrainer

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
    return noise_folder(tmp_path_factory.mktemp("tiny") / "data", seed=SEED)


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
def telling(tiny_run: Path, folder: StudyFolder) -> Reporter:
    """The run's recipe untrained: each study of the training split begins its report with a letter of its own."""
    torch.manual_seed(SEED)
    model = build(tiny_recipe(), tokenizer=open_tokenizer(tiny_run / TOKENIZER)).eval()
    index, studies = build_index(model, folder), folder.split("train")
    shown = {name: entry.report for name, entry in exemplars(model, folder, studies, index).items()}
    items = list(map(Studies(folder, studies, model.recipe).__getitem__, range(len(studies))))
    batch = collate(items) | Prompt(model.recipe, model.host).batch(items, shown, learn=False)
    tell_apart(model, to_device(batch, torch.device("cpu")))
    return Reporter(model, index)


def tell_apart(model: RRGModel, batch: dict[str, Any]) -> None:
    """Give the language model an output layer by which each study of a batch begins its report with a letter of its
    own: `a`, `b`, ….

    What stands at a prompt's end differs from study to study, so a linear layer maps it to any words: these lead by so
    much (60, and exp(60) is beyond what seven words can make up for) that no order of sums changes them, nor do beams.
    """
    host = model.host.model
    head, ends = host.get_output_embeddings(), list[torch.Tensor]()
    hook = head.register_forward_pre_hook(lambda _, given: ends.append(given[0][:, -1]))
    with torch.no_grad():
        host(**model._inputs(batch, model.signals(batch)), use_cache=False)
    hook.remove()
    model.injection.clear()
    letters = model.host.tokenizer.convert_tokens_to_ids(list(string.ascii_letters[: len(ends[0])]))
    own = nn.Linear(head.in_features, head.out_features, bias=False)
    nn.init.normal_(own.weight, std=0.2)
    own.weight.data[letters] = 60 * torch.linalg.pinv(ends[0].double()).T.float()
    host.set_output_embeddings(own)


def step_lowers_the_loss(model: RRGModel, batch: dict[str, Any]) -> bool:
    """Whether some step against the gradient of what trains lowers the loss. One of a right gradient does, whatever is
    learnt; the weights stay as they are.
    """

    def loss() -> torch.Tensor:
        torch.manual_seed(0)  # the same dropout
        found: torch.Tensor = model(**dict(batch))["loss"]
        return found

    trained = [p for p in model.parameters() if p.requires_grad]
    first, lower = loss(), False
    gradients = torch.autograd.grad(first, trained, allow_unused=True)
    with torch.no_grad():
        before = [p.clone() for p in trained]
        for length in (1.0, 0.1, 0.01, 0.001):
            for parameter, start, gradient in zip(trained, before, gradients, strict=True):
                parameter.copy_(start if gradient is None else start - length * gradient)
            lower |= bool(loss() < first)
        for parameter, start in zip(trained, before, strict=True):
            parameter.copy_(start)
    return lower


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory, folder: StudyFolder) -> Path:
    """A tiny LLaMA with its tokenizer, as a hub's download lies on disk."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from rrg.model.hosts.build import learn_tokenizer

    path = tmp_path_factory.mktemp("tiny") / "llama"
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    learn_tokenizer([study.findings for study in folder.split("train")], 300).save_pretrained(path)
    return path
