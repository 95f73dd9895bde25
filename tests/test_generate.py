"""Generation: a split, films by name, films in memory; batches, beams, exemplars, bad input."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rrg.cli import main
from rrg.composing.composition import compose
from rrg.config import GenerationConfig
from rrg.data.films import film_array, read_film
from rrg.data.study import StudyFolder
from rrg.errors import DataError, RRGError, UsageError
from rrg.evaluate import read_predictions
from rrg.generate.predictions import write_predictions
from rrg.generate.reporter import Reporter, load
from rrg.model.hosts.text import drawing, drawn_by
from rrg.observations import OBSERVATIONS
from rrg.testing.data import batch_of, items, noise_folder


@pytest.fixture
def film(folder: StudyFolder) -> Path:
    return folder.film_path(folder.split("test")[0])


@pytest.fixture(autouse=True)
def _own_reporter(monkeypatch: pytest.MonkeyPatch, reporter: Reporter) -> None:
    """Commands use the one reporter that is loaded already."""
    monkeypatch.setattr("rrg.generate.reporter.load", lambda path, device=None: reporter)


def test_predictions_are_those_of_the_split_in_its_order(
    tmp_path: Path, folder: StudyFolder, reporter: Reporter
) -> None:
    path = tmp_path / "predictions.jsonl"
    written = write_predictions(reporter, folder, "test", path, batch_size=2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == written
    studies = folder.split("test")
    assert [(line["id"], line["reference"]) for line in written] == [(s.id, s.findings) for s in studies]
    assert all(line.keys() == {"id", "report", "reference", "exemplar", "probabilities"} for line in written)
    assert [prediction.id for prediction in read_predictions(path)] == [study.id for study in studies]
    assert list(tmp_path.iterdir()) == [path]


def test_probabilities_are_by_name_and_within_0_and_1(folder: StudyFolder, reporter: Reporter) -> None:
    [(_, report)] = reporter.generate_split(folder, "test", limit=1)
    assert report.probabilities is not None
    assert list(report.probabilities) == list(OBSERVATIONS)
    assert all(0 <= p <= 1 for p in report.probabilities.values())


@pytest.mark.parametrize("beams", [1, 3])
def test_the_batch_size_does_not_change_reports(folder: StudyFolder, telling: Reporter, beams: int) -> None:
    """Studies of one and two films and exemplars of different lengths share batches."""
    batched = [list(telling.generate_split(folder, "train", batch_size=n, beams=beams)) for n in (1, 4, 13)]
    texts = [[report.text for _, report in reports] for reports in batched]
    assert texts[0] == texts[1] == texts[2]
    assert "".join(text[0] for text in texts[0]) == "abcdefghijklm"


def test_beams_find_a_likelier_report_behind_a_less_likely_word(
    folder: StudyFolder, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `A` (57 %) and `B` (43 %), greedy decoding takes `A`, behind which all words are alike; `B` repeats itself."""
    monkeypatch.undo()
    reporter = load(tiny_run, "cpu")
    chances_of_a_word_by_the_one_before(reporter)
    greedy, beams = ([r.text for _, r in reporter.generate_split(folder, "test", beams=n)] for n in (1, 4))
    assert {text[0] for text in greedy} == {"A"}
    assert set(beams) == {"B" * 7}


def chances_of_a_word_by_the_one_before(reporter: Reporter) -> None:
    """Make the language model say `A` or `B` after a prompt, anything after `A`, and `B` after `B`."""
    host = reporter.model.host
    for gate in reporter.model.injection.pieces["lead.gate"].values():
        gate.close()
    for name, weight in host.model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):  # a word sees no other
            weight.data.zero_()
    a, b = host.tokenizer.convert_tokens_to_ids(["A", "B"])
    embeddings = host.model.get_input_embeddings()
    embeddings.weight.data.zero_()
    for word, channel in [(slice(None), 0), (a, 1), (b, 2)]:
        embeddings.weight.data[word] = 0
        embeddings.weight.data[word, channel] = 1
    head = torch.nn.Linear(host.width, embeddings.num_embeddings, bias=False)
    head.weight.data.zero_()
    head.weight.data[:, [0, 2]] = -9.0
    head.weight.data[[a, b, b], [0, 0, 2]] = torch.tensor([0.05, 0.0, 0.0])  # a vector is normalised to length √32
    host.model.set_output_embeddings(head)


DRAWN: dict[str, Any] = {"do_sample": True, "beams": 1, "temperature": 3.0, "seed": 5}


def drawn(reporter: Reporter, folder: StudyFolder, **settings: Any) -> list[str]:
    return [report.text for _, report in reporter.generate_split(folder, "train", **{**DRAWN, **settings})]


def test_what_is_drawn_depends_on_the_seed_and_the_study_alone(folder: StudyFolder, reporter: Reporter) -> None:
    first = drawn(reporter, folder, batch_size=13)
    assert drawn(reporter, folder, batch_size=3) == first
    assert drawn(reporter, folder, batch_size=13, seed=6) != first
    assert len(set(first)) > 1


def test_one_token_to_draw_from_is_greedy(folder: StudyFolder, reporter: Reporter) -> None:
    greedy = [report.text for _, report in reporter.generate_split(folder, "train", beams=1)]
    assert drawn(reporter, folder, top_k=1) == drawn(reporter, folder, top_p=1e-6) == greedy


def test_tokens_are_drawn_by_their_probability() -> None:
    chances = torch.tensor([0.5, 0.3, 0.2, 0.0])
    settings = GenerationConfig(do_sample=True, top_p=0.7)
    rows = 20_000
    draws = [drawing(settings, "s", number) for number in range(rows)]
    scores = chances.log().expand(rows, -1)
    for process in drawn_by(settings, draws):
        scores = process(None, scores.clone())
    shares = scores.argmax(-1).bincount(minlength=4) / rows
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.015, rtol=0)


def test_several_reports_are_drawn_of_each_study(reporter: Reporter) -> None:
    model, settings = reporter.model, GenerationConfig(**DRAWN, max_new_tokens=6)
    batch = batch_of(model, items([1, 2]), learn=False)
    texts, _ = model.generate(batch, settings, num_return_sequences=3)
    assert len(texts) == 6
    assert len(set(texts)) > 2
    assert texts[::3] == model.generate(batch, settings)[0]


def test_a_recipe_that_draws_nothing_is_as_it_was() -> None:
    recipe = compose("lead")
    assert "do_sample" not in recipe.to_toml()
    assert (
        not {"do_sample", "temperature", "top_k", "top_p", "seed"}
        & recipe.model_dump(exclude_none=True)["generation"].keys()
    )
    assert compose("lead", settings={"generation.do_sample": True, "generation.beams": 1}).hash != recipe.hash
    with pytest.raises(UsageError, match="do_sample draws one text at a time, given beams=3; set beams=1"):
        compose("lead", settings={"generation.do_sample": True})


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_no_exemplar_is_of_the_studys_patient_or_outside_train(
    tmp_path: Path, tiny_run: Path, reporter: Reporter, split: str
) -> None:
    """Even where a patient has studies in several splits, which a careless data folder may."""
    folder = noise_folder(tmp_path / "data")
    owners = {study.id: study.patient for study in folder.split("train")}
    shared = next(iter(owners.values()))
    moved = [s.model_copy(update={"patient": shared}) if s.id.endswith("1") else s for s in folder.split(split)]
    mixed = StudyFolder(folder.path, folder.card, moved)
    for study, report in reporter.generate_split(mixed, split):
        assert report.exemplar is not None
        assert owners[report.exemplar.id] == report.exemplar.patient != study.patient
        assert report.exemplar.id != study.id


def test_the_exemplar_is_the_nearest_by_key(folder: StudyFolder, reporter: Reporter) -> None:
    from rrg.retrieve.index import keys_of

    assert reporter.index is not None
    studies = folder.split("test")
    scores = keys_of(reporter.model, folder, studies, "", reporter.model.keys) @ reporter.index.keys.T
    places = {entry.id: place for place, entry in enumerate(reporter.index.entries)}
    given = [places[r.exemplar.id] for _, r in reporter.generate_split(folder, "test") if r.exemplar]
    found = scores[range(len(studies)), given]
    assert scores.std() > 1e-3
    torch.testing.assert_close(found, scores.amax(dim=1), atol=1e-6, rtol=0)  # of two as near, either


def test_the_exemplars_report_stands_in_the_prompt(
    folder: StudyFolder, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    batch = reporter._prompt.batch

    def watched(items: Any, shown: dict[str, str], *, learn: bool) -> Any:
        seen.update(shown)
        return batch(items, shown, learn=learn)

    monkeypatch.setattr(reporter._prompt, "batch", watched)
    reports = list(reporter.generate_split(folder, "test", limit=3))
    assert seen == {study.id: report.exemplar.report for study, report in reports if report.exemplar}


def test_encoders_run_once_a_batch(folder: StudyFolder, reporter: Reporter) -> None:
    runs: list[int] = []
    hook = reporter.model.modules_by_piece["core.encoder"].register_forward_hook(lambda *args: runs.append(1))
    list(reporter.generate_split(folder, "test", batch_size=2))
    hook.remove()
    assert len(runs) == 3


def test_films_by_path_image_and_array_give_one_report(film: Path, telling: Reporter) -> None:
    with Image.open(film) as image:
        pixels = np.asarray(image)
        given = [film, str(film), image, image.convert("RGB"), pixels, np.stack([pixels] * 3, axis=-1)]
        reports = telling.generate(given)
    assert len(reports) == len(given)
    assert len(set(reports)) == 1
    assert isinstance(reports[0], str)


def test_a_film_of_nobody_retrieves(film: Path, reporter: Reporter) -> None:
    [report] = reporter.generate_studies([[film]])
    assert report.exemplar is not None


def test_a_reloaded_run_writes_the_same(folder: StudyFolder, tiny_run: Path, reporter: Reporter) -> None:
    again = load(tiny_run, "cpu")
    assert list(again.generate_split(folder, "val")) == list(reporter.generate_split(folder, "val"))


@pytest.mark.parametrize("size", [None, 7])
def test_film_array_agrees_with_read_film(film: Path, size: int | None) -> None:
    with Image.open(film) as image:
        pixels = np.asarray(image)
    expected = read_film(film, size)
    assert np.array_equal(film_array(Image.open(film), size), expected)
    for array in (pixels, pixels[..., None], pixels / 255, pixels.astype(np.uint16) * 257, np.float16(pixels / 255)):
        assert film_array(array, size) == pytest.approx(expected, abs=0.003)
    assert film_array(np.stack([pixels, pixels, pixels, pixels * 0], -1), size) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((5, 4), 2.0), "found 2 to 2"),
        (np.full((5, 4), np.nan), r"floats in \[0, 1\]"),
        (np.zeros((5, 4), np.int64), "int64"),
        (np.zeros((5, 4, 2), np.uint8), "1, 3 or 4 colours"),
        (np.zeros((0, 4), np.uint8), "height, width"),
        (np.zeros(9, np.uint8), "height, width"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_films(array: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        film_array(array)


def test_a_study_without_films(reporter: Reporter) -> None:
    with pytest.raises(UsageError, match="without a film"):
        reporter.generate_studies([[]])


@pytest.mark.parametrize(
    "settings",
    [
        {"beams": 0},
        {"batch_size": 0},
        {"bems": 2},
        {"limit": 0},
        {"limit": -2},
        {"temperature": 1},
        {"do_sample": 1, "beams": 3},
    ],
)
def test_settings_that_make_no_sense(folder: StudyFolder, reporter: Reporter, settings: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        list(reporter.generate_split(folder, "test", **settings))


def test_a_failed_generation_keeps_the_earlier_predictions(
    tmp_path: Path, folder: StudyFolder, reporter: Reporter
) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("earlier")
    data = tmp_path / "data"
    copytree(folder.path, data)
    broken = StudyFolder.open(data)
    broken.film_path(broken.split("test")[-1]).write_bytes(b"no film")
    with pytest.raises(DataError, match="none of JPEG, PNG and DICOM"):
        write_predictions(reporter, broken, "test", path, batch_size=2)
    assert path.read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "predictions.jsonl"]


def test_predictions_where_nothing_can_be_written(tmp_path: Path, folder: StudyFolder, reporter: Reporter) -> None:
    with pytest.raises(RRGError, match="cannot be written"):
        write_predictions(reporter, folder, "val", tmp_path / "absent" / "predictions.jsonl")


def test_generate_command_writes_a_split(
    tmp_path: Path, tiny_run: Path, folder: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "some.jsonl"
    arguments = [
        "generate",
        str(tiny_run),
        "--data",
        str(folder.path),
        "--split",
        "val",
        "--limit",
        "2",
        "--beams",
        "2",
    ]
    assert main([*arguments, "-o", str(output)]) == 0
    assert len(read_predictions(output)) == 2
    assert capsys.readouterr().out == f"wrote 2 reports to {output}\n"
    greedy = output.read_bytes()
    drawing = ["--set", "generation.do_sample=true", "--set", "temperature=9.0", "--set", "generation.beams=1"]
    assert main([*arguments[:-2], *drawing, "-o", str(output)]) == 0
    assert output.read_bytes() != greedy


def test_another_split_does_not_replace_the_tests_predictions(tmp_path: Path, tiny_run: Path) -> None:
    copytree(tiny_run, tmp_path / "run")
    assert main(["generate", str(tmp_path / "run")]) == 0
    before = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    assert main(["generate", str(tmp_path / "run"), "--split", "val"]) == 0
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == before
    assert len(read_predictions(tmp_path / "run" / "predictions.val.jsonl")) == 3


def test_generate_command_prints_one_report(
    tiny_run: Path, film: Path, reporter: Reporter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(tiny_run), "--image", str(film), str(film)]) == 0
    [expected] = reporter.generate_studies([[film, film]])
    assert capsys.readouterr().out == expected.text + "\n"
    assert main(["generate", str(tiny_run), "--image", str(film), str(film), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected.to_json()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--image", "absent.png"], 1, "absent.png: no such film"),
        (["--image", __file__], 1, "none of JPEG, PNG and DICOM"),
        (["--beams", "0"], 2, "beams"),
        (["--limit", "0"], 2, "limit=0"),
        (["--data", "absent"], 1, "absent: no such data folder"),
    ],
)
def test_generate_command_refuses_in_one_line(
    tiny_run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    assert main(["generate", str(tiny_run), *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "Traceback" not in err


class TestLoad:
    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="holds no run"):
            load(tmp_path)

    def test_an_unfinished_run(self, tmp_path: Path, tiny_run: Path) -> None:
        copytree(tiny_run, tmp_path / "run")
        (tmp_path / "run" / "stages" / "02-core.exemplars").rename(tmp_path / "gone")
        with pytest.raises(DataError, match=r"core\.exemplars is not finished; go on with: rrg train --resume"):
            load(tmp_path / "run")

    def test_no_such_device(self, tiny_run: Path) -> None:
        with pytest.raises(UsageError, match="device 'abacus'"):
            load(tiny_run, "abacus")

    def test_a_run_whose_index_is_gone(self, tmp_path: Path, tiny_run: Path) -> None:
        copytree(tiny_run, tmp_path / "run")
        (tmp_path / "run" / "index").rename(tmp_path / "gone")
        with pytest.raises(DataError, match="no retrieval index"):
            load(tmp_path / "run", "cpu")


def test_generation_leaves_no_gradients_and_no_memory(film: Path, reporter: Reporter) -> None:
    reporter.generate([film])
    assert all(parameter.grad is None for parameter in reporter.model.parameters())
    assert all(layer.rrg.memory is None for layer in reporter.model.host.layers)
    assert not torch.is_inference_mode_enabled()
