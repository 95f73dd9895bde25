"""CheXbert from a checkpoint: a tiny random BERT in the published layout, against a plain reading of it; bad files."""

import json
import os
import pickle
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, BertTokenizer

from evaluations import EFFUSION, NORMAL, copies, no_java, study_folder
from rrg.cli import main
from rrg.errors import DataError, UsageError
from rrg.evaluate import evaluation
from rrg.evaluate.chexbert import CheXbert
from rrg.observations import OBSERVATIONS

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "heart",
    "is",
    "normal",
    "lungs",
    "are",
    "clear",
    "no",
    ".",
]
WORDS += ["there", "a", "small", "left", "pleural", "effusion", "enlarged", "pneumothorax", "edema"]
REPORTS = [NORMAL, EFFUSION, "Edema.", "", "The heart\n\n is  normal. " * 200, "xyz", "No edema. No effusion!"]


class Published(nn.Module):
    """The layout of the published code: `bert` with its pooler, `linear_heads`."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=len(WORDS), hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=52
        )
        self.bert = BertModel(config)
        self.linear_heads = nn.ModuleList(nn.Linear(128, n) for n in [4] * 13 + [2])


@pytest.fixture(scope="module")
def model() -> Published:
    torch.manual_seed(0)
    model = Published().eval()
    # BERT's own start is so flat that every report gets the same classes.
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02 if "position" in name or "type" in name else 0.3)
    return model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert-base-uncased")
    BertTokenizer({word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(model: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: every name after `module.`, and position ids, which older versions of transformers kept."""
    path = tmp_path_factory.mktemp("checkpoint") / "chexbert.pth"
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    state["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save({"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {}}, path)
    return path


def plain(model: Published, tokenizer: Path, report: str) -> list[int]:
    """Class ids of one report, by the published steps one after the other."""
    vocabulary = BertTokenizer.from_pretrained(str(tokenizer))
    ids = vocabulary(" ".join(report.split()), add_special_tokens=False)["input_ids"]
    ids = [WORDS.index("[CLS]"), *ids, WORDS.index("[SEP]")]
    if len(ids) > 512:
        ids = [*ids[:511], WORDS.index("[SEP]")]
    with torch.no_grad():
        first = model.bert(torch.tensor([ids])).last_hidden_state[0, 0]
        return [int(head(first).argmax()) for head in model.linear_heads]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_labels_are_those_of_a_plain_reading(
    model: Published, tokenizer: Path, checkpoint: Path, batch_size: int
) -> None:
    labels = CheXbert(checkpoint, tokenizer, device="cpu", batch_size=batch_size)(REPORTS)
    classes = [plain(model, tokenizer, report) for report in REPORTS]
    assert len({tuple(row) for row in classes}) > 3
    assert {c for row in classes for c in row[:13]} == {0, 1, 2, 3}
    expected = np.array([[{0: np.nan, 1: 1, 2: 0, 3: -1}[c] for c in row] for row in classes])
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.float32


def test_no_finding_is_present_or_not_mentioned(tokenizer: Path, checkpoint: Path) -> None:
    column = CheXbert(checkpoint, tokenizer, device="cpu")(REPORTS)[:, OBSERVATIONS.index("No Finding")]
    assert np.all(np.isnan(column) | (column == 1))


def test_no_reports_have_no_labels(tokenizer: Path, checkpoint: Path) -> None:
    assert CheXbert(checkpoint, tokenizer, device="cpu")([]).shape == (0, 14)


def test_a_bare_state_dict_is_read_too(model: Published, tokenizer: Path, checkpoint: Path, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "bare.pt", _use_new_zipfile_serialization=False)
    bare = CheXbert(tmp_path / "bare.pt", tokenizer, device="cpu")
    np.testing.assert_array_equal(bare(REPORTS), CheXbert(checkpoint, tokenizer, device="cpu")(REPORTS))


class Hostile:
    """What runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def without(*start: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {name: value for name, value in state.items() if not name.startswith(start)}


def test_a_checkpoint_never_runs_code(tmp_path: Path, tokenizer: Path) -> None:
    for name, save in (("zip.pth", torch.save), ("plain.pth", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        save({"model_state_dict": Hostile(tmp_path / "ran")}, tmp_path / name)
        with pytest.raises(DataError, match="holds more than tensors and so is not opened"):
            CheXbert(tmp_path / name, tokenizer)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"weights": state}, "no CheXbert checkpoint"),
        (lambda state: list(state), "no CheXbert checkpoint"),
        (without("bert"), "no CheXbert checkpoint"),
        (without("linear_heads.13"), "no CheXbert checkpoint.*\n.*Missing key"),
        (lambda state: {**state, "classifier.weight": torch.zeros(2)}, "no CheXbert checkpoint.*\n.*Unexpected key"),
        (lambda s: {**s, "linear_heads.13.weight": torch.zeros(4, 128)}, "no CheXbert checkpoint.*\n.*size mismatch"),
        (lambda s: {**s, "bert.embeddings.position_embeddings.weight": torch.zeros(64, 128)}, "found 64 positions"),
    ],
)
def test_other_checkpoints_are_refused(
    model: Published, tokenizer: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    torch.save(change(model.state_dict()), tmp_path / "other.pth")
    with pytest.raises(DataError, match=message):
        CheXbert(tmp_path / "other.pth", tokenizer)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04" + b"0" * 99, None])
def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, tokenizer: Path, content: bytes | None) -> None:
    path = tmp_path / "chexbert.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"chexbert\.pth: "):
        CheXbert(path, tokenizer)


def test_another_models_tokenizer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    BertTokenizer({word: i for i, word in enumerate(WORDS[:9])}).save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="has 9 tokens, but the checkpoint"):
        CheXbert(checkpoint, tmp_path / "other")
    with pytest.raises(UsageError, match=r"cannot be had: .* --tokenizer DIR"):
        CheXbert(checkpoint, tmp_path / "absent")


def test_the_command_scores_by_chexbert(
    tmp_path: Path,
    tokenizer: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(evaluation, "meteor_statistics", no_java)
    folder = study_folder(tmp_path / "data")
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(p.model_dump_json() + "\n" for p in copies(folder)))
    command = ["evaluate", str(file), "--data", str(folder.path), "--labeler", "chexbert"]
    assert main(command) == 2
    assert "add --checkpoint FILE" in capsys.readouterr().err
    assert main([*command, "--checkpoint", str(checkpoint), "--tokenizer", str(tokenizer)]) == 0
    assert "labels of reports by chexbert, of references exact" in capsys.readouterr().out
    assert main([*command[:-2], "--checkpoint", str(checkpoint)]) == 2
    assert "add --labeler chexbert" in capsys.readouterr().err


def test_the_commands_of_the_page_run(
    tmp_path: Path, tokenizer: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "meteor_statistics", no_java)
    monkeypatch.chdir(tmp_path)
    predictions = copies(study_folder(tmp_path / "data" / "iu-xray"))
    run = tmp_path / "runs" / "lead"
    run.mkdir(parents=True)
    (run / "predictions.jsonl").write_text("".join(p.model_dump_json() + "\n" for p in predictions))
    (run / "run.json").write_text(json.dumps({"data": "data/iu-xray", "split": "test"}))
    rows = "".join(f'{p.id},"{p.report}","{p.reference}"\n' for p in predictions)
    (tmp_path / "reports.csv").write_text(f"id,report,reference\n{rows}")
    labels = "".join(f"{p.id}{',1' * 14}\n" for p in predictions)
    for name in ("generated.csv", "chexpert.csv"):
        (tmp_path / name).write_text(f"id,{','.join(OBSERVATIONS)}\n{labels}")
    for name in ("generated.json", "reference.json"):
        (tmp_path / name).write_text(json.dumps({p.id: {"entities": {}} for p in predictions}))
    shutil.copy(checkpoint, "chexbert.pth")
    shutil.copytree(tokenizer, "bert-base-uncased")
    page = (Path(__file__).parent.parent / "docs" / "protocols.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S) for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
