"""Find plugins through the entry-point group `rrg`, ours and strangers' alike, and say what is wrong with a broken one.

A broken plugin stops nothing but the recipes that need it. Two plugins that give the same piece name both lose that
name: which of them registered first must not matter.
"""

import difflib
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, distributions, entry_points

import pluggy

from rrg import hookspecs
from rrg.errors import RRGError, UsageError
from rrg.pieces import Piece, Registered

GROUP = "rrg"
CORE = "core"


@dataclass
class Plugin:
    """One entry point: what it gives, or why it gives nothing."""

    name: str
    distribution: str
    version: str
    pieces: list[Registered] = field(default_factory=list)
    problem: str | None = None


@dataclass
class Plugins:
    """Everything found. `pieces` holds what can be composed; `contested` the names that two plugins claim."""

    plugins: list[Plugin]
    pieces: dict[str, Registered]
    contested: dict[str, list[str]]

    def of_method(self, method: str) -> list[Registered]:
        return [r for r in self.pieces.values() if r.piece.method == method]

    def plugin_of(self, piece: str) -> Plugin:
        return next(p for p in self.plugins if p.name == self.pieces[piece].plugin)


def find(extra: dict[str, object] | None = None) -> Plugins:
    """Load every plugin of the entry-point group, core's own pieces, and `extra` (name to module or object)."""
    from rrg import core_pieces

    manager = pluggy.PluginManager("rrg")
    manager.add_hookspecs(hookspecs)
    plugins = [_register(manager, CORE, "rrg-compose", _version(), core_pieces)]
    try:
        points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    except Exception as error:  # one malformed entry_points.txt, of whatever distribution, spoils the reading of all
        raise UsageError(f"installed entry points cannot be read ({error}){_malformed()}") from error
    for point in points:
        plugins.append(_load(manager, point, repeated=sum(other.name == point.name for other in points) > 1))
    for name, module in (extra or {}).items():
        plugins.append(_register(manager, name, name, "0", module))
    return _collect(plugins)


def _malformed() -> str:
    """Which distributions' entry points cannot be read."""
    found = []
    for dist in distributions():
        try:
            _ = dist.entry_points
        except Exception:
            found.append(str(dist.locate_file("")) + f" {dist.name}")
    return f"; reinstall {' and '.join(found)}" if found else ""


def _version() -> str:
    from rrg import __version__

    return __version__


def _load(manager: pluggy.PluginManager, point: EntryPoint, repeated: bool) -> Plugin:
    distribution, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "0")
    name = f"{point.name} ({distribution})" if repeated else point.name
    try:
        module = point.load()
    except BaseException as error:  # a stranger's module may raise anything, SystemExit too
        if isinstance(error, KeyboardInterrupt):
            raise
        problem = f"{point.value} cannot be imported: {type(error).__name__}: {error}"
        return Plugin(name, distribution, version, problem=problem)
    return _register(manager, name, distribution, version, module)


def _register(manager: pluggy.PluginManager, name: str, distribution: str, version: str, module: object) -> Plugin:
    plugin = Plugin(name, distribution, version)
    try:
        manager.register(module, name=name)
        callers = manager.get_hookcallers(module) or []
        unknown = [caller.name for caller in callers if not caller.has_spec()]
        if unknown:
            raise UsageError("; ".join(_misspelt(hook) for hook in unknown))
        for caller in callers:
            for implementation in caller.get_hookimpls():
                if implementation.plugin is module:
                    plugin.pieces += _ask(caller.name, implementation.function(), name)
        if not callers:
            raise UsageError("implements no hook: mark functions such as rrg_losses with @rrg.hookimpl")
    except BaseException as error:  # a hook may raise anything, SystemExit too
        if isinstance(error, KeyboardInterrupt):
            raise
        plugin.pieces = []
        plugin.problem = _reason(error)
    return plugin


def _reason(error: BaseException) -> str:
    """What went wrong; our own errors and pluggy's say it in full, others need their type's name."""
    plain = isinstance(error, (RRGError, pluggy.PluginValidationError))
    return str(error) if plain else f"{type(error).__name__}: {error}"


def _ask(hook: str, answer: object, plugin: str) -> list[Registered]:
    if not isinstance(answer, list) or not all(isinstance(piece, Piece) for piece in answer):
        raise UsageError(f"{hook} gave {answer!r:.80}, expected a list of rrg.Piece")
    foreign = [piece.name for piece in answer if piece.method == CORE and plugin != CORE]
    if foreign:
        raise UsageError(f"{', '.join(foreign)}: the method {CORE} is rrg's own; give the piece a method of its own")
    return [Registered(piece, hookspecs.KINDS[hook], plugin) for piece in answer]


def _misspelt(hook: str) -> str:
    close = difflib.get_close_matches(hook, hookspecs.KINDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"hooks are {', '.join(hookspecs.KINDS)}"
    return f"unknown hook {hook}: {hint}"


def _collect(plugins: list[Plugin]) -> Plugins:
    claims: dict[str, list[Registered]] = {}
    for plugin in plugins:
        for registered in plugin.pieces:
            claims.setdefault(registered.name, []).append(registered)
    pieces = {name: found[0] for name, found in claims.items() if len(found) == 1}
    contested = {name: [r.plugin for r in found] for name, found in claims.items() if len(found) > 1}
    for plugin in plugins:
        lost = sorted({r.name for r in plugin.pieces if r.name in contested})
        if lost:
            others = sorted({other for name in lost for other in contested[name]} - {plugin.name}) or ["itself"]
            plugin.problem = f"{', '.join(lost)} is also given by {', '.join(others)}: neither can be used"
            plugin.pieces = [r for r in plugin.pieces if r.name not in contested]
    return Plugins(plugins, pieces, contested)
