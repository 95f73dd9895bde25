"""What somebody's recipe or model folder cannot do: name a loader's arguments, run code, have a pickle opened."""

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from rrg.axes import Axes
from rrg.composing.host_names import host_preset
from rrg.config import HostConfig
from rrg.core_pieces.encoder import Encoder, EncoderConfig
from rrg.errors import DataError, UsageError
from rrg.model.hosts.build import build_host
from rrg.testing.hosts import tiny_model

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "core").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])
READS_NO_WEIGHTS = ("AutoTokenizer", "AutoConfig")
"""Bases that read no weights by from_pretrained; from_config reads none either."""


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def calls() -> list[tuple[str, str, str, dict[str, Any]]]:
    """(where, base, name, constant keywords) of every call of an attribute or a name in the source."""
    found = []
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                base = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
                given = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", base, name, given))
    return found


def test_every_loader_is_told_to_run_no_code_and_open_no_pickle() -> None:
    loaders = [call for call in calls() if call[2] in ("from_pretrained", "from_config", "SentenceTransformer")]
    assert {name for _, _, name, _ in loaders} == {"from_pretrained", "from_config", "SentenceTransformer"}
    assert [where for where, _, _, given in loaders if given.get("trust_remote_code") is not False] == []
    weights = [call for call in loaders if call[2] == "from_pretrained" and call[1] not in READS_NO_WEIGHTS]
    assert weights
    assert [where for where, _, _, given in weights if given.get("use_safetensors") is not True] == []
    loads = [call for call in calls() if call[1:3] == ("torch", "load")]
    assert loads
    assert [where for where, _, _, given in loads if given.get("weights_only") is not True] == []


def test_no_module_of_the_source_unpickles() -> None:
    imported = set[str]()
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert "torch" in imported
    opening = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
    assert {name for name in imported if name.startswith(opening)} == {"pickle.UnpicklingError"}  # an error to catch


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A sound LLaMA folder whose configuration names code of its own for everything; run, the code leaves a file."""
    folder = tmp_path_factory.mktemp("hostile")
    tiny_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "mine.py").write_text(f"open({str(folder / 'victim')!r}, 'w').close()\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": dict.fromkeys(names, "mine.Mine")}
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def host(folder: Path, **changes: Any) -> HostConfig:
    return HostConfig(**{**host_preset(str(folder))["host"], "config": changes})


def test_a_folder_that_names_its_own_code_is_read_without_it(hostile: Path) -> None:
    built = build_host(host(hostile), None)
    assert type(built.model).__module__ == "transformers.models.llama.modeling_llama"
    assert not (hostile / "victim").exists()


LOADING = {
    "trust_remote_code": True,
    "code_revision": "main",
    "revision": "main",
    "subfolder": "x",
    "cache_dir": "x",
    "device_map": "auto",
    "quantization_config": {"load_in_8bit": True},
    "torch_dtype": "float16",
    "dtype": "float16",
    "attn_implementation": "someone/kernel",
    "use_safetensors": False,
    "weights_only": False,
    "state_dict": {},
    "auto_map": {"AutoModel": "mine.Mine"},
    "_name_or_path": "/elsewhere",
}


@pytest.mark.parametrize("name", LOADING)
@pytest.mark.parametrize("weights", [True, False])
def test_host_config_takes_no_argument_of_a_loader(hostile: Path, name: str, weights: bool) -> None:
    with pytest.raises(UsageError, match=rf"host\.config\.{name}: no field of LlamaConfig"):
        build_host(host(hostile, **{name: LOADING[name]}), None, weights=weights)
    assert not (hostile / "victim").exists()


def test_host_config_changes_fields_and_suggests_their_names(hostile: Path) -> None:
    changes = {"attention_dropout": 0.25, "num_hidden_layers": 1}
    for weights in (True, False):
        built = build_host(host(hostile, **changes), None, weights=weights)
        assert len(built.layers) == 1
        assert built.model.config.attention_dropout == 0.25
    with pytest.raises(UsageError, match=r"host\.config\.num_hiden_layers: .*; did you mean num_hidden_layers\?"):
        build_host(host(hostile, num_hiden_layers=1), None)


def test_a_part_of_the_configuration_is_changed_field_by_field(qwen3_vl_folder: Path) -> None:
    before = json.loads((qwen3_vl_folder / "config.json").read_text())
    built = build_host(host(qwen3_vl_folder, text_config={"attention_dropout": 0.25}), None)
    text = built.model.config.text_config
    assert (text.attention_dropout, text.hidden_size) == (0.25, before["text_config"]["hidden_size"])
    with pytest.raises(
        UsageError, match=r"host\.config\.text_config\.trust_remote_code: no field of Qwen3VLTextConfig"
    ):
        build_host(host(qwen3_vl_folder, text_config={"trust_remote_code": True}), None)


@pytest.mark.parametrize(
    "option", ["checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "scriptable"]
)
def test_encoder_options_name_no_file_to_load(tmp_path: Path, option: str) -> None:
    torch.save({}, tmp_path / "weights.pth")
    config = EncoderConfig(options={option: str(tmp_path / "weights.pth")})
    with pytest.raises(UsageError, match=rf"core\.encoder\.options: {option}: how timm loads a model, not what it is"):
        Encoder(config, Axes(host=16, layers=2, image=32))


def test_an_encoder_is_no_scheme_of_timm() -> None:
    with pytest.raises(UsageError, match="without a scheme"):
        Encoder(EncoderConfig(model="local-dir:mine", pretrained=True), Axes(host=16, layers=2, image=32))


def pickled(source: Path, folder: Path) -> Path:
    """The folder with its weights as a pickle that would make a folder."""

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (folder / "victim").mkdir, ()

    folder.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    torch.save({"weight": Hostile()}, folder / "pytorch_model.bin")
    return folder


def test_a_host_of_a_pickle_alone_is_refused_with_the_way_out(hostile: Path, tmp_path: Path) -> None:
    folder = pickled(hostile, tmp_path / "host")
    with pytest.raises(DataError) as error:
        build_host(host(folder), None)
    assert error.value.message.startswith(f"{folder}: its weights are a pickle (pytorch_model.bin), which can run code")
    assert f"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{folder}')" in error.value.message
    assert not (folder / "victim").exists()


def test_an_encoder_of_a_pickle_alone_is_refused(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "sound")
    folder = pickled(tmp_path / "sound", tmp_path / "encoder")
    with pytest.raises(DataError, match=r"its weights are a pickle \(pytorch_model.bin\)"):
        Encoder(EncoderConfig(model=str(folder)), Axes(host=16, layers=2, image=28))
    assert not (folder / "victim").exists()
