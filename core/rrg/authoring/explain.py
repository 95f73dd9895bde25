"""What a method or a piece is, from the code itself: equations, files, signals, and what its paper leaves open."""

import inspect
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from rrg.composing.contract import Port, contract_of
from rrg.composing.plugins import Plugins, find
from rrg.composing.registry import registry
from rrg.composing.resolve import pieces_of
from rrg.errors import UsageError
from rrg.pieces import Registered
from rrg.signals import of_training

OPEN = ("not stated", "not in the paper")  # how a setting's description says that its paper is silent


@dataclass(frozen=True)
class Setting:
    """One setting: its default, what it does; open: whether the paper leaves it open, and this is a choice."""

    name: str
    default: Any
    meaning: str
    open: bool


@dataclass(frozen=True)
class Explanation:
    """One piece. source: the file that implements it. about: the section or equations of its paper. equations: what it
    computes. brings: settings of the composition that come with it. readme: its plugin's page, where it has one.
    """

    name: str
    kind: str
    help: str
    source: str
    about: str
    equations: str
    reads: list[str]
    gives: list[str]
    settings: list[Setting]
    brings: dict[str, Any]
    readme: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(name: str, plugins: Plugins | None = None) -> list[Explanation]:
    """The piece of that name, or every piece of that method.

    Raises UsageError for a name that means nothing here, or a piece that cannot be read.
    """
    plugins = plugins or find()
    pieces = plugins.of_method(name) or pieces_of(name, plugins)
    if isinstance(pieces, str):
        raise UsageError(pieces)
    return [_explained(piece) for piece in pieces]


def title_of(name: str) -> str | None:
    """A method's title, where registry.toml knows it."""
    known = registry()["methods"].get(name)
    return str(known["title"]) if known else None


def _explained(piece: Registered) -> Explanation:
    contract, module = contract_of(piece), sys.modules[piece.cls.__module__]
    file = Path(inspect.getfile(piece.cls))
    readme = file.parent / "README.md"
    hidden = contract.hidden[:1]
    result = contract.hidden[1:] if contract.hidden else contract.gives
    return Explanation(
        name=piece.name,
        kind=piece.kind,
        help=piece.piece.help,
        source=str(file),
        about=inspect.getdoc(module) or "",
        equations=inspect.cleandoc(piece.cls.__doc__ or ""),
        reads=[_signal(port) for port in (*hidden, *contract.reads)],
        gives=[_signal(port) for port in result],
        settings=[_setting(name, field) for name, field in contract.config.model_fields.items()],
        brings=dict(piece.piece.sets),
        readme=str(readme) if readme.exists() else None,
    )


def _signal(port: Port) -> str:
    alone = ", in training alone" if of_training(port.signal) else ""
    return f"{port.signal} ({port.axes}){alone}" + (", where there is one" if port.optional else "")


def _setting(name: str, field: FieldInfo) -> Setting:
    default = field.get_default(call_default_factory=True)
    meaning = field.description or ""
    plain = default.model_dump(mode="json") if hasattr(default, "model_dump") else default
    return Setting(name, plain, meaning, any(word in meaning for word in OPEN))
