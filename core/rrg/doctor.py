"""What an environment has, and what is wrong with it: the findings that `rrg doctor` prints.

Every check is guarded: one that fails is itself a finding, and the others still run.
"""

import json
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, distributions, version
from pathlib import Path
from shlex import quote
from urllib.parse import unquote, urlsplit

OPTIONAL = {
    "faiss-cpu": "approximate retrieval from large corpora",
    "mamba-ssm": "selective scans on CUDA",
    "sentencepiece": "hosts whose tokenizer is a tokenizer.model alone, as Vicuna's (the extra sentencepiece)",
    "protobuf": "the same hosts",
    "triton": "GPU kernels, and torch.compile on GPUs",
}
GIB = 1 << 30
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One line of the answer. check: what found it. mark: ok, note or problem. cure: what to do about a problem."""

    check: str
    mark: str
    text: str
    cure: str = ""


Rows = Iterator[tuple[str, ...]]  # a Finding's mark, text and cure


def examine(data: Iterable[Path] = ()) -> list[Finding]:
    """Run every check. data: data folders to open, beside those found in data/. A check that fails is a problem."""
    found: list[Finding] = []
    checks = {check.__name__: check() for check in CHECKS} | {"data": data_folders(data)}
    for name, rows in checks.items():
        try:
            for row in rows:  # one by one: what was found before a failure is kept
                found.append(Finding(name, *row))
        except BaseException as error:  # a stranger's module may raise anything, SystemExit too
            if isinstance(error, KeyboardInterrupt):
                raise
            found.append(Finding(name, "problem", f"this check failed: {type(error).__name__}: {error}"))
    return found


def versions() -> Rows:
    """Python, rrg and what rrg requires, from installed metadata: nothing is imported."""
    from packaging.requirements import Requirement

    yield "ok", f"python {platform.python_version()} ({sys.executable})"
    here = Path(__file__).parent
    try:
        rrg = distribution("rrg-compose")
    except PackageNotFoundError:
        yield "problem", f"rrg runs from {here}, but is not installed", "in its repository: pip install -e ."
        return
    yield "ok", f"rrg {rrg.version} ({here})"
    met = []
    for needed in map(Requirement, rrg.requires or []):
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            found = "is not installed"
        if found[0].isdigit() and needed.specifier.contains(found, prereleases=True):
            met.append(f"{needed.name} {found}")
        else:
            yield "problem", f"{needed.name} {found}; rrg needs {needed}", f"pip install '{needed}'"
    yield "ok", ", ".join(met)


def entry_points() -> Rows:
    """Editable installs whose entry points differ from their pyproject.toml: pip copied them when it ran."""
    for dist in distributions():
        url = json.loads(dist.read_text("direct_url.json") or "{}")  # where it was installed from
        pyproject = Path(unquote(urlsplit(url.get("url", "")).path), "pyproject.toml")
        if not (url.get("dir_info", {}).get("editable") and pyproject.is_file()):
            continue
        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {"dynamic": ["entry-points"]})
        declared: dict[str, str] = project.get("entry-points", {}).get("rrg", {})
        installed = {point.name: point.value for point in dist.entry_points if point.group == "rrg"}
        if declared == installed or "entry-points" in project.get("dynamic", ()):  # dynamic: setup.py says
            if declared:
                yield "ok", f"{dist.name}: as in {pyproject}"
            continue
        missing = sorted(declared.keys() - installed.keys())
        stale = sorted(name for name, value in installed.items() if declared.get(name) != value)
        wrong = [f"{', '.join(names)} {what}" for what, names in (("missing", missing), ("stale", stale)) if names]
        text = f"{dist.name}: {'; '.join(wrong)}: {pyproject} has changed since it was installed"
        yield "problem", text, f"pip install -e {quote(str(pyproject.parent))}"


def plugins() -> Rows:
    """Every plugin, what it provides, and what is wrong with it. Loads each piece's class."""
    from rrg.composing.contract import contract_of
    from rrg.composing.plugins import find
    from rrg.errors import RRGError

    for plugin in find().plugins:
        name = f"{plugin.name} ({plugin.distribution} {plugin.version})"
        problems, sound = [f"{name}: {plugin.problem}"] if plugin.problem else [], []
        for registered in plugin.pieces:
            try:
                contract_of(registered)
                sound.append(f"{registered.kind} {registered.name}")
            except RRGError as error:
                problems.append(error.message)
        for problem in problems:
            yield "problem", problem, f"mend it, or pip uninstall {plugin.distribution}"
        if sound:
            yield "ok", f"{name}: {', '.join(sound)}"


def optional() -> Rows:
    """What some pieces and scores use where it is there."""
    for name, use in OPTIONAL.items():
        try:
            yield "ok", f"{name} {version(name)}: {use}"
        except PackageNotFoundError:
            yield "note", f"no {name}: optional, for {use}"
    if not shutil.which("java"):
        yield "note", "no java: optional, for METEOR, which is left out without it"
        return
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60, check=False)
    said = next((line for line in done.stderr.splitlines() if " version " in line), "")  # JAVA_TOOL_OPTIONS adds lines
    if done.returncode or not said:
        yield "problem", f"java fails: {done.stderr or done.returncode}", "install a Java runtime, or remove this one"
    else:
        yield "ok", f"{said}: METEOR"


def kernels() -> Rows:
    """The implementations that are taken here."""
    import torch

    from rrg.ops import gated_fusion, selective_scan

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.empty(0, 0, 0, device=device, dtype=torch.bfloat16)
    scan, fusion = selective_scan.choice(x), gated_fusion.choice(x, x.dtype)
    yield "ok", f"on {device}: selective scan by {scan}, gated fusion in bfloat16 by {fusion}"


def gpu() -> Rows:
    """The GPUs that torch sees."""
    import torch

    if not torch.cuda.is_available():
        yield "note", f"torch {torch.__version__} (CUDA: {torch.version.cuda}) sees none: everything runs on the CPU"
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield "ok", f"{device.name}, {device.total_memory / GIB:.0f} GiB, capability {device.major}.{device.minor}"


def torchvision() -> Rows:
    """Whether torchvision imports beside this torch."""
    from rrg import _torchvision

    try:
        import torchvision
    except Exception as error:
        text = f"cannot be imported: {type(error).__name__}: {error}"
        yield "problem", text, "install the torchvision that belongs to your torch: https://pytorch.org/get-started"
        return
    repair = ", built for CUDA, beside a torch without: rrg's repair is active, nothing to do"
    yield ("note", torchvision.__version__ + repair) if _torchvision.declared else ("ok", torchvision.__version__)


def machine() -> Rows:
    """Disk, memory, cores."""
    import psutil
    import torch

    from rrg.data.parallel import cores

    free, memory = shutil.disk_usage(Path.cwd()).free, psutil.virtual_memory()
    yield "ok" if free > 5 * GIB else "note", f"disk: {free / GIB:.1f} GiB free at {Path.cwd()}"
    yield "ok", f"memory: {memory.available / GIB:.1f} GiB available of {memory.total / GIB:.1f}"
    yield "ok", f"cores: {cores()}; torch's threads: {torch.get_num_threads()} (OMP_NUM_THREADS sets them)"


def data_folders(given: Iterable[Path]) -> Rows:
    """The folders given, and those in data/ that hold a metadata.jsonl."""
    from rrg.data.study import METADATA, StudyFolder, count
    from rrg.errors import RRGError

    for path in dict.fromkeys([*given, *sorted(file.parent for file in Path("data").glob(f"*/{METADATA}"))]):
        try:
            folder = StudyFolder.open(path)
        except (RRGError, OSError) as error:
            said = str(error).split("\n  - ")
            text = "; ".join(said[:SHOWN]) + (f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else "")
            yield "problem", text, "see rrg data --help"
            continue
        counts = ", ".join(f"{what} {number:,}" for what, number in count(folder.studies).items())
        yield "ok", f"{path} ({folder.card['name']}): {counts}"
        if folder.warnings:
            yield "note", f"{path}: {folder.warnings[0]}; warnings in all: {len(folder.warnings)}"


CHECKS = (versions, entry_points, plugins, optional, gpu, kernels, torchvision, machine)
