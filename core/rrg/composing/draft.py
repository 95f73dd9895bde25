"""A composition while it is being settled: what every step of `compose` reads and adds to."""

from collections.abc import Callable, Iterable

from rrg.composing.contract import Contract
from rrg.composing.plugins import Plugins
from rrg.errors import RRGError
from rrg.pieces import Registered


class Draft:
    """Pieces, wires, stages and problems so far. Each step adds to `problems` and goes on as far as it can.

    read: what reads a piece's contract.
    """

    def __init__(self, plugins: Plugins, drop: set[str], read: Callable[[Registered], Contract]) -> None:
        self.plugins, self.drop, self.read = plugins, drop, read
        self.problems: list[str] = []
        self.chosen: dict[str, Registered] = {}
        self.contracts: dict[str, Contract] = {}
        self.dropped: set[str] = set()  # of `drop`, what the composition would have had
        self.failed: set[str] = set()  # pieces that cannot be read
        self.wires: dict[str, str] = {}
        self.order: list[str] = []
        self.visual_embeds = "host"
        self.seed = 0

    @property
    def stages(self) -> list[str]:
        return self.of_kind("stage")

    def of_kind(self, kind: str) -> list[str]:
        return [name for name, piece in self.chosen.items() if piece.kind == kind]

    def add(self, names: Iterable[str]) -> None:
        """Take installed pieces into the composition, unless they are to be dropped or cannot be read."""
        for name in names:
            if name in self.drop:
                self.dropped.add(name)
            elif name not in self.chosen and name not in self.failed:
                try:
                    self.contracts[name] = self.read(self.plugins.pieces[name])
                    self.chosen[name] = self.plugins.pieces[name]
                except RRGError as error:
                    self.failed.add(name)
                    self.problems.append(error.message)
