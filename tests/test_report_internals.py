"""What `rrg report` shows of a run's modules: the gate's own values, the disease tokens' own attention."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from torch import nn

from report_pages import Page
from rrg.data.study import StudyFolder
from rrg.evaluate import evaluate, read_predictions
from rrg.evaluate.scores import write_scores
from rrg.feed.batch import Studies
from rrg.feed.stream import to_device
from rrg.feed.texts import Collator
from rrg.generate.predictions import write_predictions
from rrg.generate.reporter import load
from rrg.labels import get_labeler
from rrg.model.hosts.qwen3_vl import Qwen3VLHost
from rrg.model.model import RRGModel
from rrg.report import write_page
from rrg.report.cases import Case, cases_of
from rrg.report.reader import Reader, in_rows
from rrg.testing.data import FINDINGS
from rrg.train.training import train
from tiny_runs import tiny_recipe


def scored(run: Path, folder: StudyFolder) -> Path:
    """With predictions that have the run's own exemplars and probabilities, and reports of several words: a training of
    a few steps need not learn to write any.
    """
    predictions = run / "predictions.jsonl"
    lines = write_predictions(load(run, "cpu"), folder, "test", predictions)
    said = [{**line, "report": " ".join(FINDINGS[: 1 + number % 3])} for number, line in enumerate(lines)]
    predictions.write_text("".join(json.dumps(line) + "\n" for line in said))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")  # no java
        write_scores(evaluate(read_predictions(predictions), folder), run / "metrics.json")
    return run


@pytest.fixture(scope="module")
def lead_run(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, folder: StudyFolder) -> Path:
    return scored(copytree(tiny_run, tmp_path_factory.mktemp("lead") / "run"), folder)


@pytest.fixture(scope="module")
def dast_run(tmp_path_factory: pytest.TempPathFactory, folder: StudyFolder) -> Path:
    """Disease tokens over core's encoder, with DAST's retrieval, trained for a step or two."""
    run = tmp_path_factory.mktemp("dast") / "run"
    train(tiny_recipe("dast.tokens+dast.cls+dmsr", stages__max_steps=2, stages__epochs=1), folder, run)
    return scored(run, folder)


def read(run: Path, folder: StudyFolder) -> tuple[Reader, list[Case]]:
    cases = cases_of(read_predictions(run / "predictions.jsonl"), folder, get_labeler())
    return Reader(run, folder), cases


def test_gates_are_those_of_every_layer_and_token(lead_run: Path, folder: StudyFolder) -> None:
    reader, cases = read(lead_run, folder)
    assert reader.has_something
    for case in cases:
        found = reader.read(case)
        [gate] = found.gates
        assert (gate.piece, gate.layers) == ("lead.gate", [0, 1])
        ids = reader.prompt.report(case.prediction.report)[:-1]
        assert gate.values.shape == (2, len(ids)) == (2, len(gate.tokens))
        assert "".join(gate.tokens).split() == reader.prompt.tokenizer.decode(ids).split()
        assert ((gate.values > 0) & (gate.values < 1)).all()
        assert found.attention is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in reader.model.modules())


def test_the_gate_that_is_shown_is_the_one_that_acts(lead_run: Path, folder: StudyFolder) -> None:
    """h' = h + g (e - h): with e - h the same in all channels, the mean of g is the mean step over it."""
    reader, cases = read(lead_run, folder)
    case = cases[1]
    seen: dict[int, torch.Tensor] = {}

    def note(layer: int):
        def hook(module, args, kwargs, out):
            ahead = {**kwargs, "layer_embedding": args[0][:, -2] + 1.0}
            seen[layer] = (module.forward(*args, **ahead)[:, -2] - args[0][:, -2]).mean()

        return hook

    for layer, module in reader.model.injection.pieces["lead.gate"].items():
        module.register_forward_hook(note(layer), with_kwargs=True)
    [gate] = reader.read(case).gates
    # The last place but one is where the last token is written.
    assert gate.values[:, -1] == pytest.approx([float(seen[layer]) for layer in gate.layers], abs=1e-5)


def test_a_report_is_reread_as_training_reads_it(lead_run: Path, folder: StudyFolder) -> None:
    """Films, exemplar and report stand where the stage's own batches put them."""
    reader, cases = read(lead_run, folder)
    model, case = reader.model, cases[0]
    assert case.study
    assert case.prediction.exemplar
    study = case.study.model_copy(update={"findings": case.prediction.report})
    collator = Collator(reader.prompt, {study.id: case.prediction.exemplar.report})
    batch = to_device(collator([Studies(folder, [study], model.recipe)[0]]), torch.device("cpu"))
    count = len(reader.prompt.report(case.prediction.report))
    with torch.inference_mode(), reader._noted() as (gates, _):
        model.host.model(**model._inputs(batch, model.signals(batch)))
        model.injection.clear()
    [gate] = reader.read(case).gates
    for layer, values in zip(gate.layers, gate.values, strict=True):
        assert values == pytest.approx(gates["lead.gate", layer][-count - 1 : -2].numpy(), abs=1e-6)


def test_attention_is_that_of_the_disease_tokens(dast_run: Path, folder: StudyFolder) -> None:
    reader, cases = read(dast_run, folder)
    case = next(case for case in cases if case.study and len(case.study.file_names) == 2)
    found = reader.read(case)
    assert found.gates == []
    assert found.attention
    assert found.attention.piece == "dast.tokens"
    assert found.attention.shares.shape[:2] == (14, 2)
    assert found.attention.shares.shape[2] == found.attention.shares.shape[3]
    assert found.attention.shares.sum(axis=(1, 2, 3)) == pytest.approx(np.ones(14), abs=1e-5)
    tokens = reader.model.modules_by_piece["dast.tokens"]
    assert isinstance(tokens.attention, nn.MultiheadAttention)
    assert not tokens.attention._forward_hooks


def test_attention_is_computed_from_the_tokens_and_the_patches(dast_run: Path, folder: StudyFolder) -> None:
    reader, cases = read(dast_run, folder)
    tokens = reader.model.modules_by_piece["dast.tokens"]
    found: list[torch.Tensor] = []
    tokens.register_forward_pre_hook(lambda m, a, k: found.append(k["patch_tokens"]), with_kwargs=True)
    attention = reader.read(cases[0]).attention
    assert attention
    queries, keys = tokens.tokens[None], found[0]
    with torch.inference_mode():
        expected = tokens.attention.forward(queries, keys, keys, need_weights=True)[1][0].numpy()
    assert attention.shares.reshape(14, -1) == pytest.approx(expected, abs=1e-6)


def test_patches_of_a_hosts_own_tower_are_put_in_rows(composed: Callable[..., RRGModel]) -> None:
    """Each patch's mean, in rows, is the film reduced to that many pixels."""
    host = composed("lead", host="qwen3-vl").host
    assert isinstance(host, Qwen3VLHost)
    size = 4 * host.patch * host.merge
    films = torch.rand(3, 1, size, size)
    patches, grid = host.patchify(films)
    means = ((patches.mean(dim=1) + 1) / 2).reshape(1, -1).numpy()
    reduced = torch.nn.functional.avg_pool2d(films, host.patch)[:, 0].numpy()
    assert in_rows(means, 3, int(grid[0, 1]), host.merge)[0] == pytest.approx(reduced, abs=1e-5)
    assert in_rows(np.arange(24.0).reshape(2, 12), 3, 2).tolist() == np.arange(24.0).reshape(2, 3, 2, 2).tolist()


def test_the_page_holds_gates_and_attention(lead_run: Path, dast_run: Path, folder: StudyFolder) -> None:
    lead, dast = (Page(write_page(run).read_text(encoding="utf-8")) for run in (lead_run, dast_run))
    studies = len(folder.split("test"))
    assert len([a for a in lead.all("figure") if a["class"] == "gate"]) == studies
    assert "Layers 0 (top) to 1" in lead.text
    assert len([a for a in dast.all("figure") if a["class"] == "attention"]) == studies
    assert any(str(a.get("aria-label")).startswith("Attention of ") for a in dast.all("svg"))
    films = {a["id"] for a in dast.all("image") if "id" in a}
    assert {str(a["href"]).removeprefix("#") for a in dast.all("use")} <= films
    for page in (lead, dast):
        assert "Without the model's internals" not in page.text


def test_a_film_that_is_gone_is_not_reread(lead_run: Path, folder: StudyFolder, tmp_path: Path) -> None:
    data, run = copytree(folder.path, tmp_path / "data"), copytree(lead_run, tmp_path / "run")
    (data / "images" / "test1-1.png").unlink()
    page = Page(write_page(run, data=data).read_text(encoding="utf-8"))
    assert len([a for a in page.all("figure") if a["class"] == "gate"]) == len(folder.split("test")) - 1
    assert "The model did not re-read this case: images/test1-1.png: no such film" in page.text


def test_damaged_weights_leave_a_page_without_internals(lead_run: Path, tmp_path: Path) -> None:
    run = copytree(lead_run, tmp_path / "run")
    for path in run.rglob("stages/**/*.safetensors"):
        path.write_bytes(b"{}")
    page = Page(write_page(run).read_text(encoding="utf-8"))
    assert "Without the model's internals: the run could not be loaded." in page.text
    assert len(page.all("article")) == len((run / "predictions.jsonl").read_text().splitlines())


def test_an_empty_report_has_no_tokens_to_show(lead_run: Path, tmp_path: Path) -> None:
    run = copytree(lead_run, tmp_path / "run")
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    (run / "predictions.jsonl").write_text("".join(json.dumps({**line, "report": ""}) + "\n" for line in lines))
    page = Page(write_page(run).read_text(encoding="utf-8"))
    assert page.all("figure") == []
    assert page.text.count("Generated empty") == len(lines)
