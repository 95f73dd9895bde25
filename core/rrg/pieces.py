"""What a plugin registers: a light description of one piece. Its module loads when the piece is first looked into."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

from rrg.errors import UsageError

NAME = r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*"
FULL_NAME = re.compile(rf"{NAME}\.{NAME}")
# Words that stand before the dot of a setting or for a provider, so no method can be called so.
RESERVED = ("data", "generation", "host", "image", "seed", "stages", "text")


@dataclass(frozen=True)
class Piece:
    """One module of a paper.

    name: `method.piece`, lower case, words joined by hyphens.
    target: where the class is, `package.module:Class`.
    help: one line for `rrg plugins`.
    default: whether the method's bare name brings it into a composition.
    sets: settings of the composition that the piece brings, such as {"image.size": 518}. What a host's preset sets
        and --set stand above them; those of `host`, such as a prompt, count on published hosts alone.
    """

    name: str
    target: str
    help: str
    default: bool = True
    sets: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not FULL_NAME.fullmatch(self.name):
            raise UsageError(f"piece name {self.name!r}: expected method.piece in lower case, such as lead.gate")
        if self.method in RESERVED:
            raise UsageError(
                f"piece name {self.name!r}: {self.method} is a word of rrg's own; give the method another name"
            )
        if not re.fullmatch(r"[\w.]+:\w+", self.target):
            raise UsageError(f"piece {self.name}: target {self.target!r}, expected package.module:Class")

    @property
    def method(self) -> str:
        return self.name.partition(".")[0]

    @property
    def short(self) -> str:
        return self.name.partition(".")[2]


@dataclass(frozen=True)
class Registered:
    """A piece as found: what kind the hook made it, and which plugin gave it."""

    piece: Piece
    kind: str
    plugin: str

    @property
    def name(self) -> str:
        return self.piece.name

    @cached_property
    def cls(self) -> Any:
        """The piece's class; importing its module is the first heavy thing that happens to a piece."""
        module, _, attribute = self.piece.target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except BaseException as error:  # a stranger's module may raise anything, SystemExit too
            if isinstance(error, KeyboardInterrupt):
                raise
            raise UsageError(
                f"piece {self.name} of plugin {self.plugin}: {self.piece.target} cannot be loaded "
                f"({type(error).__name__}: {error}); mend or uninstall the plugin"
            ) from error
