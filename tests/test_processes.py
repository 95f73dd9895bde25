"""Commands that a launcher starts several times: refused in one line, or trained together, with one to write."""

import subprocess
import sys
from pathlib import Path

import pytest

from rrg.cli import main
from rrg.cli._processes import RANKS, SIZES
from rrg.data.study import StudyFolder
from test_run import ENVIRONMENT
from tiny_runs import tiny_recipe, weights_of

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
COMMANDS = {
    "run": ["lead", "--data", "DATA", "--out", "new"],
    "generate": ["RUN"],
    "evaluate": ["RUN"],
    "ablate": ["lead-4", "--data", "DATA", "--out", "new"],
    "report": ["RUN"],
    "compose": ["lead", "-o", "new"],
    "data": ["phantom", "new"],
    "new": ["thing"],
    "bench": ["gated-fusion"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_writes_works_in_one_process(
    command: str, tmp_path: Path, folder: StudyFolder, tiny_run: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    paths = {"DATA": str(folder.path), "RUN": str(tiny_run)}
    files = sorted(tiny_run.rglob("*"))
    words = [command, *(paths.get(word, word) for word in COMMANDS[command])]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rrg: rrg {command} works in one process, and WORLD_SIZE=2: start it without torchrun")
    assert err.count("\n") == 1
    monkeypatch.setenv("RANK", "1")
    assert main(words) == 2
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert sorted(tiny_run.rglob("*")) == files


@pytest.mark.parametrize(("size", "rank"), list(zip(SIZES, RANKS, strict=True)))
def test_every_launcher_is_seen(
    size: str, rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(size, "3")
    monkeypatch.setenv(rank, "2")
    assert main(["generate", "run"]) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(rank, "0")
    assert main(["generate", "run"]) == 2
    assert f"and {size}=3" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "1")  # as the message says
    assert main(["generate", "run"]) == 2
    assert "run holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "1"}, "without LOCAL_RANK"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: not a number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: not a number of processes"),
    ],
)
def test_processes_that_cannot_find_one_another_do_not_train(
    given: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "recipe.toml", "--data", "data", "--out", str(tmp_path / "run")]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_reads_alone_runs_under_a_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["plugins"]) == 0
    assert "lead" in capsys.readouterr().out


def launched(*words: object) -> subprocess.CompletedProcess[str]:
    """Two processes by torchrun, over gloo."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rrg"]
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*launch, *map(str, words)], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_two_processes_are_refused_in_one_line(tmp_path: Path, folder: StudyFolder) -> None:
    done = launched("run", "lead", "--data", folder.path, "--out", tmp_path / "run")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("rrg: ")]
    assert len(said) == 1
    assert "rrg run works in one process" in said[0]
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_train_and_the_main_one_alone_speaks_and_writes(tmp_path: Path, folder: StudyFolder) -> None:
    tiny_recipe("lead", stages__max_steps=2).save(tmp_path / "recipe.toml")
    words = ["train", tmp_path / "recipe.toml", "--data", folder.path, "--out", tmp_path / "run"]
    done = launched(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained lead.train of recipe") == 1
    assert done.stdout.count("  epoch ") == 1
    before = weights_of(tmp_path / "run")
    again = launched(*words)  # the run is there already: neither process waits for the other
    assert again.returncode != 0
    assert "holds a run already" in again.stderr
    assert weights_of(tmp_path / "run") == before
