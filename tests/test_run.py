"""`rrg train` and `rrg run` from the command line: end to end, killed and resumed, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rrg.cli import main
from rrg.cli._data import open_folder
from rrg.data.study import StudyFolder
from rrg.testing.data import noise_folder
from tiny_runs import SETTINGS, log_of, tiny_recipe, weights_of

# Without a PATH there is no Java, so METEOR, which takes long to start, is left out; git is gone too.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": ""}


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "import sys; from rrg.cli import main; sys.exit(main())", *map(str, arguments)]


def _run_arguments(folder: StudyFolder, out: Path) -> list[str]:
    settings = [text for name, value in SETTINGS.items() for text in ("--set", f"{name}={value}")]
    return ["run", "lead+dmsr", "--data", str(folder.path), "--out", str(out), "--save-steps", "3", *settings]


def test_a_run_killed_in_a_stage_goes_on_exactly(tmp_path: Path, tiny_run: Path, folder: StudyFolder) -> None:
    """kill -9 once the first checkpoint is there, then --resume to the end; then once more, which trains nothing."""
    out = tmp_path / "run"
    arguments = _run_arguments(folder, out)
    checkpoint = out / "stages" / "01-lead.train.partial" / "checkpoint-3"
    with subprocess.Popen(
        _command(*arguments), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while not checkpoint.exists():
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not (out / "stages" / "01-lead.train").exists()

    resumed = subprocess.run(
        _command(*arguments, "--resume"), env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr == ""
    lines = [line for line in resumed.stdout.splitlines() if "  epoch " in line]
    assert [line.partition("  loss")[0] for line in lines] == [
        "lead.train  epoch 1/2", "lead.train  epoch 2/2", "core.exemplars  epoch 1/1",
    ]  # fmt: skip
    assert len((out / "predictions.jsonl").read_text().splitlines()) == len(folder.split("test"))
    assert json.loads((out / "metrics.json").read_text())
    assert json.loads((out / "environment.json").read_text())["commit"] is None
    if torch.get_num_threads() == 1:  # sums over threads round otherwise
        assert weights_of(out) == weights_of(tiny_run)
        assert log_of(out) == log_of(tiny_run)


DYING = """
import os, sys
from rrg.cli import main
from rrg.train.trainer import StageTrainer

lives, alive = iter(range(int(sys.argv.pop(1)))), StageTrainer.training_step

def step(*args, **kwargs):
    return alive(*args, **kwargs) if next(lives, None) is not None else os._exit(9)

StageTrainer.training_step = step
sys.exit(main())
"""


@pytest.mark.slow
def test_two_processes_train_one_run_and_go_on_exactly(tmp_path: Path, folder: StudyFolder) -> None:
    script, recipe = tmp_path / "train.py", tmp_path / "recipe.toml"
    script.write_text(DYING)
    tiny_recipe().save(recipe)

    def launched(out: str, steps: int, *options: str) -> int:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
        train = ["train", str(recipe), "--data", str(folder.path), "--out", str(tmp_path / out), "--save-steps", "1"]
        return subprocess.run(
            [*launch, str(steps), *train, *options], env=ENVIRONMENT, capture_output=True, check=False
        ).returncode

    assert launched("whole", 1000) == 0
    assert launched("run", 6) != 0  # 4 batches an epoch for each process: within the second epoch
    assert (tmp_path / "run" / "stages" / "01-lead.train.partial" / "checkpoint-3").exists()
    assert launched("run", 1000, "--resume") == 0
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")


def test_resuming_a_finished_run_trains_nothing_but_scores_again(
    tmp_path: Path, folder: StudyFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    settings = {k: v for k, v in SETTINGS.items() if k != "core.exemplars.epochs"} | {"stages.max_steps": 1}
    arguments = ["run", "lead", "--data", str(folder.path), "--out", str(tmp_path / "run")]
    arguments += [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    assert main([*arguments, "--show", "1"]) == 0
    first = capsys.readouterr().out
    before = weights_of(tmp_path / "run")
    predictions = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    assert main([*arguments, "--show", "0", "--resume"]) == 0
    again = capsys.readouterr().out
    assert "  epoch 1/1" in first
    assert "\nstudy test0\n" in first
    assert "  epoch " not in again
    assert "\nstudy " not in again
    assert weights_of(tmp_path / "run") == before
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == predictions


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    tiny_recipe("lead", stages__max_steps=1).save(path)
    return path


def _refused(capsys: pytest.CaptureFixture[str], code: int, says: str, *arguments: object) -> None:
    assert main(["train", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("rrg: ")


def test_train_command_trains_and_resumes_by_the_runs_own_recipe_and_data(
    tmp_path: Path, recipe: Path, folder: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", str(recipe), "--data", str(folder.path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("trained lead.train of recipe ")
    recipe.unlink()
    assert main(["train", "--out", str(out), "--resume"]) == 0


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (["RECIPE", "--out", "new"], 2, "give a recipe and --data"),
        (["--data", "DATA", "--out", "new"], 2, "give a recipe and --data"),
        (["absent.toml", "--data", "DATA", "--out", "new"], 2, "no such recipe"),
        (["RECIPE", "--data", "absent", "--out", "new"], 1, "no such data folder"),
        (["RECIPE", "--data", "DATA", "--out", "new", "--workers", "-1"], 2, "workers=-1"),
        (["RECIPE", "--data", "DATA", "--out", "new", "--save-steps", "0"], 2, "save_steps=0"),
        (["RECIPE", "--data", "DATA", "--out", "RECIPE"], 2, "already exists"),
        (["RECIPE", "--data", "DATA", "--out", "RUN"], 2, "holds a run already"),
        (["RECIPE", "--data", "DATA", "--out", "RUN", "--resume"], 2, "only with its own recipe"),
        (["--out", "new", "--resume"], 2, "holds no run"),
    ],
)  # fmt: skip
def test_train_command_refuses_in_one_line(
    tmp_path: Path,
    recipe: Path,
    folder: StudyFolder,
    tiny_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {"RECIPE": recipe, "DATA": folder.path, "RUN": tiny_run}
    _refused(capsys, code, says, *[paths.get(word, word) for word in given])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"data": 3}', '{"data": "/absent/folder"}'], ids=["empty", "{}", "list", "3", "gone"]
)
def test_a_damaged_run_json_is_a_data_error(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    _refused(
        capsys, 1, "run.json" if "absent" not in content else "is gone; give --data", "--out", tmp_path, "--resume"
    )


def test_run_needs_test_studies_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = noise_folder(tmp_path / "data", {"train": 3})
    assert main(["run", "lead", "--data", str(folder.path), "--out", str(tmp_path / "run")]) == 2
    assert "no study of the split test" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_warnings_of_the_data_are_shown_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = noise_folder(tmp_path / "data")
    lines: list[dict[str, Any]] = [study.model_dump() for study in folder.studies]
    for number, line in enumerate(lines):
        line["patient"] = f"p{number % 7}"
    (folder.path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    card = json.loads((folder.path / "dataset.json").read_text())
    del card["counts"]
    (folder.path / "dataset.json").write_text(json.dumps(card))
    open_folder(folder.path)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 6
    assert err.splitlines()[0].startswith(f"rrg: warning: {folder.path}: patient p")
    assert err.splitlines()[-1].endswith("and 2 more warnings")
