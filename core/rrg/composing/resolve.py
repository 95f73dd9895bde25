"""From names to pieces: which pieces an expression means, and who feeds whom."""

import difflib
from collections.abc import Iterable

from rrg.composing.contract import Contract, Port, can_run, fits
from rrg.composing.plugins import Plugins
from rrg.composing.registry import registry
from rrg.pieces import Registered
from rrg.signals import SIGNALS, of_training


def pieces_of(term: str, plugins: Plugins) -> list[Registered] | str:
    """The pieces that one term names (method, then a short name, or in full), or what is wrong with it."""
    if "." in term:
        return [plugins.pieces[term]] if term in plugins.pieces else _unknown(term, plugins)
    method = plugins.of_method(term)
    if method:
        default = [r for r in method if r.piece.default]
        return (
            default or f"{term} brings no piece by itself; name those you want: {' or '.join(r.name for r in method)}"
        )
    short = [r for r in plugins.pieces.values() if r.piece.short == term]
    if len(short) > 1:
        return f"{term} is the short name of {' and '.join(r.name for r in short)}; write one of them in full"
    return short or _unknown(term, plugins)


def _unknown(term: str, plugins: Plugins) -> str:
    """Why a name means nothing here: contested, its plugin broken, known but not installed, or misspelt."""
    for name, claimants in plugins.contested.items():
        if term in (name, *name.split(".")):
            return f"{name} is given by the plugins {' and '.join(claimants)}; uninstall one of them"
    method = term.partition(".")[0]
    broken = next((p for p in plugins.plugins if p.problem and p.name.split()[0] == method and not p.pieces), None)
    if broken:
        return f"{term}: its plugin {broken.name} ({broken.distribution} {broken.version}) is broken: {broken.problem}"
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
    unfed: readers and the signals that nobody gives, once `wire` has run.
    """

    def __init__(self, contracts: dict[str, Contract], host_gives: Iterable[str], chosen: dict[str, str]) -> None:
        self.contracts, self.chosen = contracts, chosen
        self.unfed: list[tuple[str, str]] = []
        self.providers: dict[str, list[str]] = {name: ["data"] for name, s in SIGNALS.items() if s.source == "data"}
        for name in host_gives:
            self.providers.setdefault(name, []).append("host")
        for piece, contract in contracts.items():
            for port in contract.gives:
                self.providers.setdefault(port.signal, []).append(piece)

    def rivals(self) -> dict[str, list[str]]:
        """The claimants of each signal that only one piece may give and several do."""
        claims = {s: [p for p in given if p in self.contracts] for s, given in self.providers.items()}
        return {s: pieces for s, pieces in claims.items() if len(pieces) > 1 and s in SIGNALS and SIGNALS[s].single}

    def is_open(self, key: str, provider: str) -> bool:
        """Whether an earlier recipe's wire still fits this composition."""
        reader, _, argument = key.rpartition(".")
        ports = self.contracts[reader].reads if reader in self.contracts else ()
        return any(p.argument == argument and provider in self.providers.get(p.signal, ()) for p in ports)

    def canonical(self, key: str) -> str:
        """`reader.argument` of a wire given by its signal's name."""
        named = {
            f"{reader}.{p.signal}": f"{reader}.{p.argument}" for reader, c in self.contracts.items() for p in c.reads
        }
        return named.get(key, key)

    def missing_defaults(self) -> list[str]:
        """Core pieces that would give what nobody gives yet. The language model always reads `visual_embeds`."""
        ports = [port for c in self.contracts.values() for port in c.reads]
        # What training alone shows is optional for whatever writes reports too, and wanted all the same.
        read = [port.signal for port in ports if not port.optional or of_training(port.signal)]
        wanted = [s for s in [*read, "visual_embeds"] if not self.providers.get(s)]
        defaults = [SIGNALS[s].default for s in wanted if s in SIGNALS]
        return [d for d in dict.fromkeys(defaults) if d is not None and d not in self.contracts]

    def wire(self) -> tuple[dict[str, str], list[str]]:
        """`reader.argument` to provider, and the problems."""
        wires: dict[str, str] = {}
        problems: list[str] = []
        rivals = [set(claimants) for claimants in self.rivals().values()]
        left = dict(self.chosen)
        for reader, contract in self.contracts.items():
            for port in contract.reads:
                key = f"{reader}.{port.argument}"
                choice = left.pop(key, None)
                candidates = self._candidates(reader, port.signal) if choice is None else [choice]
                if len(candidates) == 1 and candidates[0] in self.providers.get(port.signal, ()):
                    wires[key] = candidates[0]
                    problems += self._mismatch(reader, port, candidates[0])
                elif choice is not None:
                    given = ", ".join(self.providers.get(port.signal, ())) or "no piece here"
                    problems.append(f"--wire {key}={choice}: {choice} gives no {port.signal}; it is given by {given}")
                elif not candidates and not port.optional:
                    self.unfed.append((reader, port.signal))
                elif candidates and not any(set(candidates) <= claimants for claimants in rivals):
                    problem = (
                        f"{reader} reads {port.signal}, given by {' and '.join(candidates)}; settle it with one of"
                    )
                    problems.append("\n      ".join([problem, *(f"--wire {key}={given}" for given in candidates)]))
        return wires, problems + [self._strange_wire(key, provider) for key, provider in left.items()]

    def _candidates(self, reader: str, signal: str) -> list[str]:
        """Providers of the reader's own method where there are any, else all; never the reader itself."""
        providers = [p for p in self.providers.get(signal, []) if p != reader]
        own = [p for p in providers if p.partition(".")[0] == reader.partition(".")[0]]
        return own or providers

    def _mismatch(self, reader: str, port: Port, provider: str) -> list[str]:
        """A method's own signal is annotated at both ends; standard ones are held to the signal table instead."""
        gives = self.contracts[provider].gives if provider in self.contracts else ()
        return [
            f'{reader} reads {port.signal} as {port.dtype}[Tensor, "{port.axes}"], '
            f'{provider} gives {given.dtype}[Tensor, "{given.axes}"]'
            for given in gives
            if given.signal == port.signal and not (given.dtype == port.dtype and fits(given.axes, port.axes))
        ]

    def _strange_wire(self, key: str, provider: str) -> str:
        keys = [f"{reader}.{port.argument}" for reader, contract in self.contracts.items() for port in contract.reads]
        reader = ".".join(key.split(".")[:2])
        reads = [port.argument for port in self.contracts[reader].reads] if reader in self.contracts else []
        hint = (
            f"; {reader} reads {', '.join(reads) or 'nothing'}" if reader in self.contracts else did_you_mean(key, keys)
        )
        return f"--wire {key}={provider}: no such reader and signal in this composition{hint}"

    def absent(self, order: Iterable[str], wires: dict[str, str]) -> dict[tuple[str, str], str]:
        """What nobody gives when a report is written, by provider and signal: what of the data it is made from, which
        training alone shows.
        """
        found = {(provider, s): s for s, given in self.providers.items() if of_training(s) for provider in given}
        for name in order:
            contract = self.contracts[name]
            sources = {p.argument: (wires.get(f"{name}.{p.argument}", ""), p.signal) for p in contract.reads}
            missing = [found[source] for source in sources.values() if source in found]
            if not can_run(contract, {argument for argument, source in sources.items() if source not in found}):
                found = {(name, port.signal): missing[0] for port in contract.gives if missing} | found
        return found

    def order(self, wires: dict[str, str]) -> tuple[list[str], list[str]]:
        """Pieces so that each comes after those that feed it, otherwise as composed; and the problem of a circle."""
        feeds: dict[str, set[str]] = {name: set() for name in self.contracts}
        for key, provider in wires.items():
            if provider in feeds:
                feeds[".".join(key.split(".")[:2])].add(provider)
        done: list[str] = []
        while len(done) < len(feeds):
            ready = [name for name in feeds if name not in done and feeds[name] <= set(done)]
            if not ready:
                circle = [name for name in feeds if name not in done]
                return [*done, *circle], [f"{' and '.join(circle)} feed each other in a circle; cut it with --wire"]
            done.append(ready[0])
        return done, []
