"""Imports that are killed again and again: nothing lost, nothing twice, memory below 1 GiB, the workers gone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from data_sources import check_whole, import_command, manifest, r2gen

INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
SIDE, LINE = 512, 330  # pixels; bytes of a film's line in the manifest


def make_source(src: Path, films: int) -> Path:
    """R2Gen's folder, two films a study: gradients, some with noise, and each film's number in black and white."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    noise = np.random.default_rng(0).normal(0, 4, (SIDE, SIDE))
    waves = [128 + 60 * np.sin((columns + 50 * i) / 40) + 50 * np.cos(rows / (20 + i)) for i in range(8)]
    patterns = [np.clip(wave + noise * (i % 4 == 0), 0, 255).astype(np.uint8) for i, wave in enumerate(waves)]
    items = []
    r2gen(src, [])
    (src / "images").mkdir()
    for number in range(films):
        film = patterns[number % 8].copy()
        film[:32, : 24 * 16] = np.repeat([255 * (number >> bit & 1) for bit in range(24)], 16)
        Image.fromarray(film).save(src / f"images/{number}.png", compress_level=1)
    for study in range(films // 2):
        report = f"Study {study}: the heart is normal in size. No effusion or pneumothorax. Mild edema." * 2
        paths = [f"{2 * study}.png", f"{2 * study + 1}.png"]
        items.append({"id": f"CXR{study}", "report": report, "image_path": paths})
    (src / "annotation.json").write_text(json.dumps({"train": items, "val": [], "test": []}))
    return src


class Watched:
    """An import in processes of its own. peak: bytes, the sum over them of the most that each has had in memory."""

    def __init__(self, src: Path, dest: Path) -> None:
        self.manifest = dest.with_name(f".{dest.name}.importing") / "films.jsonl"
        words = import_command(src, dest, "--size", "256", "--workers", "2")
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
        self.peaks: dict[int, int] = {}
        self.seen = self.begun = 0.0

    @property
    def peak(self) -> int:
        return sum(self.peaks.values())

    def look(self) -> int:
        """Note the memory; the films in the manifest by now, about."""
        try:
            root = psutil.Process(self.process.pid)
            for pid in (root.pid, *(child.pid for child in root.children(recursive=True))):
                status = Path(f"/proc/{pid}/status").read_text()
                known = [int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM")]
                self.peaks[pid] = max(known, default=0)
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            pass
        return self.manifest.stat().st_size // LINE if self.manifest.exists() else 0

    def until(self, films: int) -> float:
        """Wait until so many films more are in the manifest, or the end; films a second."""
        begun = self.look()
        started = time.monotonic()
        while (found := self.look()) < begun + films and self.process.poll() is None:
            time.sleep(0.01)
        return (found - begun) / (time.monotonic() - started)

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def import_and_kill(tmp_path: Path, films: int, kills: list[int]) -> tuple[float, int]:
    """Import, killed when so many films more are stored; films a second at best, and the largest peak."""
    src, dest = make_source(tmp_path / "src", films), tmp_path / "d"
    speeds, peaks, kept = [], [], 0
    for number in kills:
        watched = Watched(src, dest)
        speeds.append(watched.until(number))
        assert watched.process.poll() is None
        workers = watched.workers()
        watched.process.kill()
        watched.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive
        assert not dest.exists()
        lines = watched.manifest.read_bytes().count(b"\n")
        assert lines > kept
        kept = lines
        peaks.append(watched.peak)
    last = Watched(src, dest)
    speeds.append(last.until(films))
    assert last.process.wait() == 0
    check_whole(dest, films)
    assert len({line["sha256"] for line in manifest(dest)}) == films
    assert len({line["source"] for line in manifest(dest)}) == films
    for folder in (src, dest):  # gigabytes, where there are many films
        shutil.rmtree(folder)
    return max(speeds), max(*peaks, last.peak)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_imports_lose_nothing(tmp_path: Path) -> None:
    speed, peak = import_and_kill(tmp_path, 300, [40, 60, 50])
    assert speed > 0
    assert peak < 1 << 30


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_fifty_thousand_films(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speed, peak = import_and_kill(tmp_path, 50_000, [3_000, 11_000, 700, 16_000, 9_000])
    with capsys.disabled():
        print(f"\n50,000 films of 512 x 512 to 256 x 256: {speed:,.0f} films a second, at most {peak >> 20:,} MiB")
    assert peak < 1 << 30


@pytest.mark.skipif(os.name != "posix", reason="sends Ctrl-C as a terminal does")
def test_ctrl_c_ends_all_at_once_and_keeps_what_is_done(tmp_path: Path) -> None:
    src, dest = make_source(tmp_path / "src", 200), tmp_path / "d"
    words = import_command(src, dest, "--size", "256", "--workers", "2", before=INTERRUPTIBLE)
    folder = tmp_path / ".d.importing"
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not (folder / "films.jsonl").exists() or len(manifest(folder)) < 30:
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        sent = time.monotonic()
        _, said = process.communicate()
    assert time.monotonic() - sent < 5
    assert process.returncode == 130
    assert said == b"rrg: interrupted; what was finished is kept\n"
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    check_whole(dest, 200)
