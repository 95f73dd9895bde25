"""Write docs/hooks.md from the hooks, the signal table and the bundled pieces, docs/ablations.md from the tables of
registry.toml, docs/performance.md from benchmarks/results: `make docs-pages`. With a table.json of `rrg ablate`, write
it into docs/results.md too: `make results`.
"""

import ast
import inspect
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any, get_type_hints

from rrg import hookspecs, signals
from rrg.pieces import Registered
from rrg.train.ablate import commands, markdown, tables

NOTE = "<!-- Written by `make docs-pages` from core/rrg/hookspecs.py, core/rrg/signals.py and the examples' code. -->"
PAGE = Path(__file__).parent / "hooks.md"
ABLATIONS = Path(__file__).parent / "ablations.md"
RESULTS = Path(__file__).parent / "results.md"
PERFORMANCE = Path(__file__).parent / "performance.md"
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PERFORMANCE_HEAD = """\
<!-- Written by `make docs-pages` from benchmarks/results. -->

# Performance

```
rrg bench gated-fusion --quick
```

runs a case's tests, then every way to do the same work, interleaved in one run. Read the ratios: times drift with the
machine and with what else runs on it. The floor is what the work cannot do without, such as the bare matrix product, or
the greater of a scan's exponentials and its bytes; the reference is the plainest way. Without `--quick` the sizes below
are measured and kept.

| operation, in `rrg.ops` | on the CPU | on a GPU | else |
|---|---|---|---|
| `selective_scan` | `cpu`: numba, on torch's threads | `triton`, else `mamba-ssm` | `chunked`: plain PyTorch |
| `selective_scan_2d`: four directions of a map | `cpu`, no tensor for a direction | `triton`, likewise | `chunked` |
| `gated_fusion`: one autograd function | float32, many rows: `cpu` | 16-bit: `triton`, else `torch` | `torch` |
| `nearest`: retrieval | exact through a narrow table | on the CPU | `dast.dmsr.search=ivf`: faiss |

`choice` of each module says what `auto` takes, and `backend=` takes another. `naive.py` beside each is its
specification: the tests hold every backend to it, output and gradients. The Triton kernels are tested in Triton's
interpreter and compiled for sm_80 and sm_90. `pip install 'rrg-compose[faiss]'`, `[bench]` (mamba.py, a peer) and
`[cuda]` (mamba-ssm) add what is optional.
"""
ABLATIONS_HEAD = """\
<!-- Written by `make docs-pages` from the tables of registry.toml. -->

# Ablations

Every row of the four papers' ablation tables is a composition. A whole table is one command, over as many seeds as you
like; what is finished is not run again:

`rrg ablate lead-4 --data DATA --out runs/lead-4 --seeds 0 1 2 3 4`

prints means with 95 % intervals, the protocol and the null baselines. `--host` takes the language model, `--set` a
setting of every row, `--steps` the same number of optimizer steps for every row. `DATA` is a data folder of `rrg data`.
"""
GUIDE = "[Writing a piece](writing-a-piece.md) shows a plugin from its package to its use."
# The module that registers each hook's example, and the example.
EXAMPLES = {
    "rrg_encoders": ("rrg_lead", "lead.experts"),
    "rrg_connectors": ("rrg.core_pieces", "core.connector"),
    "rrg_injectors": ("rrg_lead", "lead.gate"),
    "rrg_losses": ("rrg_lead", "lead.bce"),
    "rrg_retrievers": ("rrg_dast", "dast.dmsr"),
    "rrg_stages": ("rrg_lead", "lead.train"),
}


def hooks_page() -> str:
    """The whole page."""
    parts = [NOTE, "# Hooks and signals", inspect.getdoc(hookspecs), GUIDE]
    parts += [hook_section(hook) for hook in hookspecs.KINDS]
    parts += ["## Signals", inspect.getdoc(signals), signal_table(), "## Axes", axis_table()]
    return "\n\n".join(map(str, parts)) + "\n"


def hook_section(hook: str) -> str:
    """One hook: signature, docstring, and how a bundled piece registers and what it looks like."""
    specification = getattr(hookspecs, hook)
    [head] = [line for line in inspect.getsource(specification).splitlines() if line.startswith("def ")]
    module, name = EXAMPLES[hook]
    implementation = getattr(import_module(module), hook)
    [piece] = [piece for piece in implementation() if piece.name == name]
    cls = Registered(piece, hookspecs.KINDS[hook], module).cls
    return "\n\n".join(
        [
            f"## {hook}",
            python(head.partition(":  #")[0].removesuffix(":")),
            inspect.getdoc(specification) or "",
            f"Example: `{name}`, registered in `{module}`",
            python(inspect.getsource(implementation)),
            f"and defined in `{cls.__module__}`",
            python(outline(cls)),
        ]
    )


def outline(cls: type[Any]) -> str:
    """A stage's whole source; of a module, what its methods return and take, their bodies left out."""
    if not hasattr(cls, "forward"):
        return inspect.getsource(cls)
    methods = [getattr(cls, name) for name in ("__init__", "prepare", "forward") if hasattr(cls, name)]
    results = [get_type_hints(method).get("return") for method in methods]
    named = [inspect.getsource(result).strip() for result in results if hasattr(result, "_fields")]
    head = inspect.getsource(cls).splitlines()[0]
    return "\n\n\n".join([*named, head + "\n" + "\n\n".join(map(signature, methods))])


def signature(method: Any) -> str:
    """The source of a method up to its body, which is left out."""
    source = inspect.getsource(method)
    [function] = ast.parse(dedent(source)).body
    assert isinstance(function, ast.FunctionDef)
    return "\n".join(source.splitlines()[: function.body[0].lineno - 1]) + " ..."


def python(source: str) -> str:
    return f"```python\n{source.strip()}\n```"


def signal_table() -> str:
    rows = ["| name | type | axes | meaning | given by |", "|---|---|---|---|---|"]
    for name, signal in signals.SIGNALS.items():
        givers = {"data": "the study", "host": "the host"}
        giver = givers[signal.source] if signal.source else "one piece" if signal.single else "pieces"
        default = f", else `{signal.default}`" if signal.default else ""
        default += ", in training alone" if signal.training else ""
        rows.append(f"| `{name}` | {signal.dtype} | {signal.axes} | {signal.meaning} | {giver}{default} |")
    return "\n".join(rows)


def axis_table() -> str:
    rows = [f"| `{name}` | {meaning} |" for name, meaning in signals.AXES.items()]
    return "\n".join(["| axis | what it counts |", "|---|---|", *rows])


def ablations_page() -> str:
    """The whole page: a section a table, a line a row with its command."""
    parts = [ABLATIONS_HEAD.rstrip()]
    for name, table in tables().items():
        rows = [f"| {row} | `{command}` |" for row, command in commands(table)]
        parts.append("\n".join([f"## {name}", "", f"{table.title}.", "", "| row | command |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def performance_page() -> str:
    """Every result kept below benchmarks/results, by machine and case."""
    sys.path.insert(0, str(BENCHMARKS))
    table = import_module("runner").table
    parts = [PERFORMANCE_HEAD.rstrip()]
    for folder in sorted(path for path in (BENCHMARKS / "results").glob("*") if path.is_dir()):
        parts.append(f"## {folder.name}")
        for path in sorted(folder.glob("*.json")):
            parts += [f"### {path.stem}", table(json.loads(path.read_text(encoding="utf-8")))]
    return "\n\n".join(parts) + "\n"


def results_page(table: Path) -> str:
    """docs/results.md with a table.json between the marks that bear its name."""
    found = json.loads(table.read_text(encoding="utf-8"))
    marks = [f"<!-- {found['table']} -->", f"<!-- end of {found['table']} -->"]
    page = RESULTS.read_text(encoding="utf-8")
    pattern = "(?s)" + ".*?".join(map(re.escape, marks))
    assert re.search(pattern, page), f"docs/results.md lacks {marks[0]}"
    return re.sub(pattern, lambda _: f"{marks[0]}\n{markdown(found)}\n{marks[1]}", page)


if __name__ == "__main__":
    if sys.argv[1:]:
        RESULTS.write_text(results_page(Path(sys.argv[1])), encoding="utf-8")
    PAGE.write_text(hooks_page(), encoding="utf-8")
    ABLATIONS.write_text(ablations_page(), encoding="utf-8")
    PERFORMANCE.write_text(performance_page(), encoding="utf-8")
