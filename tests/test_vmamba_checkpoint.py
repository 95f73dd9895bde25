"""VMamba's loader: published checkpoints in every form, and what it refuses."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rrg.errors import DataError
from rrg_dast.vmamba import VSSM, load_checkpoint
from test_vmamba import State, vmamba, vssm

OLD = (("patch_embed.0", "patch_embed.proj"), ("patch_embed.2", "patch_embed.norm"), ("classifier.", ""))
OLD += ((".norm.", ".ln_1."), (".op.", ".self_attention."))


def older(key: str) -> str:
    """As older published code names it."""
    for new, old in OLD:
        if new not in (".norm.", ".op.") or key.startswith("layers."):
            key = key.replace(new, old)
    return key


def with_head(state: State) -> State:
    return {**state, "classifier.head.weight": torch.zeros(1000, 64), "classifier.head.bias": torch.zeros(1000)}


@pytest.fixture
def state() -> State:
    return {key: value.clone() for key, value in vssm(seed=1).state_dict().items()}


def assert_loaded(path: Path, state: State) -> None:
    model = vssm()
    load_checkpoint(model, path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_published_file_is_loaded_by_the_piece_and_not_saved_again(tmp_path: Path, state: State) -> None:
    path = tmp_path / "vssm.pth"
    torch.save({"model": with_head(state), "epoch": 3}, path)
    piece = vmamba(checkpoint=str(path))
    assert all(torch.equal(value, state[key]) for key, value in piece.backbone.state_dict().items())
    assert piece.published == ("backbone",)
    assert vmamba().published == ()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bare_state_dict(tmp_path: Path, state: State, zipped: bool) -> None:
    torch.save(state, tmp_path / "bare.pth", _use_new_zipfile_serialization=zipped)
    assert_loaded(tmp_path / "bare.pth", state)


def test_safetensors(tmp_path: Path, state: State) -> None:
    save_file(with_head(state), tmp_path / "vssm.safetensors")
    assert_loaded(tmp_path / "vssm.safetensors", state)


def test_older_names_and_kernels_of_1_by_1(tmp_path: Path, state: State) -> None:
    old = {older(key): value for key, value in with_head(state).items()}
    assert {"patch_embed.proj.bias", "norm.bias", "head.bias", "layers.1.blocks.1.ln_1.bias"} < old.keys()
    assert "layers.0.blocks.0.self_attention.out_norm.weight" in old
    old["layers.0.blocks.0.mlp.fc1.weight"] = old["layers.0.blocks.0.mlp.fc1.weight"][..., None, None]
    torch.save({"model": old}, tmp_path / "old.pth")
    assert_loaded(tmp_path / "old.pth", state)


BLOCK = "layers.0.blocks.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(f"{BLOCK}.op.Ds"), "1 weights .*\n  - layers.0.blocks.0.op.Ds is missing"),
        (lambda s: s.update({"pos_embed": torch.zeros(1)}), "pos_embed belongs to no module"),
        (lambda s: s.update({f"{BLOCK}.op.Ds": torch.zeros(7)}), r"op.Ds: \(7,\) in the file, \(32,\) built"),
        (lambda s: s.update({f"{BLOCK}.ln_1.bias": torch.zeros(8)}), "blocks.0.norm.bias stands twice"),
        (lambda s: s.update({f"{BLOCK}.op.Ds": torch.zeros(32).long()}), "op.Ds does not name a floating-point tensor"),
        (
            lambda s: s.update({f"{BLOCK}.op.Ds": torch.zeros(32).to_sparse()}),
            "op.Ds does not name a floating-point tensor",
        ),
        (
            lambda s: s.update({f"{BLOCK}.op.Ds": torch.zeros(32, device="meta")}),
            "op.Ds does not name a floating-point tensor",
        ),
        (lambda s: s.update({7: torch.zeros(1)}), "7 does not name a floating-point tensor"),
        (lambda s: s.update({f"{BLOCK}.op.Ds": "7"}), "op.Ds does not name a floating-point tensor"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_none_is_taken(
    tmp_path: Path, state: State, change: Any, message: str
) -> None:
    change(state)
    torch.save({"model": state}, tmp_path / "vssm.pth")
    model, before = vssm(), vssm().state_dict()
    with pytest.raises(DataError, match=message):
        load_checkpoint(model, tmp_path / "vssm.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_at_most_ten_problems_are_listed(tmp_path: Path) -> None:
    torch.save(VSSM(16, [1, 1, 1, 1], 0.0).state_dict(), tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"112 weights do not fit; is dast.vmamba.size the file's") as raised:
        load_checkpoint(vssm(), tmp_path / "other.pth")
    assert len(raised.value.problems) == 10


def test_the_training_codes_own_settings_in_a_checkpoint_are_no_obstacle(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    settings = module.CfgNode(MODEL=module.CfgNode(NAME="vssm"), SIZES=[1, 2])
    settings.frozen = True
    torch.save({"model": with_head(state), "config": settings, "epoch": 264}, tmp_path / "ckpt_epoch_264.pth")
    monkeypatch.delitem(sys.modules, "yacs.config")
    assert_loaded(tmp_path / "ckpt_epoch_264.pth", state)


class Hostile:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_runs_code_is_refused(tmp_path: Path, state: State, zipped: bool) -> None:
    path, victim = tmp_path / "hostile.pth", tmp_path / "victim"
    torch.save({"model": state, "config": Hostile(victim)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"hostile.pth: not a .pth or .safetensors file that holds tensors alone"):
        load_checkpoint(vssm(), path)
    assert not victim.exists()


@pytest.mark.parametrize("name", ["vssm.pth", "vssm.safetensors"])
@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_truncated_file_is_refused(tmp_path: Path, state: State, name: str, kept: int) -> None:
    whole, path = tmp_path / f"whole-{name}", tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(state, whole)
    path.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(DataError, match=f"{name}: not a .pth"):
        load_checkpoint(vssm(), path)


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: not a .pth .*No such file"):
        load_checkpoint(vssm(), tmp_path / name)


def test_a_device_or_folder_is_no_checkpoint(tmp_path: Path) -> None:
    for path in (Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="no plain file of at most 4 GiB"):
            load_checkpoint(vssm(), path)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"model": [1]}])
def test_a_file_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "list.pth")
    with pytest.raises(DataError, match=r"list.pth: holds a (list|Tensor); expected a state dict, bare or under"):
        load_checkpoint(vssm(), tmp_path / "list.pth")
