"""Write a plugin package that works: one piece, its entry point, its test.

The pieces and their tests are the modules of rrg.authoring.templates, written out under the package's own name.
"""

import ast
import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from rrg.composing.plugins import CORE, find
from rrg.composing.registry import registry
from rrg.data.write import new_folder
from rrg.errors import UsageError
from rrg.hookspecs import KINDS
from rrg.pieces import NAME, RESERVED


class Kind(NamedTuple):
    """The piece that stands for a kind. compose: an expression in which it takes part, and trains if it has weights."""

    cls: str
    help: str
    compose: str


PIECES = {
    "loss": Kind("Focal", "focal loss on the disease logits", "lead+$name"),
    "encoder": Kind("Attention", "gated attention pooling of the patches", "$name+lead.bce"),
    "connector": Kind("MLP", "two-layer MLP to the visual prefix", "lead+$name"),
    "injector": Kind("FiLM", "scale and shift by the disease logits", "$name+lead.experts+lead.bce"),
    "retriever": Kind("Cosine", "exemplars by the cosine of visual_mean", "lead+$name"),
    "stage": Kind("Probe", "vision and language model frozen, the rest trains", "$name+lead"),
}
HOOKS = {kind: hook for hook, kind in KINDS.items()}


def new(name: str, kind: str, into: Path) -> Path:
    """Write the package `rrg-NAME` into a folder, whole or not at all, and give its path.

    Raises UsageError, with nothing written, where the name cannot be a method's or is taken, or the package is there
    already; RRGError where the disk refuses.
    """
    check_name(name)
    folder = into / f"rrg-{name}"
    with new_folder(folder) as partial:
        for path, text in contents(name, kind).items():
            (partial / path).parent.mkdir(exist_ok=True)
            (partial / path).write_text(text, encoding="utf-8")
    return folder


def contents(name: str, kind: str) -> dict[str, str]:
    """Every file of the package, by its path."""
    module, piece = f"rrg_{name.replace('-', '_')}", PIECES[kind]
    sources = {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        f"{module}/__init__.py": "__init__.py.txt",
        f"{module}/{kind}.py": f"{kind}.py",
        f"tests/test_{kind}.py": f"test_{kind}.py",
    }
    templates = files("rrg.authoring.templates")
    values = {
        "name": name,
        "module": module,
        "kind": kind,
        "hook": HOOKS[kind],
        "cls": piece.cls,
        "help": piece.help,
        "compose": expression(name, kind),
        "doc": ast.get_docstring(ast.parse((templates / f"{kind}.py").read_text(encoding="utf-8"))),
    }
    return {path: _filled((templates / source).read_text(encoding="utf-8"), values) for path, source in sources.items()}


def _filled(text: str, values: dict[str, str | None]) -> str:
    return Template(text.replace("rrg.authoring.templates", "$module")).substitute(values)


def expression(name: str, kind: str) -> str:
    """What to compose a fresh package with."""
    return Template(PIECES[kind].compose).substitute(name=name)


def check_name(name: str) -> None:
    """Raises UsageError for a name that no method can have, or that means something already."""
    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name!r} cannot name a method: lower case, digits and hyphens, such as focal or two-view")
    if name in (*RESERVED, CORE, "compose"):  # rrg-compose is this distribution
        raise UsageError(f"{name} is a word of rrg's own; give the method another name")
    for table in ("methods", "aliases", "hosts", "datasets"):
        if name in registry()[table]:
            raise UsageError(f"{name} is one of the {table} that rrg knows; give the method another name")
    plugins = find()
    claims = [f"the plugin {p.name} ({p.distribution})" for p in plugins.plugins if p.name.split()[0] == name]
    claims += [f"the method of {piece}" for piece in plugins.pieces if piece.partition(".")[0] == name]
    claims += [f"short for {piece}" for piece in plugins.pieces if piece.partition(".")[2] == name]
    if claims:
        raise UsageError(f"{name} is taken: it is {claims[0]}; give another name (rrg plugins lists those in use)")
