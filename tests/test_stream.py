"""Films decoded ahead: the same batches from any number of workers, one clear error, nothing left behind."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from rrg.data.films import read_film
from rrg.data.study import StudyFolder
from rrg.errors import DataError, RRGError, UsageError
from rrg.feed.batch import Item, Prompt, Studies, collate
from rrg.feed.stream import batches, to_device, workers_for, workers_quiet
from rrg.feed.texts import Collator
from rrg.generate.reporter import Reporter
from rrg.retrieve.index import keys_of
from rrg.testing.data import items, noise_folder
from rrg.train.training import train
from tiny_runs import log_of, tiny_recipe, weights_of

CPU = torch.device("cpu")
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")]


def read_all(studies: Studies, collator: Callable[..., Any], workers: int) -> list[dict[str, torch.Tensor]]:
    return [to_device(b, CPU) for b in batches(studies, 3, collator, "films", device=CPU, workers=workers)]


@pytest.fixture
def broken(tmp_path: Path) -> StudyFolder:
    """A folder one of whose training films is cut short."""
    made = noise_folder(tmp_path / "broken")
    film = made.film_path(made.split("train")[7])
    film.write_bytes(film.read_bytes()[:300])
    return made


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(folder: StudyFolder, reporter: Reporter, workers: int) -> None:
    studies = Studies(folder, folder.split("train"), reporter.recipe)
    collator = Collator(Prompt(reporter.recipe, reporter.model.host))
    expected, found = read_all(studies, collator, 0), read_all(studies, collator, workers)
    assert len(found) == len(expected) == 5
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_films_reach_the_model_bit_by_bit_as_read_film_gives_them(folder: StudyFolder, reporter: Reporter) -> None:
    chosen = folder.split("train")
    batch = collate([Studies(folder, chosen, reporter.recipe)[i] for i in range(len(chosen))])
    assert batch["pixel_values"].dtype == torch.uint8
    pixels = to_device(batch, CPU)["pixel_values"]
    for row, study in enumerate(chosen):
        for view in range(len(study.file_names)):
            film = read_film(folder.film_path(study, view), reporter.recipe.image.size)
            assert torch.equal(pixels[row, view, 0], torch.from_numpy(film))


@pytest.mark.parametrize("side", [32, 61])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_stored_jpeg_is_what_pillow_gives(tmp_path: Path, side: int, mode: str) -> None:
    """At the training size, where nothing is left to do but decode, and squashed."""
    colours = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(colours).convert(mode).save(tmp_path / "film.jpg", quality=95)
    with Image.open(tmp_path / "film.jpg") as image:
        image.draft("L", (64, 64))  # to grey by the decoder
        gray = image.convert("L").resize((32, 32), Image.Resampling.BILINEAR)
    expected = np.asarray(gray, dtype=np.float32) / np.float32(255)
    assert np.array_equal(read_film(tmp_path / "film.jpg", 32), expected)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_every_grey_value_is_divided_exactly(device: str) -> None:
    values = torch.arange(256, dtype=torch.uint8)
    found = to_device({"pixel_values": values}, torch.device(device))["pixel_values"].cpu()
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), np.arange(256, dtype=np.float32) / np.float32(255))


def test_a_film_of_16_bits_makes_its_batch_one_of_floats() -> None:
    fine = np.full((1, 2, 2), 0.123456, np.float32)
    [one, two] = items([1, 1], size=2)
    batch = collate([Item(one.study, fine), Item(two.study, np.full((1, 2, 2), 51, np.uint8))])
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["pixel_values"][:, 0, 0, 0, 0].tolist() == [float(np.float32(0.123456)), float(np.float32(0.2))]


def test_keys_are_the_same_with_workers(folder: StudyFolder, reporter: Reporter) -> None:
    made = [
        keys_of(reporter.model, folder, folder.split("train"), "index", reporter.model.keys, workers)
        for workers in (0, 2)
    ]
    assert torch.equal(made[0], made[1])


def test_reports_are_the_same_with_workers(folder: StudyFolder, reporter: Reporter) -> None:
    alone, helped = (list(reporter.generate_split(folder, "test", workers=n, batch_size=2)) for n in (0, 2))
    assert alone == helped


def test_training_is_the_same_with_workers(tmp_path: Path, tiny_run: Path, folder: StudyFolder) -> None:
    """Order, augmentation, dropout and exemplars over several epochs and stages."""
    train(tiny_recipe(), folder, tmp_path / "run", workers=2, save_steps=3)
    assert weights_of(tmp_path / "run") == weights_of(tiny_run)
    assert log_of(tmp_path / "run") == log_of(tiny_run)


def test_workers_get_by_pickle_what_they_need(folder: StudyFolder, reporter: Reporter) -> None:
    """Where processes are not forked."""
    studies = Studies(folder, folder.split("train"), reporter.recipe)
    there = pickle.loads(pickle.dumps(studies))
    assert there[3].study == studies[3].study == folder.split("train")[3]
    assert np.array_equal(there[3].films, studies[3].films)
    pickle.dumps(Collator(Prompt(reporter.recipe, reporter.model.host)))


# Failures


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_film_is_one_clear_error(broken: StudyFolder, reporter: Reporter, workers: int) -> None:
    film = broken.film_path(broken.split("train")[7])
    with pytest.raises(DataError) as alone:
        read_film(film, 32)
    with pytest.raises(DataError) as caught:
        keys_of(reporter.model, broken, broken.split("train"), "index", reporter.model.keys, workers)
    assert str(caught.value) == str(alone.value)
    assert str(film) in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_stops_at_a_broken_film_with_the_same_error(tmp_path: Path, broken: StudyFolder, workers: int) -> None:
    film = broken.film_path(broken.split("train")[7])
    with pytest.raises(DataError) as caught:
        train(tiny_recipe("lead"), broken, tmp_path / "run", workers=workers)
    assert str(caught.value).startswith(f"{film}: cannot be decoded: ")
    assert "\n" not in str(caught.value)


def test_a_worker_that_dies_says_what_to_do(folder: StudyFolder, reporter: Reporter) -> None:
    def die(items: list[Item]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    studies = Studies(folder, folder.split("train"), reporter.recipe)
    with pytest.raises(RRGError, match=r"a process that decodes films has ended: .*fewer --workers, or --workers 0"):
        read_all(studies, die, 1)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="mine"), workers_quiet():
        raise RuntimeError("mine")
    with pytest.raises(DataError, match=r"^mine$"), workers_quiet():
        raise DataError("mine")


# A process started in the background of a script ignores Ctrl-C, and so do its children.
TAKES_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_an_end_leaves_no_worker_behind(tmp_path: Path, folder: StudyFolder, how: str) -> None:
    recipe, said = tmp_path / "recipe.toml", tmp_path / "said"
    tiny_recipe("lead", lead__train__epochs=10_000).save(recipe)
    words = ["train", str(recipe), "--data", str(folder.path), "--out", str(tmp_path / "run"), "--workers", "2"]
    code = f"{TAKES_INTERRUPTS}; import sys; from rrg.cli import main; sys.exit(main({words!r}))"
    command = [sys.executable, "-c", code]
    with (
        said.open("w") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, start_new_session=True) as process,
    ):
        assert process.stdout
        process.stdout.readline()  # an epoch is over
        workers: list[psutil.Process] = []
        while len(workers) < 2 and process.poll() is None:
            workers = psutil.Process(process.pid).children(recursive=True)
        # Ctrl-C goes to every process of the terminal.
        os.killpg(process.pid, signal.SIGINT) if how == "Ctrl-C" else process.kill()
    assert not psutil.wait_procs(workers, timeout=60)[1]
    if how == "Ctrl-C":
        assert process.returncode == 130
        assert said.read_text() == "rrg: interrupted; what was finished is kept\n"


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_ctrl_c_while_workers_are_forked_is_not_lost() -> None:
    code = f"""
{TAKES_INTERRUPTS}
import os, time
from torch.utils.data import DataLoader
from rrg.feed.stream import workers_quiet
once = iter([signal.SIGINT])
os.register_at_fork(before=lambda: [os.kill(os.getpid(), number) for number in once])
try:
    with workers_quiet():
        started = iter(DataLoader(range(4), num_workers=2))
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", len(started._workers))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (process.stdout, process.stderr) == ("interrupted 2\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_a_worker_ends_whose_parent_was_killed_before_it_began() -> None:
    code = """
import os, signal, time
from rrg.feed.stream import workers_quiet
with workers_quiet():
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
"""
    # The end of the output is awaited, and the worker holds it open for as long as it lives.
    process = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60)
    assert process.returncode == -signal.SIGKILL


# How many


def test_a_cpu_gets_no_worker_and_a_gpu_one_a_core_up_to_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers_for(CPU) == 0
    for cores, processes, expected in (2, 1, 2), (64, 1, 8), (16, 4, 4), (1, 2, 1):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert workers_for(torch.device("cuda")) == expected
        assert workers_for(torch.device("cuda"), 3) == 3
    with pytest.raises(UsageError, match="workers=-1: give 0 or more"):
        workers_for(CPU, -1)
