"""VDGen by its equations: VSE's two readings by hand, DID's symmetry, gradients to what they read alone."""

from collections.abc import Callable
from math import exp, log
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.composing.composition import compose
from rrg.core_pieces.connector import Connector
from rrg.model.model import RRGModel
from rrg.plan.counting import plan
from rrg.testing.data import batch_of, items
from rrg_vdgen import PROMPT
from rrg_vdgen.did import DID, DIDConfig
from rrg_vdgen.vse import VSE, VSEConfig

AXES = Axes(host=12, layers=2, image=32, vision=6, language=4)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 999))


def vse(**settings: Any) -> VSE:
    torch.manual_seed(0)
    return VSE(VSEConfig(**settings), AXES)


def did(**settings: Any) -> DID:
    torch.manual_seed(0)
    return DID(DIDConfig(**settings), AXES)


def drawn(batch: int, patches: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, patches, generator=generator) < 0.7
    mask[:, 0] = True
    tokens = torch.randn(batch, patches, 6, generator=generator)
    return tokens.requires_grad_(), mask, torch.randn(batch, 4, generator=generator).requires_grad_()


def test_the_two_readings_of_a_3_by_3_case_by_hand() -> None:
    similarity = [[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 1.0]]
    kept = sum(log(sum(exp(s) for s in row)) - row[i] for i, row in enumerate(similarity)) / 3
    left_out = (
        sum(log(sum(exp(s) for j, s in enumerate(row) if j != i)) - row[i] for i, row in enumerate(similarity)) / 3
    )
    assert vse().of(torch.tensor(similarity)).item() == pytest.approx(kept)
    assert vse(self_pair="decoupled").of(torch.tensor(similarity)).item() == pytest.approx(left_out)


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_s_is_made_as_the_text_says(shape: tuple[int, int, int]) -> None:
    tokens, mask, _ = drawn(*shape)
    module = vse(temperature=0.5)
    h = torch.stack([F.layer_norm(row[kept], (6,)).mean(dim=0) for row, kept in zip(tokens, mask, strict=True)])
    z = h @ module.project.weight.T + module.project.bias
    assert z.shape[1] == 12
    torch.testing.assert_close(module(tokens, mask), module.of(z @ z.T / 0.5))


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.sampled_from(["positive", "decoupled"]), st.booleans())
def test_vse_is_finite_with_finite_gradients_at_batch_1_too(
    shape: tuple[int, int, int], self_pair: str, normalize: bool
) -> None:
    tokens, mask, _ = drawn(*shape)
    loss = vse(self_pair=self_pair, normalize=normalize)(tokens, mask)
    loss.backward()
    assert loss.isfinite()
    assert tokens.grad.isfinite().all()
    assert not tokens.grad[~mask].any()
    if shape[0] == 1:
        assert loss.item() == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(SHAPES)
def test_did_is_finite_with_finite_gradients_at_batch_1_too(shape: tuple[int, int, int]) -> None:
    tokens, mask, reports = drawn(*shape)
    loss = did()(tokens, mask, reports)
    loss.backward()
    assert loss.isfinite()
    assert tokens.grad.isfinite().all()
    assert reports.grad.isfinite().all()
    assert not tokens.grad[~mask].any()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 999))
def test_did_is_the_same_with_the_modalities_swapped(batch: int, seed: int) -> None:
    similarity = torch.randn(batch, batch, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(did().of(similarity), did().of(similarity.T))


def test_did_by_hand() -> None:
    tokens, mask, reports = drawn(3, 2, 0)
    module = did(temperature=0.2)
    films = F.normalize(torch.stack([row[kept].mean(dim=0) for row, kept in zip(tokens, mask, strict=True)]), dim=1)
    texts = F.normalize(reports @ module.project.weight.T + module.project.bias, dim=1)
    s = (films @ texts.T / 0.2).exp()
    v2t, t2v = -(s.diag() / s.sum(dim=1)).log().mean(), -(s.diag() / s.sum(dim=0)).log().mean()
    torch.testing.assert_close(module(tokens, mask, reports), (v2t + t2v) / 2)


def test_the_temperature_is_learnt_where_it_shall_be() -> None:
    for module in (vse(), did()):
        assert not [name for name, _ in module.named_parameters() if name.startswith("temperature")]
    tokens, mask, reports = drawn(3, 2, 0)
    for module, arguments in ((vse(learnable=True), (tokens, mask)), (did(learnable=True), (tokens, mask, reports))):
        module(*arguments).backward()
        temperature: Any = module.temperature
        assert temperature.log.grad.any()
        assert temperature.log.exp().item() == pytest.approx(0.07)


def test_what_the_losses_do_not_read_gets_no_gradient(composed: Callable[..., RRGModel]) -> None:
    # As printed, z grows with the width: S_ii outweighs the rest from the start, and the gradient is 0.
    model = composed("vdgen", **{"vdgen.vse.normalize": True})
    model.begin("vdgen.train")
    model.train()
    values = model.signals(batch_of(model, items([1, 2, 1])))
    for name, others in (("vdgen.vse", {"vdgen.did", "core.text", "core.connector"}), ("vdgen.did", {"vdgen.vse"})):
        model.zero_grad()
        model.modules_by_piece[name](**model.arguments(name, values)).backward(retain_graph=True)
        reached = {
            n
            for n in model.modules_by_piece
            for _, p in model.piece_parameters(n)
            if p.grad is not None and p.grad.any()
        }
        assert reached >= {"vdgen.swin", name}
        assert not reached & (others | {"core.connector"})
        assert not [n for n, p in model.host.language_parameters() if p.grad is not None and p.grad.any()]
    assert isinstance(model.modules_by_piece["core.connector"], Connector)


def test_the_published_settings_on_llama_2() -> None:
    recipe = compose("vdgen", host="llama2-7b")
    assert recipe.host.prompt == PROMPT
    assert recipe.generation.max_new_tokens == 100
    assert recipe.image.size == 224
    planned = plan(recipe)
    [stage] = planned.stages
    assert stage.losses == ["report", "vdgen.vse", "vdgen.did"]
    assert stage.settings["lora"] == {"r": 16, "alpha": 16.0, "dropout": 0.0}
    parameters = {piece["name"]: piece["parameters"] for piece in planned.pieces}
    # Swin-B: 87,768,224 published with its head of 1,000 classes; a grey film needs a third of the first convolution.
    head, colours = 1024 * 1000 + 1000, 2 * 128 * 4 * 4
    assert parameters["vdgen.swin"] + head + colours == 87_768_224
    assert planned.prefix["slots"] == 2 * 49


def test_a_host_built_at_random_keeps_its_own_prompt() -> None:
    assert compose("vdgen").host.prompt == "{visual}{exemplar}"
    assert compose("vdgen", host="llama2-7b", settings={"host.prompt": "{visual}{exemplar}!"}).host.prompt.endswith("!")


def test_without_each_module(composed: Callable[..., RRGModel]) -> None:
    losses = {
        "vdgen.vse": ["report", "vdgen.did"],
        "vdgen.did": ["report", "vdgen.vse"],
    }
    for left_out, kept in losses.items():
        model = composed("vdgen", drop=[left_out])
        model.begin("vdgen.train")
        assert model.roles.losses(model.stage) == kept
    frozen = composed("vdgen", **{"vdgen.train.llm": "frozen"})
    frozen.begin("vdgen.train")
    assert not [n for n, p in frozen.host.language_parameters() if p.requires_grad]
    assert isinstance(frozen.modules_by_piece["vdgen.vse"], nn.Module)
