"""METEOR 1.5 (Denkowski and Lavie, 2014) from pycocoevalcap's jar, without what makes its own driver hang.

The jar speaks lines: `SCORE ||| reference ||| hypothesis` gives a segment's statistics. Its corpus score is a function
of their sums, computed here, so that any part of the reports can be scored without the jar. One process serves all
tables of an evaluation; a watchdog ends it.
"""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from rrg.evaluate.statistics import ByMetric, Statistics

Pair = tuple[str, str]
"""(hypothesis, reference)"""

START_S, PER_PAIR_S = 120.0, 0.2
# The jar's parameters for English (`-l en`, task rank), and its weights of words that match exactly, by stem, by
# synonym and in a paraphrase.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
STAGES = np.array([1.0, 0.6, 0.8, 0.6])
COLUMNS = 23
_LENGTHS, _FUNCTION, _MATCHES, _CHUNKS, _WORDS = slice(0, 2), slice(2, 4), slice(4, 20), 20, slice(21, 23)


class MeteorUnavailable(Exception):
    """METEOR cannot be computed here; the message says why."""


def meteor_statistics(tables: Mapping[str, Sequence[Pair]]) -> dict[str, Statistics]:
    """What the jar says of each pair of each table, in order: (pairs, 23). Raises MeteorUnavailable with the reason.

    Columns: length of hypothesis and reference, function words of each; then for each stage the matched words of
    hypothesis and reference, content words before function words; chunks; matched words of each. A pair without a
    difference has no chunk, as when the jar adds it up. A pair that stands in several tables is aligned once.
    """
    keys = {name: [(_field(h), _field(r)) for h, r in table] for name, table in tables.items()}
    found = _align(list(dict.fromkeys(pair for table in keys.values() for pair in table)))
    return {name: _statistics([found[pair] for pair in table]) for name, table in keys.items()}


def _statistics(rows: Sequence[Sequence[float]]) -> Statistics:
    """From the jar's numbers of each pair."""
    values = np.array(rows).reshape(-1, COLUMNS)
    whole = (values[:, _MATCHES].reshape(-1, 2 * len(STAGES), 2).sum(axis=1) == values[:, _LENGTHS]).all(axis=1)
    values[whole & (values[:, _CHUNKS] == 1), _CHUNKS] = 0
    return Statistics(values, _score)


def _score(sums: np.ndarray) -> ByMetric:
    """From sums of the columns of `meteor_statistics`; the last axis of what follows is (hypothesis, reference)."""
    length, function, words = sums[..., _LENGTHS], sums[..., _FUNCTION], sums[..., _WORDS]
    matched = sums[..., _MATCHES].reshape(*sums.shape[:-1], len(STAGES), 2, 2)  # (stages, content or function, side)
    share = np.array([DELTA, 1 - DELTA])
    with np.errstate(divide="ignore", invalid="ignore"):
        weighted = np.einsum("...kcs,k,c->...s", matched, STAGES, share)
        precision, recall = np.moveaxis(weighted / (DELTA * (length - function) + (1 - DELTA) * function), -1, 0)
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragmentation = sums[..., _CHUNKS] / (words.sum(axis=-1) / 2)
        score = mean * (1 - GAMMA * fragmentation**BETA)
    return {"meteor": np.maximum(np.nan_to_num(score), 0)}


def _align(pairs: Sequence[Pair]) -> dict[Pair, list[float]]:
    """The jar's statistics of each pair. Raises MeteorUnavailable with the reason."""
    java = shutil.which("java")
    if java is None:
        raise MeteorUnavailable("no java")
    spec = find_spec("pycocoevalcap")
    folder = Path((spec.submodule_search_locations or [""])[0] if spec else "") / "meteor"
    if not (folder / "meteor-1.5.jar").is_file():
        raise MeteorUnavailable("pycocoevalcap's meteor-1.5.jar is missing; install pycocoevalcap anew")
    command = [
        java,
        "-Xmx2G",
        "-XX:+UseSerialGC",
        "-Duser.language=en",
        "-Duser.country=US",
        "-Dfile.encoding=UTF-8",
        "-jar",
    ]
    command += ["meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    limit = START_S + PER_PAIR_S * len(pairs)
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=_environment()
            )
        except OSError as error:
            raise MeteorUnavailable(f"java did not start: {error}") from None
        watchdog = threading.Timer(limit, process.kill)
        watchdog.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            found = {}
            for hypothesis, reference in tqdm(pairs, desc="METEOR", unit="pair", leave=False, disable=None):
                # The space at the end keeps an empty hypothesis: the jar drops a field without a character.
                _write(process.stdin, f"SCORE ||| {reference} ||| {hypothesis} ")
                found[hypothesis, reference] = _read(process.stdout)
            return found
        except (OSError, ValueError) as error:
            raise MeteorUnavailable(_reason(watchdog, limit, errors, error)) from None
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()


def _field(text: str) -> str:
    """One line without the jar's separator."""
    return " ".join(text.replace("|||", " ").split())


def _environment() -> dict[str, str]:
    """Without JAVA_TOOL_OPTIONS and the like, which could turn the locale back."""
    return {k: v for k, v in os.environ.items() if k not in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS")}


def _write(pipe: IO[bytes], line: str) -> None:
    pipe.write(line.encode("utf-8", "replace") + b"\n")
    pipe.flush()


def _read(pipe: IO[bytes]) -> list[float]:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise ValueError("the jar stopped answering")
    numbers = [float(word) for word in line.split()]
    if len(numbers) != COLUMNS:
        raise ValueError(f"the jar answered with {len(numbers)} numbers, not {COLUMNS}")
    return numbers


def _reason(watchdog: threading.Timer, limit: float, errors: IO[bytes], error: Exception) -> str:
    if watchdog.finished.is_set():
        return f"java took longer than {limit:.0f} s"
    errors.seek(0)
    said = errors.read(2000).decode(errors="replace").strip().splitlines()
    return f"java failed: {said[0] if said else error}"
