"""Injection at decoder-layer boundaries, on tiny random LLaMA, Phi-3, Qwen3 and Qwen3-VL."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from injected import IDS, Constant, Doubled, Prepared, decoder_layers, inject, loss_and_gradients
from rrg.axes import Axes
from rrg.model.inject import Injection, InjectionError
from rrg.testing.hosts import HOSTS, tiny_model
from rrg_lead.gate import Gate, GateConfig


def gated(model: Any, bias: float, dtype: torch.dtype) -> Injection:
    injection = Injection(model, decoder_layers(model))
    axes, config = Axes(host=24, layers=3, image=32), GateConfig(width=8, bias=bias)
    modules = {i: Gate(config, axes, i, None).to(dtype) for i in range(3)}
    injection.add("lead.gate", modules, "post")
    return injection


def vision_inputs(model: Any) -> dict[str, Any]:
    """One study with one film, one with two, left-padded; 64×32 pixels make 2 image tokens."""
    torch.manual_seed(1)
    image = model.config.image_token_id
    rows = [[0, 0, 0, 0, 1, 390, image, image, 391, 5], [1, 390, image, image, 391, 390, image, image, 391, 6]]
    ids = torch.tensor(rows)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "mm_token_type_ids": (ids == image).int(),
        "pixel_values": torch.rand(3 * 8, 3 * 2 * 16 * 16, dtype=model.dtype),
        "image_grid_thw": torch.tensor([[1, 4, 2]] * 3),
    }


def inputs_of(kind: str, model: Any) -> dict[str, Any]:
    return vision_inputs(model) if kind == "qwen3-vl" else {"input_ids": IDS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", HOSTS)
def test_closed_gate_leaves_logits_bitwise_equal(kind: str, dtype: torch.dtype) -> None:
    model = tiny_model(kind).to(dtype)
    inputs, evidence = inputs_of(kind, model), torch.randn(2, 24, dtype=dtype)
    with torch.no_grad():
        base = model(**inputs).logits
        injection = gated(model, bias=-1e4, dtype=dtype)
        injection.prepare({"lead.gate": {"expert_embedding": evidence}})
        assert torch.equal(model(**inputs).logits, base)


@pytest.mark.parametrize("kind", HOSTS)
def test_open_gate_changes_logits_and_clear_restores_them(kind: str) -> None:
    model = tiny_model(kind)
    inputs = inputs_of(kind, model)
    with torch.no_grad():
        base = model(**inputs).logits
        injection = gated(model, bias=0.0, dtype=torch.float32)
        injection.prepare({"lead.gate": {"expert_embedding": torch.randn(2, 24)}})
        assert not torch.allclose(model(**inputs).logits, base, atol=1e-3)
        injection.clear()
        assert torch.equal(model(**inputs).logits, base)


@pytest.mark.parametrize("kind", HOSTS)
def test_cached_decoding_equals_full_forward(kind: str) -> None:
    model = tiny_model(kind)
    injection = inject(model)
    inputs = inputs_of(kind, model)
    with torch.no_grad():
        injection.prepare({"test.piece": {"value": torch.randn(2, 24)}})
        out = model.generate(
            **inputs,
            max_new_tokens=5,
            do_sample=False,
            eos_token_id=399,
            output_logits=True,
            return_dict_in_generate=True,
        )
        start, full = inputs["input_ids"].shape[1], dict(inputs, input_ids=out.sequences)
        for name in ("attention_mask", "mm_token_type_ids"):
            if name in full:
                fill = torch.full((2, 5), int(name == "attention_mask"), dtype=full[name].dtype)
                full[name] = torch.cat([full[name], fill], dim=1)
        logits = model(**full).logits
    for step, cached in enumerate(out.logits):
        torch.testing.assert_close(cached, logits[:, start + step - 1], atol=2e-4, rtol=1e-4)
        assert torch.equal(out.sequences[:, start + step], logits[:, start + step - 1].argmax(-1))


@pytest.mark.parametrize(("beams", "returned"), [(3, 1), (4, 3)])
def test_beams_equal_memory_repeated_by_hand_and_each_study_alone(beams: int, returned: int) -> None:
    model = tiny_model("llama")
    injection, value = inject(model), torch.randn(2, 24)
    settings: dict[str, Any] = {"max_new_tokens": 5, "num_beams": beams, "num_return_sequences": returned}
    settings |= {"do_sample": False, "eos_token_id": 319}
    with torch.no_grad():
        injection.prepare({"test.piece": {"value": value}})
        found = model.generate(IDS, **settings)
        injection.prepare({"test.piece": {"value": value.repeat_interleave(beams, dim=0)}})
        assert torch.equal(model.generate(IDS, **settings), found)
        for study in range(2):
            injection.prepare({"test.piece": {"value": value[study : study + 1]}})
            alone = model.generate(IDS[study : study + 1], **settings)
            assert torch.equal(alone, found[study * returned : (study + 1) * returned])


def test_rows_that_are_no_multiple_of_the_studies_are_refused() -> None:
    model = tiny_model("llama")
    injection = inject(model)
    injection.prepare({"test.piece": {"value": torch.randn(2, 24)}})
    with pytest.raises(InjectionError, match="3 rows, the study memory has 2"):
        model(torch.cat([IDS, IDS[:1]]))


def test_left_padding_does_not_matter() -> None:
    model = tiny_model("llama")
    injection, value = inject(model), torch.randn(2, 24)
    padded = torch.tensor([[1, 40, 41, 42, 43], [0, 0, 1, 50, 51]])
    with torch.no_grad():
        injection.prepare({"test.piece": {"value": value}})
        batch = model.generate(padded, attention_mask=(padded != 0).long(), max_new_tokens=4, do_sample=False)
        injection.prepare({"test.piece": {"value": value[1:]}})
        alone = model.generate(padded[1:, 2:], max_new_tokens=4, do_sample=False)
    assert torch.equal(batch[1, 5:], alone[0, 3:])


@pytest.mark.parametrize("kind", ["llama", "phi3", "qwen3"])
def test_activation_checkpointing_keeps_loss_and_gradients(kind: str) -> None:
    model, value = tiny_model(kind).train(), torch.randn(2, 24)
    injection = inject(model)
    plain = loss_and_gradients(model, injection, value)
    model.activation_checkpointing_enable({"use_reentrant": False})
    kept = loss_and_gradients(model, injection, value)
    assert plain[1].abs().sum() > 0
    for a, b in zip(plain, kept, strict=True):
        torch.testing.assert_close(a, b)


def test_prepare_runs_once_per_request_and_within_the_checkpoint_where_gradients_are_wanted() -> None:
    calls = []

    class Counted(Doubled):
        def prepare(self, value: Tensor) -> Prepared:
            calls.append(1)
            return super().prepare(value)

    model = tiny_model("llama")
    injection, value = inject(model, Counted, layers=[1]), torch.randn(2, 24)
    with torch.no_grad():
        injection.prepare({"test.piece": {"value": value}})
        model.generate(IDS, max_new_tokens=5, do_sample=False, eos_token_id=319)
    assert len(calls) == 1
    model.train().activation_checkpointing_enable({"use_reentrant": False})
    injection.prepare({"test.piece": {"value": value}})
    assert len(calls) == 1
    model(IDS, labels=IDS).loss.backward()
    assert len(calls) == 3  # forward, and again when the backward pass recomputes the layer


def test_two_forwards_before_two_backwards_recompute_with_their_own_memory() -> None:
    model = tiny_model("llama").train()
    injection = inject(model)
    values = [torch.randn(2, 24), torch.randn(2, 24)]
    apart = [loss_and_gradients(model, injection, value)[1] for value in values]
    model.activation_checkpointing_enable({"use_reentrant": False})
    leaves = [value.clone().requires_grad_() for value in values]
    losses = []
    for leaf in leaves:
        injection.prepare({"test.piece": {"value": leaf}})
        losses.append(model(IDS, labels=IDS).loss)
    injection.clear()
    for loss in losses:
        loss.backward()
    for leaf, gradient in zip(leaves, apart, strict=True):
        torch.testing.assert_close(leaf.grad, gradient)


def test_reentrant_checkpointing_is_refused() -> None:
    model = tiny_model("llama").train()
    injection = inject(model)
    model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(InjectionError, match="reentrantly"):
        injection.prepare({"test.piece": {"value": torch.randn(2, 24)}})


@pytest.mark.parametrize("kind", HOSTS)
def test_captured_hidden_states_are_those_after_injection(kind: str) -> None:
    model = tiny_model(kind)
    inputs = inputs_of(kind, model)
    with torch.no_grad():
        base = model(**inputs, output_hidden_states=True).hidden_states
        injection = Injection(model, decoder_layers(model))
        injection.add("test.constant", {0: Constant(1.0, 0.5)}, "post")
        injection.prepare({"test.constant": {}})
        seen = model(**inputs, output_hidden_states=True).hidden_states
    assert len(seen) == len(base)
    torch.testing.assert_close(seen[1], base[1] + 0.5)


@pytest.mark.parametrize("kind", HOSTS)
def test_base_keys_stay(kind: str) -> None:
    model = tiny_model(kind)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    inject(model)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(".rrg.post.test/piece." in key for key in after.keys() - before.keys())


def test_deepcopy_of_an_injected_model_runs_alone() -> None:
    model = tiny_model("llama")
    injection = inject(model)
    injection.prepare({"test.piece": {"value": torch.randn(2, 24)}})
    twin = copy.deepcopy(model)
    again = Injection(twin, decoder_layers(twin))
    again.pieces = {"test.piece": {i: layer.rrg.post["test/piece"] for i, layer in enumerate(again.layers)}}
    value = torch.randn(2, 24)
    with torch.no_grad():
        for each in (injection, again):
            each.prepare({"test.piece": {"value": value}})
        assert torch.equal(twin(IDS).logits, model(IDS).logits)
        twin.get_decoder().layers[0].rrg.post["test/piece"].project.weight.add_(1.0)
        assert not torch.equal(twin(IDS).logits, model(IDS).logits)


def test_copy_forgets_the_study() -> None:
    model = tiny_model("llama")
    injection = inject(model)
    injection.prepare({"test.piece": {"value": torch.randn(2, 24, requires_grad=True)}})
    assert copy.deepcopy(model).get_decoder().layers[0].rrg.memory is None


def test_pieces_act_in_the_order_of_adding() -> None:
    model, ids = tiny_model("llama"), IDS
    injection = Injection(model, decoder_layers(model))
    injection.add("test.first", {1: Constant(2.0, 0.0)}, "post")
    injection.add("test.second", {1: Constant(1.0, 3.0)}, "post")
    captured = {}
    with torch.no_grad():
        layer = injection.layers[1]
        injection.clear()
        hook = layer.register_forward_hook(lambda m, args, out: captured.__setitem__("out", out))
        model(ids)
        base = captured["out"]
        injection.prepare({"test.first": {}, "test.second": {}})
        model(ids)
        hook.remove()
    torch.testing.assert_close(captured["out"], base * 2.0 + 3.0)


def test_pre_acts_before_the_layer() -> None:
    model = tiny_model("llama")
    layer = copy.deepcopy(decoder_layers(model)[1])
    injection = Injection(model, decoder_layers(model))
    injection.add("test.constant", {1: Constant(1.0, 0.25)}, "pre")
    injection.prepare({"test.constant": {}})
    calls: dict[str, Any] = {}

    def keep(module: nn.Module, args: Any, kwargs: Any, out: Tensor) -> None:
        calls.update(args=args, kwargs={k: v for k, v in kwargs.items() if k != "rrg_memory"}, out=out)

    injection.layers[1].register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(IDS, use_cache=False)
        expected = layer(calls["args"][0] + 0.25, **calls["kwargs"])
    torch.testing.assert_close(calls["out"], expected)


def test_only_chosen_layers_are_touched() -> None:
    model = tiny_model("llama")
    original = type(decoder_layers(model)[0])
    inject(model, layers=[2])
    kinds = [hasattr(layer, "rrg_original") for layer in decoder_layers(model)]
    assert kinds == [False, False, True]
    assert type(decoder_layers(model)[0]) is original
    assert decoder_layers(model)[2].__class__.__name__ == original.__name__


def test_layer_that_returns_a_tuple() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, hidden_states: Tensor) -> tuple[Tensor, str]:
            return self.linear(hidden_states), "cache"

    model = nn.Module()
    model.layers = nn.ModuleList([Layer()])
    hidden = torch.randn(2, 3, 4)
    base = model.layers[0](hidden)[0]
    injection = Injection(model, model.layers)
    injection.add("test.constant", {0: Constant(3.0, 1.0)}, "post")
    injection.prepare({"test.constant": {}})
    out, second = model.layers[0](hidden)
    torch.testing.assert_close(out, base * 3 + 1)
    assert second == "cache"


def test_injected_output_keeps_the_hidden_dtype() -> None:
    class Upcast(nn.Module):
        def forward(self, hidden: Tensor) -> Tensor:
            return hidden.float() * 1.0

    model = tiny_model("llama").bfloat16()
    injection = Injection(model, decoder_layers(model))
    injection.add("test.upcast", {0: Upcast()}, "post")
    injection.prepare({"test.upcast": {}})
    assert model(IDS, output_hidden_states=True).hidden_states[1].dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it
@pytest.mark.parametrize("training", [True, False])
def test_injected_layer_compiles_to_one_graph(training: bool) -> None:
    model = tiny_model("llama")
    injection, value = inject(model), torch.randn(2, 24)
    with torch.set_grad_enabled(training):
        injection.prepare({"test.piece": {"value": value}})
        expected = model(IDS, use_cache=False).logits
        for layer in decoder_layers(model):
            layer.compile(fullgraph=True, backend="eager")
        torch.testing.assert_close(model(IDS, use_cache=False).logits, expected)
        injection.prepare({"test.piece": {"value": value + 1}})
        changed = model(IDS, use_cache=False).logits
    torch._dynamo.reset()
    assert not torch.allclose(changed, expected)
