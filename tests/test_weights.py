"""Weight files: what is in them, what is not, and what is refused."""

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rrg.data.study import StudyFolder
from rrg.errors import DataError
from rrg.generate.reporter import load
from rrg.model.model import RRGModel, build
from rrg.model.weights import load_weights, save_weights
from rrg.train.training import train
from tiny_runs import tiny_recipe


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory, folder: StudyFolder, language_model: Path) -> Path:
    """Two steps of lead+dmsr, with adapters on a language model that comes from a folder."""
    out = tmp_path_factory.mktemp("lora") / "run"
    recipe = tiny_recipe("lead", host=str(language_model), stages__max_steps=2, stages__lora={"r": 3, "alpha": 6})
    train(recipe, folder, out)
    return out


def test_pieces_are_keyed_by_piece_and_layer(tiny_run: Path) -> None:
    keys = load_file(tiny_run / "stages" / "01-lead.train" / "pieces.safetensors").keys()
    assert {"lead.gate/00/gate_hidden.weight", "lead.gate/01/gate_hidden.weight"} <= keys
    assert {key.partition("/")[0] for key in keys} == {"core.encoder", "core.connector", "lead.experts", "lead.gate"}


def test_base_weights_are_not_saved_where_only_adapters_train(lora_run: Path) -> None:
    stage = lora_run / "stages" / "01-lead.train"
    assert sorted(path.name for path in stage.iterdir()) == ["adapter", "pieces.safetensors"]
    assert all("lora_" in key for key in load_file(stage / "adapter" / "adapter_model.safetensors"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's, about transformers
def test_peft_loads_the_adapter_on_the_bare_base_model(lora_run: Path, language_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    bare = AutoModelForCausalLM.from_pretrained(language_model).eval()
    ids = torch.tensor([[1, 17, 42, 5, 99]])
    before = bare(ids).logits
    adapted = PeftModel.from_pretrained(bare, lora_run / "stages" / "01-lead.train" / "adapter").eval()
    ours = load(lora_run, "cpu").model
    ours.injection.clear()
    assert torch.equal(adapted(ids).logits, ours.host.model(ids).logits)
    assert not torch.equal(adapted(ids).logits, before)


def test_a_host_that_a_stage_trains_in_full_is_saved_and_loaded(
    tmp_path: Path, folder: StudyFolder, language_model: Path
) -> None:
    recipe = tiny_recipe("lead", host=str(language_model), stages__max_steps=1, stages__llm="full")
    trained = train(recipe, folder, tmp_path / "run")
    assert (tmp_path / "run" / "stages" / "01-lead.train" / "host.safetensors").exists()
    again = load(tmp_path / "run", "cpu").model
    assert all(map(torch.equal, trained.host.model.parameters(), again.host.model.parameters()))


def _model(recipe: Any, trained: Path) -> RRGModel:
    from rrg.generate.reporter import open_tokenizer

    model = build(recipe, tokenizer=open_tokenizer(trained / "tokenizer"))
    model.begin("lead.train")
    return model


def test_published_weights_are_saved_only_once_trained(tmp_path: Path, tiny_run: Path) -> None:
    model = _model(tiny_recipe(), tiny_run)
    encoder = model.modules_by_piece["core.encoder"]
    encoder.published = ("backbone",)  # type: ignore[assignment]
    own = {name for name, _ in model.piece_parameters("core.encoder")}
    save_weights(model, tmp_path / "trained")
    model.touched -= own
    save_weights(model, tmp_path / "frozen")
    assert own <= load_file(tmp_path / "trained" / "pieces.safetensors").keys()
    saved = load_file(tmp_path / "frozen" / "pieces.safetensors").keys()
    assert not [key for key in saved if key.startswith("core.encoder/backbone")]
    assert [key for key in saved if key.startswith("core.connector/")]


def test_weights_come_back_bit_by_bit_buffers_too(tmp_path: Path, tiny_run: Path) -> None:
    model = _model(tiny_recipe(), tiny_run)
    load_weights(model, tiny_run / "stages" / "01-lead.train")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    save_weights(model, tmp_path / "weights")
    other = _model(tiny_recipe(seed=5), tiny_run)
    load_weights(other, tmp_path / "weights")
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert any("running_mean" in name for name in ours)


def _without(path: Path, keys: int) -> None:
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[keys:]), path)


def _reshaped(path: Path) -> None:
    save_file({key: tensor.flatten()[:1] for key, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize("name", ["pieces.safetensors", "host.safetensors"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "can be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "can be read"),
        (lambda path: path.write_bytes(b"\x80\x04not safetensors"), "can be read"),
        (lambda path: _without(path, 2), "is missing"),
        (lambda path: save_file(load_file(path) | {"stray": torch.ones(1)}, path), "stray belongs to no module"),
        (_reshaped, "saved"),
    ],
    ids=["no file", "cut", "a pickle", "keys missing", "a strange key", "other shapes"],
)
def test_damaged_weights_are_an_error_that_names_the_file(
    tmp_path: Path, tiny_run: Path, name: str, damage: Any, says: str
) -> None:
    folder = tmp_path / "stage"
    copytree(tiny_run / "stages" / "01-lead.train", folder)
    damage(folder / name)
    with pytest.raises(DataError, match=rf"(?s){name}.*({says})"):
        load_weights(_model(tiny_recipe(), tiny_run), folder)


def test_a_missing_adapter_is_an_error(tmp_path: Path, lora_run: Path) -> None:
    copytree(lora_run, tmp_path / "run")
    (tmp_path / "run" / "stages" / "01-lead.train" / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"adapter_model\.safetensors"):
        load(tmp_path / "run", "cpu")
