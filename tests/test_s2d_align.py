"""S2D-Align by its equations: one shared memory, contexts along the sequence, stages that go on from each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.composing.composition import compose
from rrg.model.model import RRGModel, build
from rrg.model.weights import load_weights
from rrg.plan.counting import plan
from rrg.runs.folder import stage_folder
from rrg.testing.compositions import SMALL
from rrg.testing.data import noise_folder
from rrg.train.training import train
from rrg_s2d_align.sma import SMA, SMAConfig
from tiny_runs import weights_of

Composed = Callable[..., RRGModel]
AXES = Axes(host=12, layers=2, image=32, vision=16, language=8)
FORMS = ("sma", "separate", "mlp", "q-former", "self-attention")
SHAPES = st.tuples(*[st.integers(1, 5)] * 4, st.integers(0, 999))


def sma(**settings: Any) -> SMA:
    torch.manual_seed(0)
    return SMA(SMAConfig(**{"queries": 5, "width": 16, "hidden": 10, **settings}), AXES).eval()


def drawn(batch: int, patches: int, reference: int, phrase: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    given = {}
    for name, length, width in (("patch", patches, 16), ("reference", reference, 8), ("phrase", phrase, 8)):
        given[f"{name}_tokens"] = torch.randn(batch, length, width, generator=generator)
        given[f"{name}_mask"] = torch.rand(batch, length, generator=generator) < 0.7
        given[f"{name}_mask"][:, 0] = True
    return given


def part(given: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {key: value for key, value in given.items() if key.partition("_")[0] in names}


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_slots_are_queries_times_contexts_whatever_the_inputs_length(shape: tuple[int, ...]) -> None:
    given, module = drawn(*shape), sma()
    for names in (["patch"], ["patch", "reference"], ["patch", "reference", "phrase"], ["patch", "phrase"]):
        embeds, mask = module(**part(given, *names))
        assert embeds.shape == (shape[0], 5 * len(names), 12)
        assert mask.shape == embeds.shape[:2]
        assert mask.all()


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_c1_is_a_part_of_c2_and_c2_of_c3(shape: tuple[int, ...]) -> None:
    given, module = drawn(*shape), sma()
    with torch.no_grad():
        c1, c2, c3 = (
            module(**part(given, *names)).visual_embeds
            for names in (["patch"], ["patch", "reference"], ["patch", "reference", "phrase"])
        )
    torch.testing.assert_close(c2[:, :5], c1)
    torch.testing.assert_close(c3[:, :10], c2)


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.sampled_from(FORMS))
def test_masked_tokens_do_not_matter(shape: tuple[int, ...], form: str) -> None:
    given, module = drawn(*shape), sma(form=form)
    spoilt = dict(given)
    for name in ("patch", "reference", "phrase"):
        spoilt[f"{name}_tokens"] = given[f"{name}_tokens"].masked_fill(~given[f"{name}_mask"].unsqueeze(-1), torch.nan)
    with torch.no_grad():
        clean, other = module(**given), module(**spoilt)
    assert torch.equal(clean.visual_mask, other.visual_mask)
    torch.testing.assert_close(clean.visual_embeds[clean.visual_mask], other.visual_embeds[clean.visual_mask])


def test_a_study_without_a_reference_has_no_slot_for_it_and_stays_finite() -> None:
    given, module = drawn(2, 3, 3, 3, 0), sma()
    given["reference_mask"][1] = False
    embeds, mask = module(**given)
    assert mask[1].tolist() == [True] * 5 + [False] * 5 + [True] * 5
    assert embeds.isfinite().all()


def test_one_modality_by_the_equation() -> None:
    """SMA_v(v) = LN(MLP(CrossAttn(M, v, v))), the attention written out."""
    given, module = drawn(2, 4, 1, 1, 3), sma(heads=2)
    adapter, memory, x = module.adapters["vision"], module.memory["shared"], given["patch_tokens"]
    attention: Any = adapter.attention
    q, k, v = (
        F.linear(source, weight, bias)
        for source, weight, bias in zip(
            (memory.expand(2, -1, -1), x, x),
            (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
            if attention.in_proj_weight is None
            else attention.in_proj_weight.chunk(3),
            attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~given["patch_mask"][:, None, None], -torch.inf)
    found = attention.out_proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
    linear = [layer for layer in adapter.mlp if isinstance(layer, torch.nn.Linear)]
    assert len(linear) == 3
    for number, layer in enumerate(linear):
        found = layer(found)
        found = F.gelu(found) if number < 2 else found
    expected = F.layer_norm(found, (12,), adapter.norm.weight, adapter.norm.bias)
    torch.testing.assert_close(module(**part(given, "patch")).visual_embeds, expected)


def test_the_memory_is_one_parameter_that_every_modality_reads_and_separate_has_its_own_for_each() -> None:
    given = drawn(2, 3, 3, 3, 0)
    for form, memories in (("sma", 1), ("separate", 3), ("q-former", 3), ("mlp", 0), ("self-attention", 0)):
        module = sma(form=form)
        assert len(module.memory) == memories
        assert len({id(p) for p in module.parameters()}) == len(list(module.named_parameters(remove_duplicate=False)))
        embeds = module(**given).visual_embeds
        if form == "sma":
            slots = embeds.shape[1] // 3
            for place in range(3):
                share = embeds[:, place * slots : (place + 1) * slots].pow(3).sum()
                [gradient] = torch.autograd.grad(share, module.memory["shared"], retain_graph=True)
                assert gradient.any()


def test_a_stage_leaves_adapters_alone_whose_text_it_does_not_show(composed: Composed) -> None:
    from rrg.testing.data import batch_of, items

    model = composed("s2d-align")
    memory = model.modules_by_piece["s2d-align.sma"].memory["shared"]  # type: ignore[index, union-attr]
    for stage, reached in (("pag-1", {"vision"}), ("pag-2", {"vision", "reference"})):
        model.begin(f"s2d-align.{stage}")
        model.train().zero_grad()
        model(**batch_of(model, items([1, 2])))["loss"].backward()
        adapters: Any = model.modules_by_piece["s2d-align.sma"].adapters
        moved = {
            name for name in adapters if any(p.grad is not None and p.grad.any() for p in adapters[name].parameters())
        }
        assert moved == reached
        assert model.modules_by_piece["s2d-align.sma"].memory["shared"] is memory  # type: ignore[index, union-attr]


def test_a_stage_starts_from_the_weights_of_the_one_before_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = compose("s2d-align", settings={**SMALL, "stages.batch_size": 2, "stages.max_steps": 2})
    studies, starts = noise_folder(tmp_path / "data", {"train": 5}), []
    from rrg.train.trainer import StageTrainer

    run = StageTrainer.train

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        starts.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
        return run(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "train", watched)
    train(recipe, studies, tmp_path / "run")
    assert len(starts) == 3
    for number, start in enumerate(starts[1:], start=1):
        from rrg.model.hosts.build import open_tokenizer

        saved = build(recipe, tokenizer=open_tokenizer(tmp_path / "run" / "tokenizer"))
        for name in recipe.stages[:number]:
            saved.begin(name)
        load_weights(saved, stage_folder(tmp_path / "run", recipe.stages, number))
        assert all(torch.equal(p, start[name]) for name, p in saved.named_parameters())
    assert len({name: data for name, data in weights_of(tmp_path / "run").items() if "pieces" in name}) == 3


def test_the_published_stages_on_vicuna(capsys: pytest.CaptureFixture[str]) -> None:
    planned = plan(compose("s2d-align", host="vicuna-7b"))
    first, second, third = planned.stages
    trained = [{part for part, count in stage.trains.items() if count} for stage in planned.stages]
    assert trained == [{"s2d-align.sma"}, {"s2d-align.sma", "host.lora"}, {"s2d-align.sma", "host.lora"}]
    assert [stage.texts for stage in (first, second, third)] == [[], ["reference"], ["reference", "phrase"]]
    parameters = {piece["name"]: piece["parameters"] for piece in planned.pieces}
    assert parameters["s2d-align.rad-dino"] == 86_580_480  # DINOv2-B
    assert planned.prefix["slots"] == 128


@pytest.mark.parametrize("form", FORMS)
def test_every_connector_of_table_4_is_planned(form: str) -> None:
    planned = plan(compose("s2d-align", settings={"s2d-align.sma.form": form}))
    assert planned.prefix["slots"] == (72 if form in ("mlp", "self-attention") else 16)
