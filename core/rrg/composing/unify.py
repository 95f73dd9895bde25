"""Axes have one size throughout a composition: no tensors, only annotations, wires and the sizes that are known.

An axis name is a variable of its piece, which a wire joins with its neighbour's; `host`, `diseases` and `layers` are
the composition's. A whole number in place of a name is a size that the piece is built for.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from rrg.composing.contract import Contract, Port, fits
from rrg.composing.host_names import read_config
from rrg.composing.registry import registry
from rrg.config import HostConfig, ImageConfig
from rrg.observations import OBSERVATIONS
from rrg.signals import SIGNALS

SHARED = ("host", "diseases", "layers")
LENGTHS = ("report", "text", "key")  # one name for lengths of several texts: each signal has its own
MODEL = "the language model"

Node = tuple[str | int, ...]  # (shared axis,), (piece, axis), (piece, signal, axis), or the place of a number


class Size(NamedTuple):
    """A size and where it comes from."""

    value: int
    origin: str


class End(NamedTuple):
    """One axis at one end of a wire."""

    piece: str
    verb: str
    port: Port
    position: int

    @property
    def axis(self) -> str:
        return self.port.axes.split()[self.position]

    @property
    def node(self) -> Node:
        if self.axis.isdecimal():
            return (self.piece, self.verb, self.port.argument, self.position)
        if self.axis in LENGTHS:
            return (self.piece, self.port.signal, self.axis)
        return (self.axis,) if self.axis in SHARED else (self.piece, self.axis)


Link = tuple[End, End]


def conflicts(
    contracts: Mapping[str, Contract],
    wires: Mapping[str, str],
    visual_embeds: str,
    host: HostConfig,
    image: ImageConfig,
) -> list[str]:
    """A message for every fixed size that contradicts another along the wires.

    wires: `reader.argument` to provider. visual_embeds: who gives the language model its prefix.

    Raises UsageError where a size is fixed and the host's configuration cannot be read.
    """
    links: dict[Node, list[Link]] = defaultdict(list)
    numbers: dict[Node, Size] = {}
    for link in _links(contracts, wires, visual_embeds):
        for near, far in (link, link[::-1]):
            links[near.node].append((near, far))
            if near.axis.isdecimal():
                numbers[near.node] = Size(int(near.axis), f'annotated "{near.port.axes}"')
    if not numbers:  # both ends of a wire have the same names, so names alone never disagree
        return []
    known = _known(host, image)
    sizes = numbers | known
    problems: list[str] = []
    paths: dict[Node, list[Link]] = {}
    for start in (node for node in (*known, *numbers) if node in links and node not in paths):
        paths[start] = []
        reached = [start]
        for node in reached:
            if node in sizes and sizes[node].value != sizes[start].value:
                problems.append(_conflict(paths[node], sizes))
            for link in links[node]:
                if link[1].node not in paths:
                    paths[link[1].node] = [*paths[node], link]
                    reached.append(link[1].node)
    return problems


def _links(contracts: Mapping[str, Contract], wires: Mapping[str, str], visual_embeds: str) -> Iterator[Link]:
    """Both ends of every axis of every wire, the language model's and its injectors' too."""

    def given(piece: str, signal: str) -> Port:
        ports = contracts[piece].gives if piece in contracts else ()
        return next((port for port in ports if port.signal == signal), None) or _standard(signal)

    wired = [
        (wires[f"{piece}.{port.argument}"], piece, port)
        for piece, contract in contracts.items()
        for port in contract.reads
        if f"{piece}.{port.argument}" in wires
    ]
    wired.append((visual_embeds, MODEL, _standard("visual_embeds")))
    pairs = [(provider, given(provider, read.signal), reader, read) for provider, reader, read in wired]
    for piece, contract in contracts.items():
        if contract.hidden:
            taken, back = contract.hidden
            pairs.append((MODEL, _standard("hidden"), piece, taken))
            if back.axes != taken.axes:
                pairs.append((piece, back, MODEL, _standard("hidden")))
    for provider, gives, reader, reads in pairs:
        if fits(gives.axes, reads.axes):
            for position in range(len(gives.axes.split())):
                yield End(provider, "gives", gives, position), End(reader, "reads", reads, position)


def _standard(signal: str) -> Port:
    return Port(signal, signal, SIGNALS[signal].axes, SIGNALS[signal].dtype)


def _known(host: HostConfig, image: ImageConfig) -> dict[Node, Size]:
    """Sizes that stand whatever the pieces say: those of labels, films and the host."""
    config = {**read_config(host.name), **host.config}
    found: dict[Node, tuple[Any, str]] = {
        ("diseases",): (len(OBSERVATIONS), "the observations"),
        ("data", "channels"): (1, "films are grey"),
        ("data", "height"): (image.size, "image.size"),
        ("data", "width"): (image.size, "image.size"),
        ("host",): (_text(config).get("hidden_size"), f"{host.name}'s hidden width"),
        ("layers",): (_text(config).get("num_hidden_layers"), f"{host.name}'s decoder layers"),
        ("host", "vision"): (_part(config, "vision_config").get("hidden_size"), f"{host.name}'s vision tower"),
    }
    return {node: Size(value, origin) for node, (value, origin) in found.items() if isinstance(value, int)}


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a Hugging Face configuration."""
    return _part(config, "text_config") or config


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _conflict(path: list[Link], sizes: Mapping[Node, Size]) -> str:
    first, last = path[0][0], path[-1][1]
    names = [end.axis for link in path for end in link if not end.axis.isdecimal()]
    standard = SIGNALS[last.port.signal].axes.split() if last.port.signal in SIGNALS else []
    axis = [*names, *standard[last.position :], f"axis {last.position + 1}"][0]
    ends = [
        f"{end.piece} {end.verb} {end.port.argument} with {axis} = {sizes[end.node].value} ({sizes[end.node].origin})"
        for end in (last, first)
    ]
    between = dict.fromkeys(end.piece for (_, far), (near, _) in pairwise(path) for end in (far, near))
    joined = f"; they are one size by way of {' and '.join(between)}" if between else ""
    size, settle = sizes[last.node].value, []
    if first.node == ("host",):
        settle = [f"--host {n}" for n in registry()["hosts"] if _text(read_config(n)).get("hidden_size") == size]
    elif first.node in (("data", "height"), ("data", "width")):
        settle = [f"--set image.size={size}"]
    settle += [f"--drop {end.piece}" for end in (last, first) if end.axis.isdecimal()]
    return f"{', '.join(ends)}{joined}; settle it with {' or '.join(dict.fromkeys(settle))}"
