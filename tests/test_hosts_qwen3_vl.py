"""Qwen3-VL as host: against its own processor, its own native run, and beside a composition's encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rrg.composing.host_names import host_preset
from rrg.config import GenerationConfig, HostConfig
from rrg.errors import UsageError
from rrg.model.hosts.build import build_host
from rrg.model.hosts.qwen3_vl import Qwen3VLHost
from rrg.model.hosts.text import positions
from rrg.model.model import RRGModel
from rrg.testing.data import batch_of, items


@pytest.fixture
def qwen(qwen3_vl_folder: Path) -> Qwen3VLHost:
    host = build_host(HostConfig(**host_preset(str(qwen3_vl_folder))["host"]), None)
    assert isinstance(host, Qwen3VLHost)
    return host.eval()


def test_patchify_equals_transformers_own_processor(qwen: Qwen3VLHost) -> None:
    from transformers import Qwen2VLImageProcessor

    processor = Qwen2VLImageProcessor(
        size={"shortest_edge": 64 * 64, "longest_edge": 16777216},
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    grey = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    expected = processor(images=[np.repeat(film[:, :, None], 3, 2) for film in grey], return_tensors="pt")
    patches, grid = qwen.patchify(torch.from_numpy(grey / 255).float()[:, None])
    torch.testing.assert_close(patches, expected.pixel_values, atol=1e-6, rtol=0)
    assert torch.equal(grid, expected.image_grid_thw)


@pytest.mark.parametrize("size", [33, 48])
def test_film_size_that_does_not_fit_the_tower(qwen: Qwen3VLHost, size: int) -> None:
    with pytest.raises(UsageError, match=rf"image.size={size}: .*multiple of 32; set image.size="):
        qwen.grid(size)


def native_inputs(model: RRGModel, batch: dict[str, Any]) -> dict[str, Any]:
    """What the model's own processor would make of the batch."""
    host: Any = model.host
    patches, grid = host.patchify(batch["pixel_values"][batch["view_mask"]])
    ids = batch["input_ids"]
    return {
        "input_ids": ids,
        "attention_mask": batch["attention_mask"],
        "mm_token_type_ids": (ids == host.model.config.image_token_id).int(),
        "pixel_values": patches,
        "image_grid_thw": grid,
    }


@pytest.mark.parametrize("films", [[1, 1], [1, 2], [2, 1, 2]])
def test_native_path_equals_the_models_plain_forward(films: list[int], composed: Callable[..., RRGModel]) -> None:
    model = composed("dmsr+lead.experts", host="qwen3-vl", **{"image.size": 64})
    batch = batch_of(model, items(films, size=64))
    with torch.no_grad():
        expected = model.host.model(**native_inputs(model, batch)).logits
        logits = model.host.model(**model._inputs(batch, model.signals(batch))).logits
    kept = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[kept], expected[kept], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("beams", "returned"), [(1, 1), (3, 1), (3, 2)])
def test_native_path_equals_the_models_own_generate(
    beams: int, returned: int, composed: Callable[..., RRGModel]
) -> None:
    model = composed("lead.experts", host="qwen3-vl")
    batch = batch_of(model, items([1, 2]), learn=False, exemplars={"s0": "The heart is normal."})
    assert not batch["attention_mask"].all()
    options = {"num_return_sequences": returned}
    settings = GenerationConfig(max_new_tokens=6, beams=beams)
    values = model.signals(batch)
    first, _ = model.generate(batch, settings, values, **options)
    again, _ = model.generate(batch, settings, values, **options)  # the tower's output survives its use
    tokenizer = model.host.tokenizer
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    options |= {"max_new_tokens": 6, "num_beams": beams, "do_sample": False, **ends}
    native = model.host.model.generate(**native_inputs(model, batch), **options)[:, batch["input_ids"].shape[1] :]
    expected = [text.strip() for text in tokenizer.batch_decode(native, skip_special_tokens=True)]
    assert first == again == expected


def test_tower_runs_once_and_feeds_both_ways(composed: Callable[..., RRGModel]) -> None:
    model = composed("lead", host="qwen3-vl")
    calls = []
    model.host.tower.register_forward_hook(lambda *_: calls.append(1))
    model.generate(batch_of(model, items([1, 2]), learn=False))
    assert calls == [1]


def test_composition_with_its_own_encoder_replaces_tower_and_deepstack(composed: Callable[..., RRGModel]) -> None:
    model = composed("core.encoder+lead", host="qwen3-vl", **{"lead.train.llm": "lora"})
    assert not model.native
    model.host.tower.register_forward_hook(lambda *_: pytest.fail("the tower ran"))
    model.begin("lead.train")
    batch = batch_of(model, items([1, 2]))
    model(**batch)["loss"].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(".visual." in name for name in trained)
    assert any("core/encoder" in name for name in trained)
    prompts = batch_of(model, items([1, 2]), learn=False)
    image = model.host.model.config.image_token_id
    assert not (prompts["input_ids"] == image).any()
    assert len(model.generate(prompts)[0]) == 2


def test_replaced_tower_reads_the_prefix_as_a_text_model_would(composed: Callable[..., RRGModel]) -> None:
    model = composed("core.encoder", host="qwen3-vl")
    batch = batch_of(model, items([2, 1]))
    with torch.no_grad():
        inputs = model._inputs(batch, model.signals(batch))
        logits = model.host.model(**inputs).logits
        hidden = model.host.model.model.language_model(
            inputs_embeds=inputs["inputs_embeds"],
            attention_mask=inputs["attention_mask"],
            position_ids=positions(inputs["attention_mask"]),
        ).last_hidden_state
    torch.testing.assert_close(logits, model.host.model.lm_head(hidden))


def test_native_stage_trains_tower_and_mergers_by_their_settings(composed: Callable[..., RRGModel]) -> None:
    for vision in ("frozen", "full"):
        for connector in ("frozen", "full"):
            settings = {"lead.train.vision": vision, "lead.train.connector": connector, "lead.train.llm": "lora"}
            model = composed("lead", host="qwen3-vl", **settings)
            model.begin("lead.train")
            visual = {n: p.requires_grad for n, p in model.host.tower.named_parameters()}
            assert {grad for n, grad in visual.items() if "merger" in n} == {connector == "full"}
            assert {grad for n, grad in visual.items() if "merger" not in n} == {vision == "full"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"host.prompt": "Findings:{visual}{exemplar}", "host.film": "{film}"}, "ends in a film's tokens"),
        ({"host.prompt": "{visual}{exemplar}Findings: <|image_pad|>"}, "found 2"),
    ],
)
def test_a_prompt_that_a_report_cannot_go_on_from(
    settings: dict[str, str], says: str, composed: Callable[..., RRGModel]
) -> None:
    with pytest.raises(UsageError, match=says):
        batch_of(composed("lead", host="qwen3-vl", **{"image.size": 32, **settings}), items([1]), learn=False)
