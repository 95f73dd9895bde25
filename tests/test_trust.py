"""What docs/trust.md says that a stranger's recipe, model, run or data folder cannot do: each tries to leave a mark."""

import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from rrg.axes import Axes
from rrg.cli import main
from rrg.composing.composition import compose
from rrg.config import RetrieverConfig
from rrg.core_pieces.encoder import Encoder, EncoderConfig
from rrg.core_pieces.text import TextEncoder, TextEncoderConfig
from rrg.data.study import StudyFolder
from rrg.errors import DataError, RRGError
from rrg.generate.reporter import load
from rrg.model.model import build
from rrg.retrieve.index import Entry, Index
from rrg.testing.data import noise_folder
from rrg.train.training import train
from tiny_runs import Killed, tiny_recipe

AXES = Axes(host=8, layers=1, image=32)


class Touch:
    """Unpickled without care, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Any:
    """A file that must not appear."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists()


@pytest.fixture
def model_folder(language_model: Path, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder that names code of its own, which leaves the mark, for its every class."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = copytree(language_model, tmp_path / "model")
    (folder / "code.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    classes = {"AutoConfig": "C", "AutoModel": "M", "AutoModelForCausalLM": "M", "AutoTokenizer": ["T", "T"]}
    named = {
        key: [f"code.{n}" for n in name] if isinstance(name, list) else f"code.{name}" for key, name in classes.items()
    }
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, "auto_map": named}))
    return folder


def unknown(folder: Path) -> None:
    """The model's type is none of transformers', so that its own code alone could build it."""
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "model_type": "strange"}))


@pytest.mark.parametrize("spoil", [lambda folder: None, unknown], ids=["known type", "type of its own"])
@pytest.mark.parametrize(
    "setting", [{}, {"host.config.trust_remote_code": True}], ids=["plain", "trusted by the recipe"]
)
def test_a_hosts_folder_runs_no_code(
    model_folder: Path, spoil: Callable[[Path], None], setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks on the terminal"))
    spoil(model_folder)
    try:
        build(compose("core.train", host=str(model_folder), settings={"image.size": 32, **setting}))
    except RRGError:
        pass
    else:
        assert not setting
        assert spoil is not unknown


def test_folders_of_an_encoder_and_of_a_text_encoder_run_no_code(model_folder: Path) -> None:
    unknown(model_folder)
    with pytest.raises(RRGError):
        Encoder(EncoderConfig(model=str(model_folder)), AXES)
    with pytest.raises(RRGError):
        TextEncoder(TextEncoderConfig(model=str(model_folder)), AXES)


def pickled(path: Path, mark: Path, *, archive: bool) -> None:
    """A pickle as torch.save writes it: in an archive, or bare as long ago."""
    content = {"weight": Touch(mark)}
    if archive:
        torch.save(content, path)
        assert zipfile.is_zipfile(path)
    else:
        path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("archive", [True, False])
def test_weights_of_a_model_folder_are_not_unpickled(
    language_model: Path, tmp_path: Path, mark: Path, archive: bool
) -> None:
    folder = copytree(language_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    pickled(folder / "pytorch_model.bin", mark, archive=archive)
    for make in (
        lambda: build(compose("core.train", host=str(folder), settings={"image.size": 32})),
        lambda: Encoder(EncoderConfig(model=str(folder)), AXES),
        lambda: TextEncoder(TextEncoderConfig(model=str(folder)), AXES),
    ):
        with pytest.raises(RRGError):
            make()


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg_overlay", "pretrained_cfg"])
def test_a_recipes_options_name_no_file_of_weights(tmp_path: Path, mark: Path, option: str) -> None:
    pickled(tmp_path / "weights.pth", mark, archive=False)
    given: Any = str(tmp_path / "weights.pth")
    options = {option: given if option == "checkpoint_path" else {"file": given}}
    pretrained = option != "checkpoint_path"
    with pytest.raises(RRGError):
        Encoder(EncoderConfig(model="test_resnet", pretrained=pretrained, options=options), AXES)


@pytest.mark.parametrize("name", ["pieces.safetensors", "host.safetensors"])
@pytest.mark.parametrize("archive", [True, False])
def test_a_runs_weights_are_not_unpickled(tiny_run: Path, tmp_path: Path, mark: Path, name: str, archive: bool) -> None:
    run = copytree(tiny_run, tmp_path / "run")
    pickled(run / "stages" / "02-core.exemplars" / name, mark, archive=archive)
    with pytest.raises(RRGError, match="not a safetensors file"):
        load(run, "cpu")


def test_a_runs_pickles_beside_its_weights_are_not_read(tiny_run: Path, tmp_path: Path, mark: Path) -> None:
    run = copytree(tiny_run, tmp_path / "run")
    for folder in (run, run / "tokenizer", run / "index", run / "stages" / "02-core.exemplars"):
        for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "index.pkl"):
            pickled(folder / name, mark, archive=True)
    load(run, "cpu")


def test_a_runs_tokenizer_runs_no_code(
    tiny_run: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks on the terminal"))
    run = copytree(tiny_run, tmp_path / "run")
    path = run / "tokenizer" / "tokenizer_config.json"
    named = json.loads((model_folder / "tokenizer_config.json").read_text())["auto_map"]
    content = {**json.loads(path.read_text()), "auto_map": named, "tokenizer_class": "Strange"}
    path.write_text(json.dumps(content))
    (run / "tokenizer" / "code.py").write_text((model_folder / "code.py").read_text())
    with suppress(DataError):  # refused, or read without the code
        load(run, "cpu")


def test_a_run_that_is_resumed_unpickles_nothing(
    tmp_path: Path, mark: Path, folder: StudyFolder, kill_at_step: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kill_at_step(4)
    with pytest.raises(Killed):
        train(tiny_recipe("lead"), folder, tmp_path / "whole", save_steps=1)
    kill_at_step(0)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        run = copytree(tmp_path / "whole", tmp_path / name)
        [checkpoint] = (run / "stages").glob("*/checkpoint-*")
        pickled(checkpoint / name, mark, archive=True)
        assert main(["train", "--out", str(run), "--resume"]) == 1
        assert f"{checkpoint}: holds more than tensors, so it is not read" in capsys.readouterr().err


def test_a_runs_faiss_index_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss")
    keys = torch.randn(40, 3)
    Index(keys, [Entry(f"s{i}", f"p{i}", "r") for i in range(40)]).save(tmp_path / "index")
    (tmp_path / "index" / "index.faiss").write_bytes(b"IxFI")
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("parsed"))
    Index.open(tmp_path / "index", RetrieverConfig(search="ivf", probe=2))


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "images/../../outside.png", "images\\..\\x.png"])
def test_a_data_folder_names_no_film_outside_itself(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noise_folder(tmp_path / "data", {"train": 2, "test": 1})
    path = tmp_path / "data" / "metadata.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["file_names"] = [name]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["run", "lead", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]) == 1
    assert "is not a plain path below the data folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recipe_loads_no_plugin_that_is_not_installed(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "strange.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = tiny_recipe("lead").to_toml().replace("lead.gate", "strange.gate").replace('hash = "', 'note = "')
    (tmp_path / "recipe.toml").write_text(
        "".join(line for line in text.splitlines(True) if not line.startswith("note"))
    )
    data = noise_folder(tmp_path / "data", {"train": 2, "test": 1})
    assert main(["train", str(tmp_path / "recipe.toml"), "--data", str(data.path), "--out", str(tmp_path / "run")]) == 2
    assert "the recipe needs strange.gate, not installed here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "seed = 1" + "0" * 5000, "a.b.c" + ".d" * 5000 + " = 1", "\0"]
)
def test_a_recipe_without_end_is_one_clear_error(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    assert main(["train", str(tmp_path / "recipe.toml"), "--data", "data", "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rrg: {tmp_path / 'recipe.toml'}: not a recipe")
    assert "Traceback" not in err
