"""METEOR 1.5 (Denkowski and Lavie, 2014) from pycocoevalcap's jar, without what makes its own driver hang.

The jar speaks lines: `SCORE ||| reference ||| hypothesis` gives statistics; `EVAL ||| statistics ||| …` gives a score
per segment and then the corpus score. One process serves all tables of an evaluation; a watchdog ends it.
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

from tqdm import tqdm

Pair = tuple[str, str]
"""(hypothesis, reference)"""

START_S, PER_PAIR_S = 120.0, 0.2


class MeteorUnavailable(Exception):
    """METEOR cannot be computed here; the message says why."""


def meteor(tables: Mapping[str, Sequence[Pair]]) -> dict[str, float]:
    """Corpus METEOR of each table of (hypothesis, reference) pairs. Raises MeteorUnavailable with the reason."""
    java = shutil.which("java")
    if java is None:
        raise MeteorUnavailable("no java")
    spec = find_spec("pycocoevalcap")
    folder = Path((spec.submodule_search_locations or [""])[0] if spec else "") / "meteor"
    if not (folder / "meteor-1.5.jar").is_file():
        raise MeteorUnavailable("pycocoevalcap's meteor-1.5.jar is missing")
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
    pairs = {(_field(h), _field(r)): "" for table in tables.values() for h, r in table}
    limit = START_S + PER_PAIR_S * sum(map(len, tables.values()))
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
            for hypothesis, reference in tqdm(pairs, desc="METEOR", unit="pair", leave=False, disable=None):
                _write(process.stdin, f"SCORE ||| {reference} ||| {hypothesis}")
                pairs[hypothesis, reference] = _read(process.stdout)
            scores = {}
            for name, table in tables.items():
                statistics = [pairs[_field(h), _field(r)] for h, r in table]
                _write(process.stdin, " ||| ".join(["EVAL", *statistics]))
                *_, corpus = (float(_read(process.stdout)) for _ in range(len(table) + 1))
                scores[name] = corpus
            return scores
        except (OSError, ValueError) as error:
            raise MeteorUnavailable(_reason(watchdog, limit, errors, error)) from None
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()


def _field(text: str) -> str:
    """One line without the jar's separator; an empty text becomes a full stop, since the jar drops empty fields."""
    return " ".join(text.replace("|||", " ").split()) or "."


def _environment() -> dict[str, str]:
    """Without JAVA_TOOL_OPTIONS and the like, which could turn the locale back."""
    return {k: v for k, v in os.environ.items() if k not in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS")}


def _write(pipe: IO[bytes], line: str) -> None:
    pipe.write(line.encode("utf-8", "replace") + b"\n")
    pipe.flush()


def _read(pipe: IO[bytes]) -> str:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise ValueError("the jar stopped answering")
    return line.decode().strip()


def _reason(watchdog: threading.Timer, limit: float, errors: IO[bytes], error: Exception) -> str:
    if watchdog.finished.is_set():
        return f"java took longer than {limit:.0f} s"
    errors.seek(0)
    said = errors.read(2000).decode(errors="replace").strip().splitlines()
    return f"java failed: {said[0] if said else error}"
