"""LEAD: experts, gate and loss against the paper's equations, and every variant of its tables 3 and 4."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.model.model import RRGModel
from rrg.model.weights import load_weights, save_weights
from rrg.testing.data import batch_of, items
from rrg_lead.bce import BCE, BCEConfig
from rrg_lead.experts import Experts, ExpertsConfig
from rrg_lead.gate import Gate, GateConfig

AXES = Axes(host=7, layers=3, image=32, vision=5)
NAN = float("nan")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Section 2.3.1


def test_experts_are_three_layer_mlps_weighted_by_their_confidence() -> None:
    """s_i, f_i from expert i alone; f̃_i = σ(s_i) · f_i; e = Linear([f̃_1; …; f̃_C])."""
    piece = Experts(ExpertsConfig(hidden=6, feature=3), AXES).double()
    tokens, mask = torch.randn(2, 9, 5).double(), torch.ones(2, 9, dtype=torch.bool)
    logits, embedding = piece(tokens, mask)
    for row in range(2):
        x, parts = tokens[row].mean(dim=0), []
        for i in range(14):
            first, second, third = (
                nn.Linear(*layer.weight.shape[1:]).double() for layer in (piece.first, piece.second, piece.third)
            )
            for linear, layer in zip((first, second, third), (piece.first, piece.second, piece.third), strict=True):
                linear.weight.data, linear.bias.data = layer.weight[i].T, layer.bias[i]
            feature = nn.GELU()(second(nn.GELU()(first(x))))
            score = third(feature)
            torch.testing.assert_close(logits[row, i], score[0])
            parts.append(sigmoid(score.item()) * feature)
        expected = torch.cat(parts) @ piece.embed.weight.T + piece.embed.bias
        torch.testing.assert_close(embedding[row], expected)


def test_max_pooling_reads_each_channels_largest_value() -> None:
    torch.manual_seed(0)
    piece = Experts(ExpertsConfig(hidden=6, feature=3, pool="max"), AXES)
    tokens, mask = torch.randn(1, 4, 5), torch.tensor([[True, True, False, True]])
    largest = tokens[0, [0, 1, 3]].amax(dim=0).view(1, 1, 5)
    torch.testing.assert_close(piece(tokens, mask).disease_logits, piece(largest, mask[:, :1]).disease_logits)


# Sections 2.3.2 and 2.3.3


def gate(seed: int = 0, **settings: Any) -> Gate:
    torch.manual_seed(seed)
    piece = Gate(GateConfig(width=4, **settings), AXES, layer=0, first=None).double()
    for parameter in piece.parameters():
        parameter.data.normal_()
    return piece


def fused(piece: Gate, hidden: Tensor, evidence: Tensor) -> Tensor:
    return piece(hidden, **piece.prepare(evidence)._asdict())


def test_gate_is_equations_1_and_2() -> None:
    """g = σ(W[h; e^l] + b); h' = (1 - g) ⊙ h + g ⊙ e^l, with one concatenated W."""
    piece, hidden, evidence = gate(), torch.randn(2, 3, 7).double(), torch.randn(2, 7).double()
    whole = torch.cat([piece.gate_hidden.weight, piece.gate_expert.weight], dim=1)
    got = fused(piece, hidden, evidence)
    for row in range(2):
        projected = piece.project(evidence[row])
        for t in range(3):
            g = torch.sigmoid(whole @ torch.cat([hidden[row, t], projected]) + piece.gate_bias)
            torch.testing.assert_close(got[row, t], (1 - g) * hidden[row, t] + g * projected)


def test_low_rank_gate_is_the_full_gate_of_the_product() -> None:
    piece, hidden, evidence = gate(rank=2), torch.randn(2, 3, 7).double(), torch.randn(2, 7).double()
    full = gate()
    full.project, full.gate_bias = piece.project, piece.gate_bias
    full.gate_hidden.weight.data = piece.gate_up.weight @ piece.gate_hidden.weight
    full.gate_expert.weight.data = piece.gate_up.weight @ piece.gate_expert.weight
    torch.testing.assert_close(fused(piece, hidden, evidence), fused(full, hidden, evidence))


def test_add_is_the_sum() -> None:
    piece, hidden, evidence = gate(fusion="add"), torch.randn(2, 3, 7).double(), torch.randn(2, 7).double()
    torch.testing.assert_close(fused(piece, hidden, evidence), hidden + piece.project(evidence).unsqueeze(1))
    assert not any(name.startswith("gate") for name, _ in piece.named_parameters())


@pytest.mark.parametrize("rank", [0, 2])
def test_gate_starts_at_its_bias_and_learns(rank: int) -> None:
    piece = Gate(GateConfig(width=4, rank=rank, bias=-4.0), AXES, layer=0, first=None)
    hidden, evidence = 50 * torch.randn(2, 3, 7), torch.randn(2, 7)
    embedding = piece.project(evidence).unsqueeze(1)
    got = fused(piece, hidden, evidence)
    torch.testing.assert_close(got, hidden + sigmoid(-4.0) * (embedding - hidden))
    got.square().sum().backward()
    start = piece.gate_up if rank else piece.gate_hidden
    assert start.weight.grad.abs().sum() > 0


# Eq. 4

LABELS = torch.tensor([[1.0, 0.0, -1.0, NAN, 1.0], [NAN, -1.0, 1.0, 0.0, 0.0]])
LOGITS = torch.tensor([[0.3, -1.2, 2.0, 0.7, 1.0], [-0.4, 0.9, -2.0, 0.1, 3.0]])


@pytest.mark.parametrize("uncertain", ["negative", "positive", "ignore"])
@pytest.mark.parametrize("unmentioned", ["negative", "ignore"])
def test_bce_is_equation_4(uncertain: Any, unmentioned: Any) -> None:
    total = 0.0
    for row, label_row in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        for s, label in zip(row, label_row, strict=True):
            choice = uncertain if label == -1 else unmentioned if math.isnan(label) else None
            if choice == "ignore":
                continue
            c = {"negative": 0.0, "positive": 1.0, None: label}[choice]
            total -= c * math.log(sigmoid(s)) + (1 - c) * math.log(1 - sigmoid(s))
    loss = BCE(BCEConfig(uncertain=uncertain, unmentioned=unmentioned), AXES)(LOGITS, LABELS)
    assert float(loss) == pytest.approx(total / 2, rel=1e-5)


def test_bce_of_nothing_scored_is_zero_with_finite_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = BCE(BCEConfig(uncertain="ignore", unmentioned="ignore"), AXES)(logits, torch.full_like(LOGITS, NAN))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


# Tables 3 and 4: each variant composes, builds, takes a step, and trains the expected parts and nothing else

VARIANTS: dict[str, tuple[dict[str, Any], list[str], set[str]]] = {
    "whole": ({}, [], {"encoder", "connector", "lora", "experts", "project", "gate"}),
    "vision frozen": ({"lead.train.vision": "frozen"}, [], {"connector", "lora", "experts", "project", "gate"}),
    "llm frozen": ({"lead.train.llm": "frozen"}, [], {"encoder", "connector", "experts", "project", "gate"}),
    "both frozen": (
        {"lead.train.vision": "frozen", "lead.train.connector": "frozen", "lead.train.llm": "frozen"},
        [],
        {"experts", "project", "gate"},
    ),
    "experts alone": ({}, ["lead.gate"], {"encoder", "connector", "lora", "experts"}),
    "shared": (
        {"lead.gate.projection": "shared"},
        [],
        {"encoder", "connector", "lora", "experts", "project", "gate"},
    ),
    "add": ({"lead.gate.fusion": "add"}, [], {"encoder", "connector", "lora", "experts", "project"}),
    "low rank": ({"lead.gate.rank": 3}, [], {"encoder", "connector", "lora", "experts", "project", "gate"}),
}


def part_of(name: str) -> str:
    patterns = {
        "lora_": "lora",
        r"rrg\.post\.lead/gate\.project": "project",
        r"rrg\.post\.lead/gate\.gate": "gate",
        "^core/encoder": "encoder",
        "^core/connector": "connector",
        "^lead/experts": "experts",
    }
    return next((part for pattern, part in patterns.items() if re.search(pattern, name)), "language model")


def step(model: RRGModel, seed: int = 0) -> tuple[dict[str, Tensor], float]:
    """One optimizer step of the first stage; what changed, by parameter name, and the loss."""
    stage = model.recipe.stages[0]
    model.begin(stage)
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    loss = model(**batch_of(model, items([2, 1, 1])))["loss"]
    loss.backward()
    optimizer.step()
    return {n: p.detach() for n, p in model.named_parameters() if not torch.equal(p, before[n])}, loss.item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_trains_its_parts_and_nothing_else(variant: str, composed: Callable[..., RRGModel]) -> None:
    settings, drop, expected = VARIANTS[variant]
    model = composed("lead", drop=drop, **{"lead.train.llm": "lora", **settings})
    changed, loss = step(model)
    assert math.isfinite(loss)
    assert {part_of(name) for name in changed} == expected
    assert {part_of(n) for n, p in model.named_parameters() if p.requires_grad} == expected
    layers = {int(found[1]) for name in changed if (found := re.search(r"layers\.(\d+)\.rrg", name))}
    assert layers == (set() if drop else {0} if variant == "shared" and "gate" not in expected else set(range(3)))
    model.eval()
    texts, _ = model.generate(batch_of(model, items([1, 2]), learn=False))
    assert len(texts) == 2


def test_defaults_are_the_papers(composed: Callable[..., RRGModel]) -> None:
    model = composed("lead")
    stage = model.configs["lead.train"]
    assert (stage.lora.r, stage.lora.alpha) == (64, 128)
    published = type(stage)()
    assert (published.epochs, published.lr, published.warmup, published.schedule) == (8, 2e-4, 0.03, "cosine")
    assert (published.batch_size or 0) * (published.accumulation or 0) == 16
    assert BCEConfig().weight == 4.0
    assert model.configs["lead.gate"].layers == "all"


def test_bce_of_weight_zero_equals_its_absence_exactly(composed: Callable[..., RRGModel]) -> None:
    zero, loss = step(composed("lead", **{"lead.bce.weight": 0.0}))
    absent, other = step(composed("lead", drop=["lead.bce"]))
    assert loss == other
    assert zero.keys() == absent.keys()
    assert all(torch.equal(zero[name], absent[name]) for name in zero)


def test_loss_is_the_report_loss_plus_weighted_bce(composed: Callable[..., RRGModel]) -> None:
    model = composed("lead", **{"lead.bce.weight": 4.0})
    loss = model(**batch_of(model, items([1, 1])))["loss"].item()
    assert set(model.parts) == {"report", "lead.bce"}
    assert loss == pytest.approx(model.parts["report"] + 4 * model.parts["lead.bce"], rel=1e-5)


def test_shared_projection_is_one_module_saved_once(composed: Callable[..., RRGModel], tmp_path: Path) -> None:
    model = composed("lead", **{"lead.gate.projection": "shared"})
    gates = model.injection.pieces["lead.gate"]
    assert gates[0].project is gates[1].project is gates[2].project
    names = [name for name, _ in model.piece_parameters("lead.gate") if "project" in name]
    assert {name.split("/")[1] for name in names} == {"00"}
    save_weights(model, tmp_path)
    twin = composed("lead", seed=1, **{"lead.gate.projection": "shared"})
    assert not torch.equal(twin.injection.pieces["lead.gate"][2].project[0].weight, gates[2].project[0].weight)
    load_weights(twin, tmp_path)
    assert torch.equal(twin.injection.pieces["lead.gate"][2].project[0].weight, gates[2].project[0].weight)


def test_layerwise_projections_are_each_layers_own(composed: Callable[..., RRGModel]) -> None:
    gates = composed("lead").injection.pieces["lead.gate"]
    assert gates[0].project is not gates[1].project
    assert not torch.equal(gates[0].project[0].weight, gates[1].project[0].weight)
