"""The plan: published sizes of known hosts, exact bytes of what trains, and a table that a terminal holds."""

import json
from typing import Any

import pytest
import torch

from rrg.cli import main
from rrg.composing.composition import compose
from rrg.model.hosts.build import learn_tokenizer
from rrg.model.model import build
from rrg.plan.counting import plan
from rrg.plan.table import Plan, count, size

PUBLISHED = {
    "qwen3-vl-2b": 2_127_532_032,
    "qwen3-vl-4b": 4_437_815_808,
    "vicuna-7b": 6_738_415_616,
    "llama2-7b": 6_738_415_616,
    "phi-4": 14_659_507_200,
    "smollm2-135m": 134_515_008,
}


def parameters(planned: dict[str, Any]) -> dict[str, int]:
    return {row["name"]: row["parameters"] for row in planned["pieces"]}


@pytest.fixture(scope="module")
def tiny() -> Plan:
    return plan(compose("lead+dmsr"))


@pytest.mark.parametrize("host", PUBLISHED)
def test_a_known_host_has_its_published_size(host: str) -> None:
    rows = parameters(plan(compose("core.train", host=host)).to_json())
    assert rows["host"] + rows.get("host.vision", 0) == PUBLISHED[host]
    assert rows["host.lora"] > 0  # a row of its own


def test_8b_is_planned_here_without_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compose", "lead+dmsr", "--host", "qwen3-vl-8b", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["plan"]
    rows = parameters(planned)
    assert rows["host"] + rows["host.vision"] == 8_767_123_696
    assert planned["total_parameters"] == sum(rows.values())
    assert planned["host"] == {
        "name": "qwen3-vl-8b",
        "kind": "qwen3-vl",
        "layers": 36,
        "width": 4096,
        "dtype": "bfloat16",
    }
    assert planned["prefix"] == {"slots": 128, "views": 2}  # (256 / 32)² positions a film
    trains = planned["stages"][0]["trains"]
    assert trains["host"] == 0
    assert trains["host.lora"] == rows["host.lora"]
    assert trains["host.vision"] == rows["host.vision"]
    assert 2 * 8.7e9 < planned["generation_memory"] < 30 * 2**30
    # Two FLOPs a weight and token for the language model alone, about 230 tokens; films and gates come on top.
    assert 2 * 8.2e9 * 220 < planned["flops_per_report"] < 2 * 8.2e9 * 600


def test_lora_has_the_size_of_its_formula() -> None:
    rows = parameters(plan(compose("core.train", host="smollm2-135m")).to_json())
    hidden, inner, heads, layers, rank = 576, 1536, 3 * 64, 30, 16
    widths = 2 * (hidden + hidden) + 2 * (hidden + heads) + 3 * (hidden + inner)
    assert rows["host.lora"] == layers * rank * widths


def test_memory_of_weights_gradients_and_adamw_is_exact() -> None:
    recipe = compose("lead+dmsr", settings={"lead.train.vision": "frozen"})
    planned = plan(recipe).stages[0].memory
    model = build(recipe, tokenizer=learn_tokenizer(["the lungs are clear"] * 4, 64))
    model.begin("lead.train")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) < len(list(model.parameters()))
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    assert planned["weights"] == sum(p.nbytes for p in model.parameters())
    assert planned["gradients"] == sum(p.grad.nbytes for p in trained if p.grad is not None)
    assert planned["AdamW"] == sum(t.nbytes for t in moments)


def test_shapes_in_the_plan_are_those_of_the_model(tiny: Plan) -> None:
    shapes = {(wire["reader"], wire["signal"]): wire["shape"] for wire in tiny.wires}
    assert shapes["lead.gate", "lead.expert_embedding"] == f"host={tiny.host['width']}"
    assert shapes["dast.dmsr", "disease_logits"] == "diseases=14"
    assert shapes["host", "visual_embeds"] == f"slots={tiny.prefix['slots']} host={tiny.host['width']}"


def test_a_retrieved_report_costs_only_its_own_stage(tiny: Plan) -> None:
    first, second = tiny.stages
    assert not first.settings["exemplars"]
    assert second.settings["exemplars"]
    assert second.memory["activations"] > first.memory["activations"]
    assert {k: second.memory[k] for k in ("weights", "gradients", "AdamW")} == {
        k: first.memory[k] for k in ("weights", "gradients", "AdamW")
    }


def test_flops_grow_with_the_prompt() -> None:
    assert plan(compose("lead", settings={"image.views": 4})).flops_per_report > plan(compose("lead")).flops_per_report


def test_checkpointing_and_batch_change_the_activations() -> None:
    base = plan(compose("lead", settings={"lead.train.batch_size": 16})).stages[0].memory["activations"]
    half = plan(compose("lead", settings={"lead.train.batch_size": 8})).stages[0].memory["activations"]
    checkpointed = {"lead.train.batch_size": 16, "host.gradient_checkpointing": True}
    kept = plan(compose("lead", settings=checkpointed)).stages[0].memory["activations"]
    assert half == base // 2
    assert kept < base


def test_each_piece_says_which_distribution_gives_it(tiny: Plan) -> None:
    origins = {row["name"]: row["origin"] for row in tiny.pieces}
    assert origins["host"] == "built at random"
    assert {origins[name] for name in origins if name != "host"} == {"rrg-compose 0.1.0"}


@pytest.mark.parametrize("host", ["tiny", "qwen3-vl-8b"])
def test_the_table_fits_110_columns_and_says_what_is_estimated(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compose", "lead+dmsr", "--host", host]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 110
    assert "Memory and FLOPs are estimates." in out
    for section in ("pieces", "who feeds whom", "stage 1: lead.train", "stage 2: core.exemplars", "rrg-compose 0.1.0"):
        assert section in out


def test_json_holds_the_recipe_and_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compose", "lead", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["recipe"]["hash"] == content["plan"]["hash"] == compose("lead").hash
    assert content["recipe"]["pieces"]["lead.gate"]["fusion"] == "gate"


def test_numbers_for_reading() -> None:
    assert [count(n) for n in (0, 999, 1_000, 131_840, 33_600_000, 8_190_000_000)] == [
        "0", "999", "1.00 k", "131.84 k", "33.60 M", "8.19 B",
    ]  # fmt: skip
    assert [size(n) for n in (2**20, 2**30 - 2**20, 3 * 2**29)] == ["1 MiB", "1023 MiB", "1.5 GiB"]
