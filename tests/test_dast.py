"""DAST's tokens, fusion and stages: the paper's equations at odd sizes; DMSR has a file of its own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rrg.axes import Axes
from rrg.cli import main
from rrg.composing.composition import compose
from rrg.config import GenerationConfig
from rrg.model.model import RRGModel
from rrg.plan.counting import plan
from rrg.targets import TargetConfig
from rrg.testing.data import batch_of, items
from rrg_dast.cls import Classification
from rrg_dast.contrastive import Contrastive, ContrastiveConfig
from rrg_dast.dvaf import DVAF, DVAFConfig
from rrg_dast.tokens import DiseaseTokens, TokensConfig
from tiny_runs import step_lowers_the_loss

VISION, HOST = 16, 9
AXES = Axes(host=HOST, layers=2, image=32, vision=VISION)
WHOLE = "dast"
SIZES = {"batch": st.integers(1, 3), "patches": st.integers(1, 5), "seed": st.integers(0, 99)}
few = settings(max_examples=8, deadline=None)


def drawn(batch: int, patches: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """patch_tokens, patch_mask with the first patch of each study, disease_tokens."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, patches, generator=generator) < 0.6
    mask[:, 0] = True
    tokens = torch.randn(batch, patches, VISION, generator=generator)
    return tokens, mask, torch.randn(batch, 14, VISION, generator=generator)


def dvaf(**config: Any) -> DVAF:
    torch.manual_seed(0)
    return DVAF(DVAFConfig(**config), AXES).eval()


def mean_patch(tokens: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([row[kept].mean(dim=0) for row, kept in zip(tokens, mask, strict=True)])


@few
@given(**SIZES)
def test_permuting_the_tokens_permutes_the_logits(batch: int, patches: int, seed: int) -> None:
    torch.manual_seed(seed)
    module = DiseaseTokens(TokensConfig(), AXES).eval()
    patch_tokens, mask, _ = drawn(batch, patches, seed)
    order = torch.randperm(14)
    with torch.no_grad():
        before = module(patch_tokens, mask)
        for parameter in (module.tokens, module.weight, module.bias):
            parameter.copy_(parameter[order])
        after = module(patch_tokens, mask)
    torch.testing.assert_close(after.disease_logits, before.disease_logits[:, order])
    torch.testing.assert_close(after.disease_tokens, before.disease_tokens[:, order])


def test_a_token_is_scored_by_its_own_head_alone() -> None:
    module = DiseaseTokens(TokensConfig(), AXES).eval()
    patch_tokens, mask, _ = drawn(2, 3, 0)
    module(patch_tokens, mask).disease_logits[:, 4].sum().backward()
    others = [i for i in range(14) if i != 4]
    assert module.tokens.grad is not None
    assert module.weight.grad is not None
    assert module.tokens.grad[4].abs().sum() > 0
    assert torch.equal(module.tokens.grad[others], torch.zeros(13, VISION))
    assert torch.equal(module.weight.grad[others], torch.zeros(13, VISION))


@few
@given(**SIZES)
def test_the_gate_lies_between_0_and_1_and_its_ends_are_the_two_inputs(batch: int, patches: int, seed: int) -> None:
    module, seen = dvaf(), {}
    patch_tokens, mask, disease_tokens = drawn(batch, patches, seed)
    fuse = module.fuse

    def keep(gate: Tensor, disease: Tensor, visual: Tensor) -> Tensor:
        seen.update(gate=gate, disease=disease, visual=visual)
        return fuse(gate, disease, visual)

    module.fuse = keep  # type: ignore[method-assign]
    with torch.no_grad():
        module(patch_tokens, mask, disease_tokens)
        assert ((seen["gate"] > 0) & (seen["gate"] < 1)).all()
        torch.testing.assert_close(seen["visual"], mean_patch(patch_tokens, mask))
        kept = patch_tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
        for bias, end in ((1e4, "disease"), (-1e4, "visual")):
            module.gate.bias.fill_(bias)
            assert torch.equal(module.added(kept, mask, disease_tokens)[:, 0], seen[end])


@few
@given(**SIZES)
def test_the_prefix_is_the_patches_and_what_was_fused(batch: int, patches: int, seed: int) -> None:
    patch_tokens, mask, disease_tokens = drawn(batch, patches, seed)
    for fusion, added in (("dvaf", 1), ("mean", 1), ("concatenation", 14)):
        module = dvaf(fusion=fusion)
        with torch.no_grad():
            embeds, visual_mask = module(patch_tokens, mask, disease_tokens)
            expected = module.norm(module.project(patch_tokens))
        assert embeds.shape == (batch, patches + added, HOST)
        assert torch.equal(visual_mask[:, :patches], mask)
        assert visual_mask[:, patches:].all()
        torch.testing.assert_close(embeds[:, :patches][mask], expected[mask])


def test_mean_pooling_is_over_patches_and_disease_tokens() -> None:
    patch_tokens, mask, disease_tokens = drawn(2, 4, 3)
    kept = patch_tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
    found = dvaf(fusion="mean").added(kept, mask, disease_tokens)[:, 0]
    for row in range(2):
        torch.testing.assert_close(
            found[row], torch.cat([patch_tokens[row][mask[row]], disease_tokens[row]]).mean(dim=0)
        )


def test_the_classification_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 9.0]])
    labels = torch.tensor([[1.0, 0.0, -1.0, torch.nan]])
    ignore = TargetConfig(uncertain="ignore", unmentioned="ignore")
    loss = Classification(ignore, AXES)(logits, labels)
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item())


@few
@given(st.integers(1, 5), st.integers(0, 99))
def test_the_contrastive_loss_by_its_equation(batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    visual, reports = torch.randn(batch, 4, generator=generator), torch.randn(batch, 3, generator=generator)
    torch.manual_seed(0)
    axes = Axes(host=HOST, layers=2, image=32, vision=4, language=3)
    for direction in ("image-to-text", "both"):
        module = Contrastive(ContrastiveConfig(direction=direction, temperature=0.3), axes)
        similarity = torch.cosine_similarity(visual[:, None], module.project(reports)[None], dim=-1) / 0.3
        rows, columns = (-similarity.log_softmax(dim=d).diagonal().mean() for d in (1, 0))
        expected = (rows + columns) / 2 if direction == "both" else rows
        loss = module(visual, reports)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_the_published_settings_on_phi_4() -> None:
    recipe = compose("dast", host="phi-4")
    planned = plan(recipe)
    assert recipe.image.size == 224
    assert recipe.pieces["core.text"]["model"] == "emilyalsentzer/Bio_ClinicalBERT"
    trained = [{part for part, count in stage.trains.items() if count} for stage in planned.stages]
    assert trained == [{"dast.vmamba", "dast.tokens", "dast.contrastive"}, {"dast.dvaf"}]
    parameters = {piece["name"]: piece["parameters"] for piece in planned.pieces}
    assert parameters["dast.vmamba"] == 29_480_064  # T[s1l8], 30,249,064 with its head of 1,000 classes
    assert planned.prefix["slots"] == 2 * 49 + 1


@pytest.mark.parametrize(("fusion", "slots"), [("dvaf", 19), ("mean", 19), ("concatenation", 32)])
def test_it_is_planned(fusion: str, slots: int) -> None:
    planned = plan(compose(WHOLE, settings={"dast.dvaf.fusion": fusion}))
    assert planned.prefix["slots"] == slots  # two films of 9 patches
    assert [stage.losses for stage in planned.stages] == [["dast.cls", "dast.contrastive"], ["report"]]
    assert [stage.texts for stage in planned.stages] == [["report"], []]


def test_the_stages_train_what_the_paper_trains(composed: Callable[..., RRGModel]) -> None:
    model = composed(WHOLE, **{"dast.stage-2.llm": "frozen"})  # `tiny` is built at random and trains in full
    trained = {}
    for stage in model.recipe.stages:
        model.begin(stage)
        names = (name.replace("/", ".") for name, p in model.named_parameters() if p.requires_grad)
        trained[stage] = {".".join(name.split(".")[:2]) for name in names}
    # The text encoder of `tiny` is built at random, so it learns; a published one is frozen.
    first = {"dast.vmamba", "dast.tokens", "dast.contrastive", "core.text"}
    assert trained == {"dast.stage-1": first, "dast.stage-2": {"dast.dvaf"}}
    assert model.configs["dast.stage-2"].exemplars


def test_it_trains_and_writes(composed: Callable[..., RRGModel]) -> None:
    model = composed(WHOLE)
    for stage, parts in (("dast.stage-1", {"dast.cls", "dast.contrastive"}), ("dast.stage-2", {"report"})):
        model.begin(stage)
        model.train()
        assert step_lowers_the_loss(model, batch_of(model, items([1, 2])))
        assert set(model.parts) == parts
    texts, values = model.eval().generate(
        batch_of(model, items([1, 2]), learn=False), GenerationConfig(max_new_tokens=4)
    )
    assert len(texts) == 2
    assert model.keys(values).shape[0] == 2


def test_beside_lead_each_method_reads_its_own_evidence(composed: Callable[..., RRGModel]) -> None:
    model = composed("lead+dast")
    assert model.recipe.wire["lead.bce.disease_logits"] == "lead.experts"
    assert model.recipe.wire["dast.cls.disease_logits"] == "dast.tokens"
    assert model.recipe.wire["dast.dmsr.disease_logits"] == "dast.tokens"


def test_heads_that_do_not_divide_the_width_are_one_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compose", "dast.tokens+dast.cls", "--set", "dast.tokens.heads=7"]) == 2
    said = capsys.readouterr().err
    assert (
        "piece dast.tokens cannot be built with its settings and Axes(host=256, layers=3, image=96, vision=256" in said
    )
    assert "embed_dim must be divisible by num_heads" in said
