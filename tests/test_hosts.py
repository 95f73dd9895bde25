"""Text hosts: prompt and loss, other families, tokenizers and lengths that do not fit, wrong folders and paths."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rrg.composing.composition import compose
from rrg.composing.host_names import host_preset
from rrg.config import GenerationConfig, HostConfig, LoRA
from rrg.errors import RRGError, UsageError
from rrg.model.hosts.build import build_host, open_tokenizer
from rrg.model.hosts.lengths import lengths_of
from rrg.model.hosts.text import TextHost, gaps_first, positions
from rrg.model.model import build
from rrg.plan.counting import plan
from rrg.testing import compositions
from rrg.testing.data import batch_of, items, noise_folder
from rrg.testing.hosts import tiny_model
from rrg.train.training import train

CONFIG = HostConfig(name="tiny", kind="text", prompt="{visual}{exemplar}", exemplar="{exemplar}")


def folder_host(folder: Path | str, **settings: Any) -> HostConfig:
    return HostConfig(**{**host_preset(str(folder))["host"], **settings})


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    tiny_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Text hosts


def text_host(tokenizer: Any) -> TextHost:
    return TextHost(CONFIG, tiny_model("llama"), tokenizer)


def test_assemble_puts_the_prefix_between_the_prompts_halves_and_gaps_first(tokenizer: Any) -> None:
    host = text_host(tokenizer)
    batch = {
        "before_ids": torch.tensor([1, 9]),
        "input_ids": torch.tensor([[5, 6, 7], [0, 8, 9]]),
        "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]]),
    }
    prefix, mask = torch.randn(2, 4, 24), torch.tensor([[True] * 4, [True, True, False, False]])
    inputs = host.assemble(batch, prefix, mask)
    embed = host.model.get_input_embeddings()
    whole = torch.cat([embed(batch["before_ids"]), prefix[0], embed(batch["input_ids"][0])])
    assert torch.equal(inputs["inputs_embeds"][0], whole)
    kept = torch.cat([embed(batch["before_ids"]), prefix[1, :2], embed(batch["input_ids"][1, 1:])])
    assert torch.equal(inputs["inputs_embeds"][1, 3:], kept)
    assert inputs["attention_mask"].tolist() == [[1] * 9, [0, 0, 0, 1, 1, 1, 1, 1, 1]]
    assert inputs["position_ids"].tolist() == [list(range(9)), [0, 0, 0, 0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("fixed", "mask", "order"),
    [
        (0, [1, 0, 1, 1, 0, 0], [1, 4, 5, 0, 2, 3]),
        (3, [1, 0, 1, 1, 0, 0], [1, 0, 2, 3, 4, 5]),  # the padding of a batch to learn from
        (2, [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_gaps_first(fixed: int, mask: list[int], order: list[int]) -> None:
    embeds, moved = gaps_first(torch.arange(6.0).view(1, 6, 1), torch.tensor([mask]), fixed)
    assert embeds.flatten().tolist() == order
    assert moved.flatten().tolist() == [mask[i] for i in order]


def test_loss_is_the_mean_cross_entropy_of_the_next_scored_token(tokenizer: Any) -> None:
    host = text_host(tokenizer)
    ids = torch.tensor([[1, 40, 41, 42, 2], [1, 50, 2, 0, 0]])
    labels = torch.tensor([[-100, -100, 41, 42, 2], [-100, 50, 2, -100, -100]])
    embeds, mask = host.model.get_input_embeddings()(ids), torch.ones_like(ids)
    inputs = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions(mask)}
    with torch.no_grad():
        chances = host.model(ids).logits.log_softmax(-1)
        loss = host.loss(inputs, labels, 0.0)
        # The prefix is not labelled: labels cover the sequence's end alone.
        short = host.loss(inputs, labels[:, 1:], 0.0)
    scored = [-chances[r, t - 1, labels[r, t]] for r in range(2) for t in range(1, 5) if labels[r, t] != -100]
    torch.testing.assert_close(loss, torch.stack(scored).mean())
    torch.testing.assert_close(short, loss)


def test_published_decoding_preferences_do_not_leak_into_generation(tokenizer: Any) -> None:
    from transformers import GenerationConfig as Decoding

    model = tiny_model("llama")
    ids = torch.tensor([[1, 40, 41]])
    inputs = {"inputs_embeds": model.get_input_embeddings()(ids), "attention_mask": torch.ones_like(ids)}
    settings = GenerationConfig(max_new_tokens=8)
    plain = TextHost(CONFIG, model, tokenizer).generate(inputs, settings)
    model.generation_config = Decoding(repetition_penalty=9.0, do_sample=True, temperature=5.0, min_new_tokens=3)
    assert TextHost(CONFIG, model, tokenizer).generate(inputs, settings) == plain


@pytest.mark.parametrize("kind", ["llama", "phi3", "qwen3-vl"])
def test_lora_adapts_every_linear_layer_of_the_language_model_alone(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    tiny_model(kind).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    host = build_host(folder_host(tmp_path), LoRA(r=2))
    adapted = {n.partition(".lora_")[0] for n, _ in host.model.named_parameters() if ".lora_A" in n}
    layers = host.model.get_decoder().layers
    linear = sum(type(m).__name__ == "Linear" and "lora_" in n for n, m in layers.named_modules())
    per_layer = 4 if kind == "phi3" else 7
    assert len(adapted) == 3 * per_layer
    assert linear == 2 * len(adapted)
    assert not any("visual" in name for name in adapted)


def test_bfloat16_folder_keeps_its_dtype_and_adapters_are_float32(llama_folder: Path) -> None:
    host = build_host(folder_host(llama_folder, dtype="bfloat16"), LoRA(r=2))
    dtypes = {"lora" if "lora_" in n else "base": p.dtype for n, p in host.model.named_parameters()}
    assert dtypes == {"lora": torch.float32, "base": torch.bfloat16}


# Folders and names that are wrong


def broken(source: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(folder)
    return folder


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()


def with_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


WRONG = {
    "no tokenizer": without_tokenizer,
    "unknown architecture": with_config(model_type="nothing-known"),
    "no language model": with_config(model_type="dinov2"),
    "other sizes": with_config(hidden_size=48),
    "cut weights": cut_weights,
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_folder_is_one_clear_error(what: str, llama_folder: Path, tmp_path: Path) -> None:
    folder = broken(llama_folder, tmp_path, WRONG[what])
    reason = r"cannot be built: .+give a whole local folder|is no causal language model"
    with pytest.raises(RRGError, match=rf"host .*({reason})") as error:
        build_host(folder_host(folder), None)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_model_without_decoder_layers_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertLMHeadModel(BertConfig(**sizes, vocab_size=320, is_decoder=True)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="BertLMHeadModel has no list of decoder layers"):
        build_host(folder_host(tmp_path), None)


# Other families

SIZES: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "gemma2": ("self_attn.q_proj", {"sliding_window": 16}, []),
    "gpt2": ("mlp.c_fc", {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 256}, []),
    "opt": ("fc1", {"ffn_dim": 40, "word_embed_proj_dim": 24}, []),
    "mixtral": ("mlp.experts.gate_up_proj", {"num_local_experts": 3, "num_experts_per_tok": 2}, ["mlp.gate"]),
    "qwen3_moe": (
        "mlp.experts.down_proj",
        {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
        ["mlp.gate"],
    ),
    "glm4_moe": (  # a dense layer of LLaMA's names before the experts
        "mlp.gate_proj",
        {"n_routed_experts": 4, "moe_intermediate_size": 8, "first_k_dense_replace": 1, "num_experts_per_tok": 2},
        ["mlp.gate"],
    ),
}


def family_folder(kind: str, folder: Path, tokenizer: Any, **settings: Any) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    own = FAMILIES[kind][1] if kind in FAMILIES else {}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {"hidden_size": 24, "intermediate_size": 40, "max_position_embeddings": 256, "vocab_size": 320}
    plain = {} if "n_embd" in own else {**sizes, **SIZES}
    config = AutoConfig.for_model(kind, **{**plain, "vocab_size": 320, **ends, **own, **settings})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SMALL_RUN = {**compositions.ENCODER, "image.size": 32, "text.report": 12, "generation.max_new_tokens": 4}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_is_planned_trains_in_every_linear_layer_and_writes(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    target, _, left_out = FAMILIES[kind]
    recipe = compose("core.train", host=str(family_folder(kind, tmp_path, tokenizer)), settings=SMALL_RUN)
    planned = plan(recipe)
    assert planned.adapters
    assert target in planned.adapters["targets"]
    assert planned.adapters["left_out"] == left_out
    assert planned.flops_per_report
    model = build(recipe)
    model.begin("core.train")
    model(**batch_of(model, items([1, 2])))["loss"].backward()
    adapters = {n: p.grad for n, p in model.host.model.named_parameters() if ".lora_B" in n}
    assert all(grad is not None for grad in adapters.values())
    assert not any("lm_head" in name or "embed" in name for name in adapters)
    both = model.eval().generate(batch_of(model, items([1, 2]), learn=False))[0]
    alone = [model.generate(batch_of(model, [item], learn=False))[0][0] for item in items([1, 2])]
    assert both == alone


def test_lora_keeps_llamas_targets(llama_folder: Path) -> None:
    host = build_host(folder_host(llama_folder), LoRA(r=2))
    names = "down_proj|gate_proj|k_proj|o_proj|q_proj|up_proj|v_proj"
    assert host.adapter.peft_config["default"].target_modules == rf".*\.({names})"
    assert host.adapted
    assert host.adapted.left_out == []


def test_experts_that_dropout_keeps_from_adapting_are_named(tmp_path: Path, tokenizer: Any) -> None:
    host = build_host(folder_host(family_folder("mixtral", tmp_path, tokenizer)), LoRA(r=2, dropout=0.1))
    assert host.adapted
    assert host.adapted.left_out == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj", "mlp.gate"]


def test_gemma_3_with_its_tower_is_its_language_model(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    text = {**sizes, "num_key_value_heads": 3, "head_dim": 8, "vocab_size": 320, "pad_token_id": 0, "eos_token_id": 2}
    config = Gemma3Config(text_config=text, vision_config={**sizes, "image_size": 28, "patch_size": 14})
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    recipe = compose("core.train", host=str(tmp_path), settings=SMALL_RUN)
    model = build(recipe)
    assert not any("vision" in name or "projector" in name for name, _ in model.host.named_parameters())
    rows = {row["name"]: row["parameters"] for row in plan(recipe).pieces}
    assert rows["host"] == sum(p.numel() for n, p in model.host.language_parameters() if "lora_" not in n)
    model.begin("core.train")
    model(**batch_of(model, items([1, 2])))["loss"].backward()
    assert len(model.eval().generate(batch_of(model, items([1, 2]), learn=False))[0]) == 2


# Tokenizers that do not fit


def with_tokens(folder: Path, tokenizer: Any, **tokens: Any) -> None:
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens(tokens.pop("added", []))
    changed.add_special_tokens(tokens)
    changed.save_pretrained(folder)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ({"eos_token": "[END]"}, r"the token '\[END\]' of the id 320, .*0 to 319 alone"),
        ({"added": ["pleura", "hilum"]}, "2 tokens, up to 'hilum' of the id 321"),
    ],
)
def test_a_token_beyond_the_embeddings_is_one_clear_error(
    tokens: dict[str, Any], says: str, llama_folder: Path, tmp_path: Path, tokenizer: Any
) -> None:
    folder = broken(llama_folder, tmp_path, lambda folder: with_tokens(folder, tokenizer, **tokens))
    with pytest.raises(UsageError, match=says):
        plan(compose("core.train", host=str(folder)))
    with pytest.raises(UsageError, match=says):
        build_host(folder_host(folder), None)


def test_a_pad_token_beyond_the_embeddings_gives_way_to_the_end_token(
    llama_folder: Path, tmp_path: Path, tokenizer: Any
) -> None:
    folder = broken(llama_folder, tmp_path, lambda folder: with_tokens(folder, tokenizer, pad_token="[PAD]"))
    recipe = compose("core.train", host=str(folder), settings=SMALL_RUN)
    assert any("no embedding for [PAD]" in note for note in plan(recipe).notes)
    model = build(recipe)
    batch = batch_of(model, items([1, 1]))
    assert batch["input_ids"].max() < 320
    model(**batch)["loss"].backward()


def test_a_tokenizer_without_an_end_stops_before_the_run_folder(
    llama_folder: Path, tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / "host").mkdir()
    changed = copy.deepcopy(tokenizer)
    changed.eos_token = None
    folder = broken(llama_folder, tmp_path / "host", lambda folder: changed.save_pretrained(folder) and None)
    recipe = compose("core.train", host=str(folder), settings=SMALL_RUN)
    with pytest.raises(UsageError, match="no end token"):
        train(recipe, noise_folder(tmp_path / "data", {"train": 2}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_sentencepiece_names_its_extra(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_a_model(folder: Path) -> None:
        without_tokenizer(folder)
        (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00")

    folder = broken(llama_folder, tmp_path, only_a_model)
    monkeypatch.setattr("rrg.model.hosts.build._installed", lambda name: False)
    with pytest.raises(RRGError, match=r"needs sentencepiece and protobuf: pip install 'rrg-compose\[sentencepiece\]'"):
        build_host(folder_host(folder), None)


# Lengths


def test_a_table_of_positions_that_is_too_short_is_refused_before_the_run_folder(
    tmp_path: Path, tokenizer: Any
) -> None:
    folder = family_folder("gpt2", tmp_path / "gpt2", tokenizer, n_positions=40)
    recipe = compose("core.train", host=str(folder), settings=SMALL_RUN)
    says = r"reads 40 positions .*prefix \d+ \+ prompt \d+ \+ report 13\) is \d+: its positions are a table"
    with pytest.raises(UsageError, match=says):
        plan(recipe)
    with pytest.raises(UsageError, match=says):
        train(recipe, noise_folder(tmp_path / "data", {"train": 2}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["opt", "gptj"])
def test_learnt_positions_are_known_by_their_table(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    own = {"n_embd": 24, "n_layer": 1, "n_head": 3, "n_positions": 61, "rotary_dim": 8} if kind == "gptj" else {}
    folder = family_folder(kind, tmp_path, tokenizer, **{"max_position_embeddings": 61, **own})
    host = build_host(folder_host(folder), None)
    assert lengths_of(host.model, host.decoder[0]) == (61, True, None)


def test_rotary_positions_and_windows_that_are_too_short_are_noted(tmp_path: Path, tokenizer: Any) -> None:
    folder = family_folder("gemma2", tmp_path, tokenizer, max_position_embeddings=33)
    notes = plan(compose("core.train", host=str(folder), settings=SMALL_RUN)).notes
    assert any("reads 33 positions" in note and "has not learnt" in note for note in notes)
    assert any("look back 16 positions" in note for note in notes)


# Paths


def test_a_relative_folder_means_the_same_from_everywhere(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(llama_folder.parent)
    recipe = compose("core.train", host=llama_folder.name)
    assert recipe.host.name == recipe.host.source == str(llama_folder)
    text = compose("s2d-align+core.text", settings={"core.text.model": f"./{llama_folder.name}"})
    assert text.pieces["core.text"]["model"] == str(llama_folder)
    monkeypatch.chdir(tmp_path)
    assert compose(start=recipe).hash == recipe.hash
    assert plan(recipe).hash == recipe.hash


@pytest.mark.parametrize("setting", ["core.encoder.model", "host.source"])
def test_a_path_to_nothing_is_no_hub_id(setting: str) -> None:
    with pytest.raises(UsageError, match=rf"{setting}=\./gone/model: no such folder from /"):
        compose("core.train", settings={setting: "./gone/model"})


def test_hub_id_offline_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"host nobody/nothing: .*hub cannot be reached"):
        folder_host("nobody/nothing")


def test_weights_of_a_known_host_offline_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RRGError, match=r"host vicuna-7b: .*download the model"):
        build_host(folder_host("vicuna-7b"), None)


def test_run_without_its_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RRGError, match="no tokenizer that can be read"):
        open_tokenizer(tmp_path)
