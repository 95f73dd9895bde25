"""Run benchmark cases: their tests first, then every row interleaved in one run; ratios, never times alone.

`rrg bench` starts it. A case's rows do the same work in different ways. Each is run in turn, again and again, so that
what disturbs the machine disturbs all; the figures are each row's minimum and median, and its ratio to the reference,
to the best peer and to the floor, which is what the work cannot do without.
"""

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from rrg.errors import UsageError
from rrg.runs.environment import commit

HERE = Path(__file__).parent
RESULTS = HERE / "results"
# What some rows have besides: its title and how it is shown.
FURTHER: dict[str, tuple[str, Callable[[float], str]]] = {
    "peak bytes": ("peak memory", lambda value: f"{value / 2**20:.1f} MiB"),
    "per second": ("per second", lambda value: f"{value:,.0f}"),
}


@dataclass(frozen=True)
class Measurement:
    """One block: what is measured, at which size, and the ways to do it. floor, reference: names of rows.

    floor may be several needs, each the ways to meet it: of the ways the quickest counts, of the needs the slowest.
    memory: whether its peak is wanted. count: the things each row handles, of which a rate is wanted.
    """

    what: str
    rows: dict[str, Callable[[], object]]
    floor: str | tuple[tuple[str, ...], ...]
    reference: str
    memory: bool = False
    count: int = 0


@dataclass(frozen=True)
class Case:
    """tests: files that must pass before anything is measured. blocks: makes each block; quick: the smallest alone."""

    name: str
    help: str
    tests: tuple[str, ...]
    blocks: Callable[[str, bool], Iterator[Measurement]]


def run(case: Case, *, device: str, quick: bool, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Measure a case; None, with nothing measured, where its tests fail."""
    tests = [str(HERE.parent / "tests" / name) for name in case.tests]
    say(f"{case.name}: tests of {', '.join(case.tests)}")
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-m", f"not slow{' and not gpu' * (device == 'cpu')}", *tests]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        say(done.stdout)
        return None
    blocks = []
    for block in case.blocks(device, quick):
        say(f"{case.name}: {block.what}")
        blocks.append(measured(block, device, seconds=0.5 if quick else 4.0))
    return {"case": case.name, "help": case.help, "quick": quick, "machine": machine(device), "blocks": blocks}


def measured(block: Measurement, device: str, seconds: float) -> dict[str, Any]:
    """Interleave the rows until `seconds` a row are spent, three times at least."""
    times: dict[str, list[float]] = {name: [] for name in block.rows}
    spent, rounds, shuffle = 0.0, 0, random.Random(0)
    while rounds < 4 or (spent < seconds * len(block.rows) and rounds < 200):
        # In another order each time, since a row may find in the cache what the one before it left there.
        for name in shuffle.sample(list(block.rows), len(block.rows)):
            call = block.rows[name]
            started = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if rounds:  # the first warms up
                times[name].append(time.perf_counter() - started)
                spent += times[name][-1]
        rounds += 1
    best = {name: min(found) for name, found in times.items()}
    floor = floor_of(block, best)
    rows = {
        name: {
            "seconds": best[name],
            "median": statistics.median(found),
            "over the floor": best[name] / best[floor],
            "times the reference": best[block.reference] / best[name],
            **({"peak bytes": peak_bytes(block.rows[name], device)} if block.memory else {}),
            **({"per second": block.count / best[name]} if block.count else {}),
        }
        for name, found in times.items()
    }
    return {"what": block.what, "floor": floor, "reference": block.reference, "rounds": rounds - 1, "rows": rows}


def floor_of(block: Measurement, best: Mapping[str, float]) -> str:
    """The row that is the floor. Needs can be met at the same time, so that their sum would be no bound."""
    if isinstance(block.floor, str):
        return block.floor
    return max((min(ways, key=best.__getitem__) for ways in block.floor), key=best.__getitem__)


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in _cpuinfo() if line.startswith("flags")), [])
    vector = next((name for name in ("avx512f", "avx2", "neon") if name in flags), "none")
    found = {"cpu": cpu, "vector": vector, "threads": torch.get_num_threads(), "torch": torch.__version__}
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return {**found, "python": platform.python_version(), "commit": commit()}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """The most memory that a call holds at once, beside what was held before, as torch's allocator counts it."""
    if device == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - held
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the profiler's library says, which goes past Python to the stream itself."""
    before = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def check_results() -> None:
    """Raises UsageError where results could not be kept, before anything is measured."""
    try:
        RESULTS.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(RESULTS, os.W_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UsageError(f"{RESULTS}: results cannot be kept there: {reason}; mend that, or measure with --quick")


def save(result: dict[str, Any]) -> Path:
    """Write a result to benchmarks/results/MACHINE/CASE.json."""
    name = result["machine"].get("gpu") or f"{result['machine']['cpu']} {result['machine']['threads']} threads"
    folder = RESULTS / "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['case']}.json"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def table(result: dict[str, Any]) -> str:
    """Markdown: one line a row."""
    found = result["machine"]
    head = ", ".join(f"{key} {value}" for key, value in found.items() if value is not None)
    lines = [f"{' '.join(result['help'].split())} ({head})", ""]
    held = {key for block in result["blocks"] for row in block["rows"].values() for key in row}
    further = {key: shown for key, shown in FURTHER.items() if key in held}
    lines.append(
        "| | row | ms | over the floor | times the reference |" + "".join(f" {t} |" for t, _ in further.values())
    )
    lines.append("|---" * (5 + len(further)) + "|")
    for block in result["blocks"]:
        for name, row in block["rows"].items():
            marks = [mark for mark in ("floor", "reference") if block[mark] == name]
            title = f"{name} ({', '.join(marks)})" if marks else name
            cells = [block["what"], title, f"{row['seconds'] * 1e3:.3g}", f"{row['over the floor']:.2f}"]
            cells.append(f"{row['times the reference']:.2f}")
            cells += [show(row[key]) if key in row else "" for key, (_, show) in further.items()]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
