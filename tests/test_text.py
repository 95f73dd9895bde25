"""The text encoder: its own small one, published ones from folders, and what training alone shows."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import rrg._torchvision  # noqa: F401  before transformers
from rrg.axes import Axes
from rrg.composing.composition import compose
from rrg.core_pieces.text import TextEncoder, TextEncoderConfig
from rrg.errors import DataError, UsageError
from rrg.model.model import RRGModel
from rrg.model.weights import save_weights
from rrg.plan.counting import plan
from rrg.testing.data import batch_of, items

AXES = Axes(host=16, layers=2, image=32)
TEXTS = ["the heart is enlarged .", "no effusion", ""]
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["the", "heart", "is", "enlarged", "no", "effusion", "lungs", "are", "clear", "."],
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with its tokenizer, as a Hugging Face folder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def encoder(**settings: object) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TextEncoderConfig.model_validate(settings), AXES).eval()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_the_small_encoder_tokenises_anything(texts: list[str]) -> None:
    module = encoder(tokens=8)
    ids, mask = module.tokenize(texts)
    assert ids.shape == mask.shape == (len(texts), ids.shape[1])
    assert ids.shape[1] <= 8
    assert ((ids >= 0) & (ids < 8192)).all()
    assert [bool(row.any()) for row in mask] == [any(c.isalnum() or not c.isspace() for c in t) for t in texts]


def test_a_word_has_one_place_and_a_text_one_vector_whatever_stands_beside_it() -> None:
    module = encoder()
    ids, mask = module.tokenize(TEXTS)
    assert torch.equal(module.tokenize(["The HEART"])[0], ids[:1, :2])
    with torch.no_grad():
        together = module(report_ids=ids, report_mask=mask)
        alone = module(report_ids=ids[1:2, :2], report_mask=mask[1:2, :2])
    torch.testing.assert_close(together.report_tokens[1, :2], alone.report_tokens[0])
    torch.testing.assert_close(together.report_embed[1], alone.report_embed[0])
    torch.testing.assert_close(alone.report_embed[0], alone.report_tokens[0].mean(dim=0))
    assert not together.report_embed[2].any()  # an empty text says nothing
    assert together.reference_tokens is None
    assert together.phrase_tokens is None


def test_a_hugging_face_folder_is_pooled_by_its_mean_and_one_of_sentence_transformers_as_it_says(
    bert: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    body = Transformer(str(bert))
    SentenceTransformer(modules=[body, Pooling(24, pooling_mode="cls")], device="cpu").save(str(tmp_path / "cls"))
    for folder, pooled in ((bert, "mean"), (tmp_path / "cls", "cls")):
        module = encoder(model=str(folder))
        ids, mask = module.tokenize(TEXTS[:2])
        with torch.no_grad():
            tokens, embed, *_ = module(report_ids=ids, report_mask=mask)
            whole = module.encoder.transformer({"input_ids": ids, "attention_mask": mask.long()})["token_embeddings"]
        assert module.language == 24
        assert ids[0, 0] == VOCABULARY.index("[CLS]")
        torch.testing.assert_close(tokens[mask], whole[mask])
        for row in range(2):
            expected = whole[row][mask[row]].mean(dim=0) if pooled == "mean" else whole[row, 0]
            torch.testing.assert_close(embed[row], expected)


def test_long_texts_are_cut_to_what_the_model_reads(bert: Path) -> None:
    ids, mask = encoder(model=str(bert)).tokenize(["heart " * 100])
    assert ids.shape == (1, 16)
    assert mask.all()


def test_cxr_bert_is_read_as_the_bert_that_it_is_and_runs_no_code_of_its_folder(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cxr-bert"
    folder.mkdir()
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    text = (bert / "config.json").read_text().replace('"model_type": "bert"', '"model_type": "cxr-bert"')
    mapped = '{\n  "auto_map": {"AutoModel": "evil.CXRBertModel", "AutoConfig": "evil.CXRBertConfig"},'
    (folder / "config.json").write_text(text.replace("{", mapped, 1))
    (folder / "evil.py").write_text("raise SystemExit('code of a model folder ran')")
    weights = {f"bert.{name}": tensor for name, tensor in load_file(bert / "model.safetensors").items()}
    weights["cls_projection_head.dense_to_hidden.weight"] = torch.zeros(4, 24)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    module, plain = encoder(model=str(folder)), encoder(model=str(bert))
    ids, mask = plain.tokenize(TEXTS[:2])
    assert torch.equal(module.tokenize(TEXTS[:2])[0], ids)
    with torch.no_grad():
        found, expected = (m(report_ids=ids, report_mask=mask).report_tokens for m in (module, plain))
    torch.testing.assert_close(found, expected)


def copied(bert: Path, folder: Path, without: str = "") -> Path:
    folder.mkdir()
    for file in bert.iterdir():
        if not without or without not in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_folder_without_its_tokenizer_is_refused(bert: Path, tmp_path: Path) -> None:
    folder = copied(bert, tmp_path / "bare", without="token")
    (folder / "vocab.txt").unlink()
    with pytest.raises(UsageError, match=r"core.text.model=.*(tokenizer|vocab)"):
        encoder(model=str(folder))


def test_weights_that_the_configuration_does_not_fit_are_refused(bert: Path, tmp_path: Path) -> None:
    folder = copied(bert, tmp_path / "deeper")
    text = (folder / "config.json").read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 4')
    (folder / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"lack \d+ that its configuration asks for, such as encoder.layer.2"):
        encoder(model=str(folder))


def test_a_pickle_of_code_is_refused_without_advice_to_trust_it(bert: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (tmp_path / "victim").mkdir, ()

    folder = copied(bert, tmp_path / "pickled", without="safetensors")
    torch.save({"embeddings.word_embeddings.weight": Hostile()}, folder / "pytorch_model.bin")
    with pytest.raises(DataError) as error:
        encoder(model=str(folder))
    assert "its weights are a pickle (pytorch_model.bin), which can run code and is not opened" in error.value.message
    assert len(error.value.message.splitlines()) == 1
    assert not (tmp_path / "victim").exists()


def test_a_folder_that_names_a_class_of_its_own_is_refused(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(bert, tmp_path / "foreign")
    (tmp_path / "strange_module.py").write_text(f"open({str(tmp_path / 'victim')!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = [{"idx": 0, "name": "0", "path": "", "type": "strange_module.Module"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        UsageError, match=r"modules\.json names strange_module\.Module, which is not of sentence_transf"
    ):
        encoder(model=str(folder))
    assert not (tmp_path / "victim").exists()


def test_pooling_that_joins_vectors_is_refused(bert: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    modules = [Transformer(str(bert)), Pooling(24, pooling_mode=("cls", "mean"))]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "joined"))
    with pytest.raises(UsageError, match="its pooling joins several vectors"):
        encoder(model=str(tmp_path / "joined"))


@pytest.mark.parametrize("model", ["nobody/nothing", "/no/such/folder"])
def test_a_model_that_is_not_there_is_one_clear_error(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=f"core.text.model={model}.*expected a hub id or folder"):
        encoder(model=model)


@pytest.mark.parametrize("model", ["", "emilyalsentzer/Bio_ClinicalBERT", "microsoft/BiomedVLP-CXR-BERT-specialized"])
def test_the_papers_encoders_are_planned_without_a_hub(model: str) -> None:
    planned = plan(compose("vdgen", settings={"core.text.model": model}))
    [parameters] = [piece["parameters"] for piece in planned.pieces if piece["name"] == "core.text"]
    assert parameters == {"": 1478144, "emilyalsentzer/Bio_ClinicalBERT": 108310272}.get(model, 109482240)


def test_a_published_encoder_is_frozen_and_not_saved_one_built_at_random_learns(
    composed: Callable[..., RRGModel], bert: Path, tmp_path: Path
) -> None:
    for model, learns in (("", True), (str(bert), False)):
        built = composed("core.train+vdgen.did", **{"core.text.model": model})
        built.begin("core.train")
        built.train()(**batch_of(built, items([1, 2, 1])))["loss"].backward()
        own = dict(built.piece_parameters("core.text"))
        assert any(p.grad is not None and p.grad.any() for p in own.values()) == learns
        save_weights(built, tmp_path / f"saved-{learns}")
        saved = load_file(tmp_path / f"saved-{learns}" / "pieces.safetensors")
        assert any(name.startswith("core.text/") for name in saved) == learns


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_saved_in_half_precision_are_float32_and_train(
    composed: Callable[..., RRGModel], bert: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    from transformers import BertModel

    folder = copied(bert, tmp_path / "half")
    BertModel.from_pretrained(bert, dtype=dtype).save_pretrained(folder)
    settings = {"core.text.model": str(folder), "core.text.frozen": False}
    built = composed("core.train+vdgen.did", **settings)
    built.begin("core.train")
    built.train()(**batch_of(built, items([1, 2, 1])))["loss"].backward()
    assert {p.dtype for _, p in built.piece_parameters("core.text")} == {torch.float32}
    [row] = [piece for piece in plan(built.recipe).pieces if piece["name"] == "core.text"]
    assert row["parameters"] == sum(p.numel() for _, p in built.piece_parameters("core.text"))


def test_a_strangers_piece_that_loads_half_precision_is_float32_too(
    composed: Callable[..., RRGModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rrg.core_pieces.connector import Connector

    whole = Connector.__init__

    @wraps(whole)
    def halved(self: Connector, *args: Any) -> None:
        whole(self, *args)
        self.half()

    monkeypatch.setattr(Connector, "__init__", halved)
    built = composed("core.train")
    assert {p.dtype for _, p in built.piece_parameters("core.connector")} == {torch.float32}
    built.generate(batch_of(built, items([1, 2]), learn=False))


def test_without_a_report_the_encoder_does_not_run(composed: Callable[..., RRGModel]) -> None:
    model = composed("core.train+vdgen.did")
    values = model.signals(batch_of(model, items([1, 2]), learn=False))
    assert not [signal for provider, signal in values if provider == "core.text"]
    assert model.roles.texts(model.stage) == ["report"]
