"""The composed model: precision, checkpointing, padding, beams, stages."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rrg.config import GenerationConfig
from rrg.errors import UsageError
from rrg.model.model import RRGModel
from rrg.model.weights import load_weights, save_weights
from rrg.testing.data import batch_of, items
from tiny_runs import step_lowers_the_loss, tell_apart

Compose = Callable[..., RRGModel]


def open_gates(model: RRGModel) -> None:
    """Let the experts matter: random gate weights in place of the nearly closed start."""
    torch.manual_seed(11)
    for module in model.injection.pieces.get("lead.gate", {}).values():
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)


# Studies alone and in a batch


@pytest.mark.parametrize("host", ["tiny", "qwen3-vl"])
def test_loss_of_a_batch_is_the_mean_over_its_studies_tokens(host: str, composed: Compose) -> None:
    model = composed("lead", host=host, drop=["lead.bce"])
    open_gates(model)
    studies = items([2, 1, 1])
    with torch.no_grad():
        whole = model(**batch_of(model, studies))["loss"]
        total, count = torch.zeros(()), 0
        for study in studies:
            alone = batch_of(model, [study])
            scored = int((alone["labels"][:, 1:] != -100).sum())
            total, count = total + scored * model(**alone)["loss"], count + scored
    torch.testing.assert_close(whole, total / count, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("host", ["tiny", "qwen3-vl"])
@pytest.mark.parametrize("beams", [1, 3])
def test_study_alone_is_reported_as_in_a_padded_batch(host: str, beams: int, composed: Compose) -> None:
    model = composed("lead", host=host)
    open_gates(model)
    studies = items([1, 2, 1])
    settings = GenerationConfig(max_new_tokens=7, beams=beams)
    shown = {"s1": "No pneumothorax. Mild cardiomegaly without edema."}
    batch = batch_of(model, studies, learn=False, exemplars=shown)
    assert not batch["attention_mask"].all()
    tell_apart(model, batch)
    texts, _ = model.generate(batch, settings)
    alone = [model.generate(batch_of(model, [s], learn=False, exemplars=shown), settings)[0][0] for s in studies]
    assert texts == alone
    assert "".join(text[0] for text in texts) == "abc"


def test_prefix_memory_and_loss_ignore_what_stands_in_absent_films(composed: Compose) -> None:
    model = composed("lead+dmsr")
    open_gates(model)
    batch = batch_of(model, items([1, 2]))
    spoilt = {**batch, "pixel_values": batch["pixel_values"].clone()}
    spoilt["pixel_values"][~batch["view_mask"]] = math.nan
    with torch.no_grad():
        assert torch.equal(model(**spoilt)["loss"], model(**batch)["loss"])
        assert torch.equal(model.keys(model.signals(spoilt)), model.keys(model.signals(batch)))


def test_generated_tokens_are_the_argmax_of_full_forwards(composed: Compose) -> None:
    model = composed("lead")
    open_gates(model)
    batch = batch_of(model, items([1, 2]), learn=False)
    host = model.host.model
    with torch.inference_mode():
        inputs = model._inputs(batch, model.signals(batch))
        ids = host.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=319, pad_token_id=0)
        for step in range(5):
            embeds = torch.cat([inputs["inputs_embeds"], host.get_input_embeddings()(ids[:, :step])], dim=1)
            mask = torch.cat([inputs["attention_mask"], torch.ones(2, step, dtype=torch.long)], dim=1)
            places = (mask.cumsum(-1) - 1).clamp(min=0)
            logits = host(inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False).logits
            assert torch.equal(logits[:, -1].argmax(-1), ids[:, step])


def test_study_memory_is_forgotten_after_every_request(composed: Compose) -> None:
    model = composed("lead")
    model(**batch_of(model, items([1, 1])))
    assert all(layer.rrg.memory is None for layer in model.host.layers)
    model.generate(batch_of(model, items([1, 1]), learn=False))
    assert all(layer.rrg.memory is None for layer in model.host.layers)


# Training


def gradients(model: RRGModel, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("host", ["tiny", "qwen3-vl"])
@pytest.mark.parametrize("llm", ["frozen", "lora"])
def test_checkpointing_keeps_the_gradients_of_experts_behind_the_memory(host: str, llm: str, composed: Compose) -> None:
    found = []
    for checkpointing in (False, True):
        # Injected into one layer: the others hold nothing that trains where the language model is frozen.
        settings = {"lead.train.llm": llm, "lead.gate.layers": [0], "host.gradient_checkpointing": checkpointing}
        model = composed("lead", host=host, drop=["lead.bce"], **settings)
        open_gates(model)
        model.begin("lead.train")
        runs = [0] * 3
        for index, layer in enumerate(model.host.layers):
            layer.input_layernorm.register_forward_pre_hook(
                lambda *_, i=index, runs=runs: runs.__setitem__(i, runs[i] + 1)
            )
        found.append(gradients(model.train(), batch_of(model, items([1, 2]))))
        assert runs == ([2] * 3 if checkpointing else [1] * 3)  # once more in the backward pass
    assert found[0].keys() == found[1].keys()
    assert found[0]["lead/experts.first.weight"].abs().sum() > 0
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_trainer_averages_over_accumulated_steps(composed: Compose, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = composed("lead")
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    assert not Trainer(model=model, args=arguments).model_accepts_loss_kwargs


def test_frozen_parts_keep_their_statistics_and_dropout_still(composed: Compose) -> None:
    settings = {"lead.train.vision": "frozen", "core.encoder.dropout": 0.5, "lead.train.llm": "lora"}
    model = composed("lead", **settings)
    model.begin("lead.train")
    model.train()
    encoder = model.modules_by_piece["core.encoder"]
    assert not any(module.training for module in encoder.modules())
    assert model.modules_by_piece["lead.experts"].training
    batch = batch_of(model, items([1, 2]))
    first = model.signals(batch)["core.encoder", "patch_tokens"]
    assert torch.equal(model.signals(batch)["core.encoder", "patch_tokens"], first)


def test_losses_of_the_stage_alone_take_part(composed: Compose) -> None:
    model = composed("lead", **{"lead.train.losses": []})
    model.begin("lead.train")
    model(**batch_of(model, items([1])))
    assert set(model.parts) == {"report"}


@pytest.mark.parametrize("host", ["tiny", "qwen3-vl"])
def test_without_its_report_loss_a_stage_runs_and_trains_no_language_model(host: str, composed: Compose) -> None:
    model = composed("core.pretrain+lead", host=host)
    model.begin("core.pretrain")
    model.host.model.register_forward_pre_hook(lambda *_: pytest.fail("the language model runs"))
    found = gradients(model.train(), batch_of(model, items([1, 2])))
    assert set(model.parts) == {"lead.bce"}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    tower = "host.model.model.visual." if host == "qwen3-vl" else "core/encoder."
    assert {name for name in trained if not name.startswith(tower)} == {
        name for name, _ in model.named_parameters() if name.startswith("lead/experts.")
    }
    assert any(name.startswith(tower) for name in found)
    assert not any("merger" in name for name in trained)


def test_a_stage_without_any_loss_is_refused(composed: Compose) -> None:
    model = composed("core.pretrain+lead", **{"lead.bce.weight": 0.0})
    with pytest.raises(UsageError, match=r"core.pretrain has nothing to learn from.*--set core.pretrain.report=true"):
        model.begin("core.pretrain")


@pytest.mark.parametrize("layers", [[3], [-1], [], [1, 1]])
def test_layers_that_the_host_lacks_are_refused(layers: list[int], composed: Compose) -> None:
    with pytest.raises(UsageError, match=r"lead.gate.layers=.*which has 0 to 2"):
        composed("lead", **{"lead.gate.layers": layers})


def test_chosen_layers_and_place(composed: Compose) -> None:
    model = composed("lead", **{"lead.gate.layers": [0, 2], "lead.gate.where": "pre"})
    assert [hasattr(layer, "rrg") for layer in model.host.layers] == [True, False, True]
    assert list(model.host.layers[2].rrg.pre) == ["lead/gate"]
    assert {name.split("/")[1] for name, _ in model.piece_parameters("lead.gate")} == {"00", "02"}


def test_deepcopy_of_the_whole_model_runs_alone(composed: Compose) -> None:
    model = composed("lead")
    open_gates(model)
    batch = batch_of(model, items([1, 2]))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = model(**batch)["loss"]
        assert torch.equal(twin(**batch)["loss"], before)
        open_gates(twin)
        for gate in twin.injection.pieces["lead.gate"].values():
            gate.gate_bias.add_(2.0)
        assert not torch.equal(twin(**batch)["loss"], before)
        assert torch.equal(model(**batch)["loss"], before)


# Precision

BFLOAT16 = {"host.dtype": "bfloat16"}


@pytest.mark.parametrize("host", ["tiny", "qwen3-vl"])
@pytest.mark.parametrize(
    ("llm", "vision", "connector"),
    [
        ("frozen", "frozen", "frozen"),
        ("lora", "full", "full"),
        ("full", "frozen", "full"),
        ("full", "full", "frozen"),
        ("frozen", "frozen", "full"),
        ("lora", "full", "frozen"),
    ],
)
def test_bfloat16_host_trains_and_writes(host: str, llm: str, vision: str, connector: str, composed: Compose) -> None:
    settings = {**BFLOAT16, "lead.train.llm": llm, "lead.train.vision": vision, "lead.train.connector": connector}
    model = composed("lead+dmsr", host=host, **settings)
    model.begin("lead.train")
    model.train()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    batch = batch_of(model, items([1, 2]))
    assert step_lowers_the_loss(model, batch)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    for _ in range(4):
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert math.isfinite(loss.item())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for n, p in trained.items() if "lead/" in n)
    model.eval()
    texts, values = model.generate(batch_of(model, items([1, 2]), learn=False), GenerationConfig(max_new_tokens=4))
    assert len(texts) == 2
    assert model.keys(values).dtype == torch.float32


def test_untrained_language_model_keeps_its_dtype_and_pieces_are_float32(composed: Compose) -> None:
    model = composed("lead", host="qwen3-vl", **BFLOAT16, **{"lead.train.llm": "lora", "lead.train.vision": "frozen"})
    dtypes: dict[str, set[torch.dtype]] = {}
    for name, parameter in model.named_parameters():
        kind = "lora" if "lora_" in name else "piece" if "lead/" in name else "tower" if ".visual." in name else "llm"
        dtypes.setdefault(f"merger {kind}" if "merger" in name else kind, set()).add(parameter.dtype)
    assert dtypes["llm"] == {torch.bfloat16}
    assert dtypes["lora"] == dtypes["piece"] == dtypes["merger tower"] == {torch.float32}


def test_bfloat16_signals_are_close_to_float32(composed: Compose) -> None:
    half = composed("lead", **BFLOAT16, **{"lead.train.llm": "frozen"})
    full = composed("lead", **{"lead.train.llm": "frozen"})
    batch = batch_of(full, items([1, 2]))
    with torch.no_grad():
        expected, got = full(**batch)["loss"], half(**batch)["loss"]
    torch.testing.assert_close(got, expected, atol=0.05, rtol=0.02)


def test_weights_of_a_bfloat16_run_load_exactly(composed: Compose, tmp_path: Path) -> None:
    settings = {**BFLOAT16, "lead.train.llm": "full"}
    model = composed("lead", **settings)
    model.begin("lead.train")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-4)
    save_weights(model, tmp_path)
    twin = composed("lead", seed=1, **settings)
    twin.begin("lead.train")
    load_weights(twin, tmp_path)
    for (name, a), (_, b) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_float16_host_does_not_train(composed: Compose) -> None:
    model = composed("lead", **{"host.dtype": "float16"})
    with pytest.raises(UsageError, match=r"host.dtype=float16 cannot train"):
        model.begin("lead.train")
