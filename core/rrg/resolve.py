"""From names to pieces: which pieces an expression means, and who feeds whom."""

import difflib
from collections.abc import Iterable

from rrg.contract import Contract
from rrg.pieces import Registered
from rrg.plugins import Plugins
from rrg.registry import registry
from rrg.signals import SIGNALS

NOBODY = ", and no piece of this composition gives it"


def pieces_of(term: str, plugins: Plugins) -> list[Registered] | str:
    """The pieces that one term names (alias, then method, then a short name), or what is wrong with it."""
    if "." in term:
        if term in plugins.pieces:
            return [plugins.pieces[term]]
        return _unknown(term, plugins)
    method = plugins.of_method(term)
    if method:
        return [r for r in method if r.piece.default]
    short = [r for r in plugins.pieces.values() if r.piece.short == term]
    if len(short) > 1:
        return f"{term} is the short name of {' and '.join(r.name for r in short)}; write one of them in full"
    return short or _unknown(term, plugins)


def _unknown(term: str, plugins: Plugins) -> str:
    """Why a name means nothing here: contested, its plugin broken, known but not installed, or misspelt."""
    for name, claimants in plugins.contested.items():
        if term in (name, name.partition(".")[2]):
            return f"{name} is given by the plugins {' and '.join(claimants)}; uninstall one of them"
    method = term.partition(".")[0]
    broken = next((p for p in plugins.plugins if p.problem and p.name.split()[0] == method and not p.pieces), None)
    if broken:
        return f"{term}: its plugin {broken.name} {broken.version} is broken: {broken.problem}"
    known = registry()["methods"].get(method)
    if known and not plugins.of_method(method):
        return f"{term} is known ({known['title']}) but not installed; install it with: {known['install']}"
    names = {r.piece.method for r in plugins.pieces.values()} | set(plugins.pieces) | set(registry()["methods"])
    names |= {r.piece.short for r in plugins.pieces.values()} | set(registry()["aliases"])
    return f"{term} is unknown{did_you_mean(term, names)}; rrg plugins lists what is installed"


def did_you_mean(word: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


class Wiring:
    """Who feeds each reader: a provider of its own method, else the only provider, else a problem to settle.

    providers: provider names by signal; `data` and `host` are providers too.
    """

    def __init__(self, contracts: dict[str, Contract], host_gives: Iterable[str], chosen: dict[str, str]) -> None:
        self.contracts, self.chosen = contracts, chosen
        self.providers: dict[str, list[str]] = {}
        for name, signal in SIGNALS.items():
            if signal.source == "data":
                self.providers.setdefault(name, []).append("data")
        for name in host_gives:
            self.providers.setdefault(name, []).append("host")
        for piece, contract in contracts.items():
            for port in contract.gives:
                self.providers.setdefault(port.signal, []).append(piece)

    def single_problems(self) -> list[str]:
        """A signal that only one piece may give, claimed by several."""
        problems = []
        for signal, claimants in self.providers.items():
            pieces = [c for c in claimants if c in self.contracts]
            if signal in SIGNALS and SIGNALS[signal].single and len(pieces) > 1:
                settle = " or ".join(f"--drop {piece}" for piece in pieces)
                problems.append(f"{signal} is given by {' and '.join(pieces)}; only one can: settle it with {settle}")
        return problems

    def is_open(self, key: str, provider: str) -> bool:
        """Whether an earlier recipe's wire still fits this composition."""
        reader, _, argument = key.rpartition(".")
        ports = self.contracts[reader].reads if reader in self.contracts else ()
        return any(p.argument == argument and provider in self.providers.get(p.signal, ()) for p in ports)

    def missing_defaults(self) -> list[str]:
        """Core pieces that would give what nobody gives yet. The language model always reads `visual_embeds`."""
        read = [port.signal for c in self.contracts.values() for port in c.reads if not port.optional]
        wanted = [s for s in [*read, "visual_embeds"] if not self.providers.get(s)]
        defaults = [SIGNALS[s].default for s in wanted if s in SIGNALS]
        return [d for d in dict.fromkeys(defaults) if d is not None and d not in self.contracts]

    def wire(self) -> tuple[dict[str, str], list[str]]:
        """`reader.argument` to provider, and the problems."""
        wires: dict[str, str] = {}
        problems = []
        left = dict(self.chosen)
        for reader, contract in self.contracts.items():
            for port in contract.reads:
                key = f"{reader}.{port.argument}"
                choice = left.pop(key, None) or left.pop(f"{reader}.{port.signal}", None)
                answer = self._provider(reader, port.signal, choice)
                if answer in self.providers.get(port.signal, ()):
                    wires[key] = answer
                elif not port.optional or choice is not None:
                    problems.append(answer)
        problems += [f"--wire {key}={value}: no such reader in this composition" for key, value in left.items()]
        return wires, problems

    def _provider(self, reader: str, signal: str, choice: str | None) -> str:
        providers = self.providers.get(signal, [])
        if choice is not None:
            given = f"; {signal} is given by {', '.join(providers) or 'no piece here'}"
            return choice if choice in providers else f"--wire {reader}.{signal}={choice}: {choice} gives no {signal}{given}"
        own = [p for p in providers if p.partition(".")[0] == reader.partition(".")[0] and p != reader]
        for candidates in (own, providers):
            if len(candidates) == 1:
                return candidates[0]
        if not providers:
            return f"{reader} reads {signal}{NOBODY}"
        settle = "\n      ".join(f"--wire {reader}.{signal}={provider}" for provider in (own or providers))
        return f"{reader} reads {signal}, given by {' and '.join(own or providers)}; settle it with one of\n      {settle}"

    def order(self, wires: dict[str, str]) -> tuple[list[str], list[str]]:
        """Pieces so that each comes after those that feed it, otherwise as composed; and the problem of a circle."""
        feeds: dict[str, set[str]] = {name: set() for name in self.contracts}
        for key, provider in wires.items():
            reader = ".".join(key.split(".")[:2])
            if provider in feeds and provider != reader:
                feeds[reader].add(provider)
        done: list[str] = []
        while len(done) < len(feeds):
            ready = [name for name in feeds if name not in done and feeds[name] <= set(done)]
            if not ready:
                circle = [name for name in feeds if name not in done]
                return [*done, *circle], [f"{' and '.join(circle)} feed each other in a circle; cut it with --wire"]
            done.append(ready[0])
        return done, []
