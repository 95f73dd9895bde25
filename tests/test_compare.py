"""`compare` and `rrg compare`: which studies, which metrics, what is corrected, and what is refused."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rrg.cli import main
from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, UsageError
from rrg.evaluate import Prediction, comparison, evaluate, evaluation
from rrg.evaluate.comparison import compare
from rrg.evaluate.meteor import MeteorUnavailable
from rrg.evaluate.statistics import differences, holm
from rrg.labels import get_labeler
from rrg.observations import OBSERVATIONS

SENTENCES = [
    "The heart is normal in size.",
    "The lungs are clear.",
    "No pneumothorax.",
    "There is a small left pleural effusion.",
    "The heart is enlarged.",
    "Mild pulmonary edema.",
]
METRICS = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "f1_macro", "f1_micro", "f1_example"]


@pytest.fixture(autouse=True)
def _no_java(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR's start takes seconds; a test that asks for it has it in its name."""

    def unavailable(tables: object) -> dict[str, float]:
        raise MeteorUnavailable("no java")

    if "meteor" not in request.node.name:
        monkeypatch.setattr(evaluation, "meteor_statistics", unavailable)
        monkeypatch.setattr(comparison, "meteor_statistics", unavailable)


def report(rng: random.Random) -> str:
    return " ".join(rng.sample(SENTENCES, 3))


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """10 training and 40 test studies, the latter of 20 patients, with exact labels drawn at random."""
    rng, studies = random.Random(0), []
    for split, count in (("train", 10), ("val", 2), ("test", 40)):
        for i in range(count):
            labels = {name: rng.choice([1.0, 0.0, None]) for name in OBSERVATIONS}
            study = Study(
                id=f"{split}{i}",
                patient=f"{split}-{i // 2}",
                split=split,  # type: ignore[arg-type]
                file_names=["film.png"],
                findings=report(rng),
                labels=labels,
            )
            studies.append(study)
    path = tmp_path / "data"
    path.mkdir()
    (path / "film.png").write_bytes(b"not looked at")
    (path / "metadata.jsonl").write_text("".join(s.model_dump_json() + "\n" for s in studies))
    card = {"name": "phantom", "labels": "exact", "source": "test", "licence": "none"}
    (path / "dataset.json").write_text(json.dumps(card))
    return StudyFolder.open(path)


def copies(folder: StudyFolder, wrong: float = 0.0, seed: int = 1) -> list[Prediction]:
    """The references, but for a share of `wrong` ones."""
    rng = random.Random(seed)
    return [
        Prediction(id=s.id, report=report(rng) if rng.random() < wrong else s.findings) for s in folder.split("test")
    ]


def write(path: Path, predictions: list[Prediction], **run: str) -> Path:
    path.mkdir()
    (path / "predictions.jsonl").write_text("".join(p.model_dump_json() + "\n" for p in predictions))
    if run:
        (path / "run.json").write_text(json.dumps(run))
    return path


@pytest.fixture
def runs(folder: StudyFolder, tmp_path: Path) -> tuple[Path, Path]:
    """Two run folders: one good, one bad."""
    said = {"data": str(folder.path), "split": "test"}
    return write(tmp_path / "good", copies(folder), **said), write(tmp_path / "bad", copies(folder, 0.9), **said)


def test_the_scores_are_those_of_evaluate(folder: StudyFolder) -> None:
    first, second = copies(folder, 0.3), copies(folder, 0.6, seed=2)
    tests = compare({"a": first, "b": second}, folder, permutations=9).tests["b"]
    assert list(tests) == METRICS
    for predictions, side in ((first, "first"), (second, "second")):
        row = evaluate(predictions, folder).rows["model"]
        for name in METRICS[:6]:
            assert getattr(tests[name], side) == pytest.approx(getattr(row, name), abs=1e-9)
        assert getattr(tests["f1_macro"], side) == pytest.approx(row.clinical.macro.f1)
        assert getattr(tests["f1_micro"], side) == pytest.approx(row.clinical.micro.f1)


def test_a_better_system_is_found_better(folder: StudyFolder) -> None:
    tests = compare({"good": copies(folder), "bad": copies(folder, 0.9)}, folder, permutations=999).tests["bad"]
    for name in METRICS[:6]:
        assert tests[name].difference > 0
        assert tests[name].low > 0
        assert tests[name].p == 1 / 1000
        assert tests[name].p_holm >= 9 / 1000


def test_the_first_is_compared_to_each_other_and_all_tests_are_corrected_together(folder: StudyFolder) -> None:
    systems = {"a": copies(folder, 0.2), "b": copies(folder, 0.4, 2), "c": copies(folder, 0.5, 3)}
    found = compare(systems, folder, permutations=199)
    assert list(found.tests) == ["b", "c"]
    every = [test for tests in found.tests.values() for test in tests.values()]
    assert len(every) == 18
    assert [test.p_holm for test in every] == holm([test.p for test in every])
    alone = compare({"a": systems["a"], "c": systems["c"]}, folder, permutations=199).tests["c"]
    assert {name: test.p for name, test in alone.items()} == {n: t.p for n, t in found.tests["c"].items()}


def test_only_shared_studies_count_and_the_order_of_a_file_does_not(folder: StudyFolder) -> None:
    first, second = copies(folder, 0.3), copies(folder, 0.6, seed=2)
    found = compare({"a": first[5:], "b": second[:30][::-1]}, folder, permutations=9)
    assert (found.n, found.n_split, found.patients) == (25, 40, 13)
    assert found.tests == compare({"a": first[5:30], "b": second[5:30]}, folder, permutations=9).tests
    assert "10 studies of a are left out, since not all systems have them" in found.notes


def test_patients_are_kept_whole(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(first: object, second: object, clusters: list[str], *rest: object, **options: object) -> object:
        seen.append(clusters)
        return differences(first, second, clusters, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(comparison, "differences", spy)
    compare({"a": copies(folder), "b": copies(folder, 0.5)}, folder, permutations=9)
    assert seen == [[f"test-{i // 2}" for i in range(40)]]


def test_without_java_meteor_is_left_out_and_said(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = compare({"a": copies(folder), "b": copies(folder, 0.5)}, folder, permutations=9)
    assert "meteor" not in found.tests["b"]
    assert "METEOR not computed: no java" in found.notes


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs java")
def test_with_java_meteor_is_tested_too(folder: StudyFolder) -> None:
    first, second = copies(folder, 0.3), copies(folder, 0.6, seed=2)
    tests = compare({"a": first, "b": second}, folder, permutations=9).tests["b"]
    assert list(tests) == [*METRICS[:4], "meteor", *METRICS[4:]]
    assert tests["meteor"].first == pytest.approx(evaluate(first, folder).rows["model"].meteor, abs=1e-6)


def test_the_table_says_how_it_was_made(folder: StudyFolder) -> None:
    found = compare({"x": copies(folder), "y": copies(folder, 0.9)}, folder, permutations=99, seed=3)
    table = found.table()
    for part in ("phantom, split test, n = 40 of 40 studies, of 20 patients", "r2gen|clean:iu", "99 random swaps"):
        assert part in table
    for part in ("corrected for all 9 tests", "1,000 bootstrap resamples", "seed 3", "A: x\nB: y", "A - B"):
        assert part in table
    test = found.tests["y"]["bleu_4"]
    [row] = [line.split() for line in table.splitlines() if line.startswith("BLEU-4")]
    shown = [f"{test.first:.3f}", f"{test.second:.3f}", f"{test.difference:+.3f}", f"{test.low:+.3f}", "to"]
    assert row == ["BLEU-4", *shown, f"{test.high:+.3f}", f"{test.p:.4f}", f"{test.p_holm:.4f}"]


def test_the_command_reads_run_folders(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, runs), "--permutations", "99", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["seed"], found["permutations"], found["resamples"]) == (40, 0, 99, 1000)
    assert found["protocol"] == "r2gen"
    assert found["tests"][str(runs[1])]["bleu_4"]["p"] == 0.01
    assert main(["compare", *map(str, runs), "--permutations", "99"]) == 0
    assert f"A: {runs[0]}\nB: {runs[1]}" in capsys.readouterr().out


def test_the_command_reads_files_where_the_data_is_named(
    runs: tuple[Path, Path], folder: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [shutil.copy(run / "predictions.jsonl", tmp_path / f"{run.name}.jsonl") for run in runs]
    assert main(["compare", *map(str, files), "--permutations", "9"]) == 2
    assert "add --data DIR" in capsys.readouterr().err
    assert main(["compare", *map(str, files), "--permutations", "9", "--data", str(folder.path)]) == 0


def test_one_run_is_no_comparison(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs[0])]) == 2
    assert f"only {runs[0]} is given; name two" in capsys.readouterr().err


@pytest.mark.parametrize(
    "again", [lambda run: run, lambda run: run / "predictions.jsonl", lambda run: run.parent / "bad" / ".." / run.name]
)
def test_the_same_file_twice_is_no_comparison(
    runs: tuple[Path, Path], again: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs[0]), str(runs[1]), str(again(runs[0]))]) == 2
    assert "are the same file" in capsys.readouterr().err


def test_runs_of_different_data_are_refused(
    runs: tuple[Path, Path], folder: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "other", copies(folder), data=str(folder.path), split="val")
    assert main(["compare", str(runs[0]), str(other)]) == 2
    assert f"different split ({runs[0]}: test, {other}: val)" in capsys.readouterr().err
    assert main(["compare", str(runs[0]), str(other), "--split", "test", "--permutations", "9"]) == 0


def test_disjoint_ids_are_refused(folder: StudyFolder) -> None:
    predictions = copies(folder)
    with pytest.raises(DataError, match=r"no study of split test is in all of them \(a has 20, b has 20\)"):
        compare({"a": predictions[:20], "b": predictions[20:]}, folder)


def test_ids_of_another_split_are_listed(folder: StudyFolder) -> None:
    strange = [*copies(folder), Prediction(id="train0", report="x"), Prediction(id="ghost", report="x")]
    with pytest.raises(DataError, match="b: 2 of its 42 ids do not fit split test") as error:
        compare({"a": copies(folder), "b": strange}, folder)
    assert error.value.problems == ["train0 is not of split test", "ghost is not of split test"]


def test_ids_given_twice_are_refused(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = runs[1] / "predictions.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    assert main(["compare", *map(str, runs)]) == 1
    assert "id test0 was already given on line 1" in capsys.readouterr().err


def test_ids_given_twice_in_python_are_refused(folder: StudyFolder) -> None:
    with pytest.raises(DataError, match="test0 is given more than once"):
        compare({"a": copies(folder), "b": [*copies(folder), copies(folder)[0]]}, folder)


def test_one_patient_is_refused(folder: StudyFolder) -> None:
    with pytest.raises(DataError, match="2 shared studies are of one patient"):
        compare({"a": copies(folder)[:2], "b": copies(folder, 0.5)[:2]}, folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "nonsense"}, "no protocol is named 'nonsense'"),
        ({"permutations": 0}, "at least 1 of each"),
        ({"labeler": "nonsense"}, "no labeler is named"),
        ({"split": "nonsense"}, "is none of train, val, test"),
    ],
)
def test_settings_that_mean_nothing_are_refused(folder: StudyFolder, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare({"a": copies(folder), "b": copies(folder)}, folder, **options)  # type: ignore[arg-type]


def test_equal_systems_have_no_difference(folder: StudyFolder) -> None:
    tests = compare({"a": copies(folder, 0.5), "b": copies(folder, 0.5)}, folder, permutations=99).tests["b"]
    assert {(t.difference, t.low, t.high, t.p, t.p_holm) for t in tests.values()} == {(0, 0, 0, 1, 1)}


def test_labels_that_are_not_exact_are_read_from_the_references(folder: StudyFolder) -> None:
    card = {**folder.card, "labels": "rules"}
    found = compare({"a": copies(folder), "b": copies(folder, 0.9)}, StudyFolder(folder.path, card, folder.studies))
    assert found.reference_labels == f"by {get_labeler().name} on the reference reports"
    assert found.tests["b"]["f1_micro"].first == 1
    assert np.isfinite([t.p for t in found.tests["b"].values()]).all()
