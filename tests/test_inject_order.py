"""Load, LoRA, inject, shard or dispatch, compile: every other order is refused."""

from typing import Any

import pytest
import torch

from injected import IDS, Constant, Doubled, decoder_layers, inject, loss_and_gradients
from rrg.model.inject import InjectionError
from rrg.testing.hosts import tiny_model


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # peft still asks for it
def test_lora_before_injection_trains_both() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama")
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    injection = inject(model)
    gradients = loss_and_gradients(model, injection, torch.randn(2, 24))
    names = [n for n, p in model.named_parameters() if p.grad is not None]
    assert any("lora_B" in n for n in names)
    assert any("test/piece" in n for n in names)
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # peft still asks for it
def test_lora_after_injection_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama")
    injection = inject(model)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(InjectionError, match="adapters were added after injection"):
        injection.prepare({"test.piece": {"value": torch.randn(2, 24)}})
    with pytest.raises(InjectionError, match="load, LoRA, inject"):
        injection.add("test.other", {0: Constant(1.0, 0.0)}, "post")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # peft still asks for it
def test_second_adapter_after_injection_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama")
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    injection = inject(model)
    peft.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj"]))
    with pytest.raises(InjectionError, match="adapters were added after injection"):
        injection.prepare({"test.piece": {"value": torch.randn(2, 24)}})


@pytest.mark.parametrize("whole", [True, False])
def test_injection_into_a_compiled_model_is_refused(whole: bool) -> None:
    model = tiny_model("llama")
    (model if whole else decoder_layers(model)[1]).compile(backend="eager")
    with pytest.raises(InjectionError, match=r"is compiled.*load, LoRA, inject"):
        inject(model)


def test_injection_into_a_dispatched_model_is_refused() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = tiny_model("llama")
    add_hook_to_module(decoder_layers(model)[2].mlp.up_proj, AlignDevicesHook(execution_device="cpu"))
    with pytest.raises(InjectionError, match=r"layer 2 has a `forward` of its own.*dispatch"):
        inject(model)


def test_dispatch_after_injection_works() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model, value = tiny_model("llama"), torch.randn(2, 24)
    injection = inject(model)
    injection.prepare({"test.piece": {"value": value}})
    expected = model(IDS).logits
    for layer in decoder_layers(model):
        add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu"))
    torch.testing.assert_close(model(IDS).logits, expected)


@pytest.fixture
def one_process() -> Any:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_injection_into_a_sharded_model_is_refused(one_process: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    model = tiny_model("llama")
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=one_process)
    with pytest.raises(InjectionError, match=r"layer 0 is sharded.*shard or dispatch"):
        inject(model)


def test_sharding_after_injection_trains_pieces_and_what_feeds_them(one_process: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    model, value = tiny_model("llama").train(), torch.randn(2, 24)
    injection = inject(model)
    expected = loss_and_gradients(model, injection, value)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=one_process)
    got = loss_and_gradients(model, injection, value)
    whole = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in got]
    for a, b in zip(expected, whole, strict=True):
        torch.testing.assert_close(a, b)


def test_same_piece_twice_is_refused_and_nothing_changes() -> None:
    model = tiny_model("llama")
    injection = inject(model, layers=[2])
    with pytest.raises(InjectionError, match=r"test.piece is already injected"):
        injection.add("test.piece", {i: Doubled(24) for i in range(3)}, "pre")
    assert not hasattr(decoder_layers(model)[0], "rrg")
