"""Training: the run folder, exact resumption, refusals, the log and what is printed."""

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rrg.composing.recipe import Recipe
from rrg.data.study import StudyFolder
from rrg.errors import DataError, RRGError, UsageError
from rrg.model.model import RRGModel
from rrg.testing.data import noise_folder
from rrg.train.trainer import Progress, StageTrainer, checkpoints, epoch_line
from rrg.train.training import train
from tiny_runs import SEED, Killed, log_of, tiny_recipe, weights_of

Kill = Callable[[int], None]


def test_a_finished_run_holds_what_it_should_and_nothing_else(tiny_run: Path) -> None:
    files = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    stages = {
        f"stages/{stage}/{name}.safetensors"
        for stage in ("01-lead.train", "02-core.exemplars")
        for name in ("pieces", "host")
    }
    indexes = {
        f"{folder}index/index.{kind}"
        for folder in ("", "stages/02-core.exemplars/")
        for kind in ("jsonl", "safetensors")
    }
    tokenizer = {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}
    assert files == {"recipe.toml", "run.json", "environment.json", "log.jsonl"} | stages | indexes | tokenizer


def test_run_and_environment_say_what_the_run_came_from(tiny_run: Path, folder: StudyFolder) -> None:
    run = json.loads((tiny_run / "run.json").read_text())
    assert run["data"] == str(folder.path.resolve())
    assert run["finished"] >= run["started"]
    environment = json.loads((tiny_run / "environment.json").read_text())
    assert environment["seed"] == SEED
    assert environment["versions"]["torch"] == version("torch")
    assert environment["recipe"] == tiny_recipe().hash


# 7 batches an epoch in 4 steps; lead.train has 14 batches and saves at steps 3, 4, 6 and 8, core.exemplars at 3 and 4.
@pytest.mark.parametrize(
    ("at", "workers"),
    [
        pytest.param(3, 0, id="before any checkpoint"),
        pytest.param(7, 2, id="in an epoch"),
        pytest.param(8, 0, id="at an epoch's start"),
        pytest.param(11, 0, id="in the second epoch"),
        pytest.param(14, 0, id="at the stage's last batch"),
        pytest.param(15, 0, id="at the next stage's start"),
        pytest.param(20, 2, id="in the next stage"),
    ],
)
def test_an_interrupted_run_ends_as_the_uninterrupted_one(
    tmp_path: Path, tiny_run: Path, folder: StudyFolder, kill_at_step: Kill, at: int, workers: int
) -> None:
    kill_at_step(at)
    with pytest.raises(Killed):
        train(tiny_recipe(), folder, tmp_path / "run", workers=workers, save_steps=3)
    train(tiny_recipe(), folder, tmp_path / "run", resume=True, workers=workers, save_steps=3)
    assert weights_of(tmp_path / "run") == weights_of(tiny_run)
    assert log_of(tmp_path / "run") == log_of(tiny_run)


def test_checkpoints_at_other_steps_change_nothing(
    tmp_path: Path, tiny_run: Path, folder: StudyFolder, kill_at_step: Kill
) -> None:
    """Every second step: some of them end an epoch, and are saved after its validation alone."""
    kill_at_step(8)
    with pytest.raises(Killed):
        train(tiny_recipe(), folder, tmp_path / "run", save_steps=2)
    train(tiny_recipe(), folder, tmp_path / "run", resume=True)
    assert weights_of(tmp_path / "run") == weights_of(tiny_run)


def test_another_seed_trains_other_weights(tmp_path: Path, folder: StudyFolder) -> None:
    runs = []
    for seed in (1, 2):
        train(tiny_recipe("lead", stages__max_steps=1, seed=seed), folder, tmp_path / f"{seed}")
        runs.append(weights_of(tmp_path / f"{seed}"))
    assert runs[0] != runs[1]


@pytest.mark.parametrize("when", ["save_weights", "os.replace"])
def test_a_stage_killed_after_its_last_step_takes_no_further_one(
    tmp_path: Path, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    recipe = tiny_recipe("lead", stages__max_steps=3)  # ends within an epoch
    train(recipe, folder, tmp_path / "whole")

    def die(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"rrg.train.training.{when}", die)
        if when == "os.replace":  # not at the run folder's own beginning
            patch.setattr("rrg.train.training.write_json", lambda path, content: path.write_text(json.dumps(content)))
            patch.setattr("rrg.train.training.os", SimpleNamespace(replace=die))
            patch.setattr("rrg.data.write.os.replace", os.rename)
        with pytest.raises(Killed):
            train(recipe, folder, tmp_path / "run")
    steps: list[int] = []
    monkeypatch.setattr(StageTrainer, "training_step", lambda *args, **kwargs: steps.append(1))
    train(recipe, folder, tmp_path / "run", resume=True)
    assert not steps
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")


def test_what_a_killed_save_leaves_behind_is_no_checkpoint(
    tmp_path: Path, tiny_run: Path, folder: StudyFolder, kill_at_step: Kill
) -> None:
    kill_at_step(10)
    with pytest.raises(Killed):
        train(tiny_recipe(), folder, tmp_path / "run", save_steps=3)
    partial = tmp_path / "run" / "stages" / "01-lead.train.partial"
    assert [path.name for path in checkpoints(partial)] == ["checkpoint-4"]
    (partial / ".writing" / "checkpoint-6").mkdir(parents=True)
    (partial / ".writing" / "checkpoint-6" / "pieces.safetensors").write_bytes(b"half")
    (partial / "host.safetensors").write_bytes(b"half")
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"stage": "lead.train", "loss": 3.')
    train(tiny_recipe(), folder, tmp_path / "run", resume=True, save_steps=3)
    assert weights_of(tmp_path / "run") == weights_of(tiny_run)
    assert log_of(tmp_path / "run") == log_of(tiny_run)


def test_resuming_a_finished_run_trains_nothing(tmp_path: Path, folder: StudyFolder, kill_at_step: Kill) -> None:
    recipe = tiny_recipe("lead", stages__max_steps=1)
    train(recipe, folder, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    kill_at_step(1)
    train(recipe, folder, tmp_path / "run", resume=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_moved_data_folder_is_the_same_data(tmp_path: Path, kill_at_step: Kill) -> None:
    first = noise_folder(tmp_path / "a")
    recipe = tiny_recipe("lead", stages__max_steps=2)
    kill_at_step(2)
    with pytest.raises(Killed):
        train(recipe, first, tmp_path / "run")
    (tmp_path / "a").rename(tmp_path / "b")
    train(recipe, StudyFolder.open(tmp_path / "b"), tmp_path / "run", resume=True)


def _refused(recipe: Recipe, folder: StudyFolder, out: Path, says: str, **options: Any) -> None:
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} if out.is_dir() else None
    with pytest.raises((UsageError, DataError), match=says):
        train(recipe, folder, out, **options)
    assert ({path: path.read_bytes() for path in out.rglob("*") if path.is_file()} if out.is_dir() else None) == before
    assert not list(out.parent.glob(f".{out.name}.*"))


def test_pretraining_leaves_the_language_model_as_it_starts(tmp_path: Path, folder: StudyFolder) -> None:
    stages = {}
    for steps in (1, 2):
        recipe = tiny_recipe("core.pretrain+lead", core__pretrain__max_steps=steps, lead__train__max_steps=1)
        train(recipe, folder, tmp_path / f"{steps}")
        stages[steps] = tmp_path / f"{steps}" / "stages/01-core.pretrain"
    for name, same in ("host", True), ("pieces", False):
        one, two = (load_file(path / f"{name}.safetensors") for path in stages.values())
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one) == same
    logged = {line["stage"]: line for line in log_of(tmp_path / "2") if "loss" in line}
    assert {key for key in logged["core.pretrain"] if "/" in key} == {"loss/lead.bce"}
    assert {key for key in logged["lead.train"] if "/" in key} == {"loss/report", "loss/lead.bce"}


def test_a_run_is_not_overwritten(tiny_run: Path, folder: StudyFolder) -> None:
    _refused(tiny_recipe(), folder, tiny_run, "holds a run already; go on with --resume")


def test_a_folder_with_something_in_it_is_not_used(tmp_path: Path, folder: StudyFolder) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    _refused(tiny_recipe("lead"), folder, tmp_path, "no empty folder")


def test_nothing_to_resume(tmp_path: Path, folder: StudyFolder) -> None:
    _refused(tiny_recipe("lead"), folder, tmp_path / "run", "holds no run", resume=True)


def test_another_recipe_does_not_go_on(tiny_run: Path, folder: StudyFolder) -> None:
    _refused(tiny_recipe(stages__lr=0.5), folder, tiny_run, "with its own recipe", resume=True)


def test_other_data_do_not_go_on(tmp_path: Path, tiny_run: Path) -> None:
    _refused(tiny_recipe(), noise_folder(tmp_path / "data", seed=9), tiny_run, "with its own data", resume=True)


def test_a_folder_without_training_studies(tmp_path: Path, folder: StudyFolder) -> None:
    _refused(tiny_recipe("lead"), replace(folder, studies=folder.split("test")), tmp_path / "run", "split train")


def test_a_recipe_whose_piece_is_not_installed(tmp_path: Path, folder: StudyFolder) -> None:
    recipe = tiny_recipe("lead")
    absent = recipe.model_copy(update={"pieces": recipe.pieces | {"strange.piece": {}}})
    _refused(absent, folder, tmp_path / "run", "strange.piece, not installed")


@pytest.mark.parametrize(
    ("options", "says"),
    [({"workers": -1}, "workers=-1: give 0 or more workers"), ({"save_steps": 0}, "save_steps=0: give 1 or more")],
)
def test_numbers_that_make_no_sense(tmp_path: Path, folder: StudyFolder, options: dict[str, int], says: str) -> None:
    _refused(tiny_recipe("lead"), folder, tmp_path / "run", says, **options)


def test_a_stage_that_trains_nothing(tmp_path: Path, folder: StudyFolder) -> None:
    frozen = {"stages__vision": "frozen", "stages__connector": "frozen", "stages__llm": "frozen", "stages__pieces": []}
    _refused(tiny_recipe("lead", **frozen), folder, tmp_path / "run", "lead.train trains nothing")


def test_exemplars_without_a_retriever(tmp_path: Path, folder: StudyFolder) -> None:
    recipe = tiny_recipe("lead")
    stage = recipe.pieces["lead.train"] | {"exemplars": True}
    asked = recipe.model_copy(update={"pieces": recipe.pieces | {"lead.train": stage}})
    _refused(asked, folder, tmp_path / "run", "needs a retriever")


def test_without_validation_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = noise_folder(tmp_path / "data", {"train": 4, "test": 1})
    train(tiny_recipe("lead", stages__max_steps=1), folder, tmp_path / "run")
    assert "val" not in capsys.readouterr().out
    assert not [line for line in log_of(tmp_path / "run") if "eval_loss" in line]


def test_accumulated_batches_are_averaged(tmp_path: Path, folder: StudyFolder) -> None:
    """The first loss of two accumulated batches of two is near that of one; a sum would be twice it."""
    losses = []
    for accumulation in (1, 4):
        recipe = tiny_recipe("lead", stages__max_steps=1, stages__accumulation=accumulation)
        train(recipe, folder, tmp_path / f"{accumulation}")
        losses.append(log_of(tmp_path / f"{accumulation}")[0])
    assert losses[1]["loss"] == pytest.approx(losses[0]["loss"], rel=0.4)


def test_every_loss_is_logged_and_they_add_up(tiny_run: Path) -> None:
    weight = tiny_recipe().pieces["lead.bce"]["weight"]
    lines = [line for line in log_of(tiny_run) if "loss" in line]
    assert {line["stage"] for line in lines} == {"lead.train", "core.exemplars"}
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss/report"] + weight * line["loss/lead.bce"], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RRGModel, "parts", property(lambda self: {"report": math.nan}))
    with pytest.raises(RRGError, match=r"lead\.train diverged at step 1: report is nan"):
        train(tiny_recipe("lead"), folder, tmp_path / "run")


def test_one_line_an_epoch_is_printed(tmp_path: Path, folder: StudyFolder, capfd: pytest.CaptureFixture[str]) -> None:
    train(tiny_recipe("lead"), folder, tmp_path / "run", save_steps=1)
    out, err = capfd.readouterr()
    first, second = out.splitlines()
    pattern = r"lead\.train  epoch 1/2  loss # \(report #, lead\.bce #\)  val #  \d\.\d min"
    assert re.fullmatch(pattern.replace("#", r"\d+\.\d{3}"), first)
    assert second.startswith("lead.train  epoch 2/2  ")
    assert err == ""


def test_an_epochs_loss_is_the_mean_over_its_steps() -> None:
    history: list[dict[str, float]] = [
        {"step": 3, "epoch": 0.75, "loss": 100.0, "loss/report": 100.0},
        {"step": 4, "epoch": 1.0, "loss": 100.0, "loss/report": 100.0},
        {"step": 7, "epoch": 1.75, "loss": 2.0, "loss/report": 1.0, "loss/lead.bce": 0.5},
        {"step": 8, "epoch": 2.0, "loss": 6.0, "loss/report": 5.0, "loss/lead.bce": 0.5},
        {"step": 8, "epoch": 2.0, "eval_loss": 1.25},
    ]
    state = SimpleNamespace(epoch=2.0, log_history=history, num_train_epochs=8, global_step=8)
    assert epoch_line(state) == "epoch 2/8  loss 3.000 (report 2.000, lead.bce 0.500)  val 1.250"


def test_progress_on_a_terminal_is_one_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress, state = Progress("lead.train"), SimpleNamespace(max_steps=2, global_step=0)
    progress.on_train_begin(None, state, None)
    progress.on_step_end(None, state, None)
    progress.on_log(None, state, None, logs={"loss": 1.23456})
    progress.on_train_end(None, state, None)
    out, err = capsys.readouterr()
    assert out == ""
    assert "lead.train" in err
    assert "loss=1.235" in err
