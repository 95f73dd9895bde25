"""Resolve an expression to a recipe, or report everything that is wrong with it at once."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel

from rrg import __version__
from rrg.composing import curriculum, grammar, resolve
from rrg.composing import plugins as plugins_module
from rrg.composing.contract import Contract, contract_of
from rrg.composing.host_names import absolute, host_preset
from rrg.composing.plugins import Plugins
from rrg.composing.recipe import Recipe
from rrg.composing.registry import registry
from rrg.composing.settings import Settings
from rrg.composing.sketch import sketch_of
from rrg.composing.unify import conflicts
from rrg.config import GenerationConfig, HostConfig, ImageConfig, TextConfig
from rrg.errors import RRGError, UsageError
from rrg.pieces import Registered

SECTIONS: dict[str, type[BaseModel]] = {
    "host": HostConfig,
    "image": ImageConfig,
    "text": TextConfig,
    "generation": GenerationConfig,
}
ADDED = ("core.train", "core.exemplars")  # stages that come by themselves where they are needed
# Encoders and connectors run in the order of their wires; the rest follows, stages last.
RANK = {"encoder": 0, "connector": 0, "injector": 1, "loss": 2, "retriever": 3, "stage": 4}
PACKAGES = ("torch", "transformers", "peft", "timm", "sentence-transformers", "numba")


def compose(
    expression: str | None = None,
    *,
    host: str | None = None,
    settings: Mapping[str, Any] | None = None,
    drop: Iterable[str] = (),
    wire: Mapping[str, str] | None = None,
    stages: Sequence[str] | None = None,
    start: Recipe | None = None,
    plugins: Plugins | None = None,
) -> Recipe:
    """Compose pieces into a recipe.

    expression: terms joined by +; may be left out where `start` is given, whose own is taken then, with what it drops.
    host: a name of registry.toml, a hub id or a local folder; `start`'s or `tiny` where absent.
    settings: values by dotted name: piece.field, host.field, image.field, text.field, generation.field, seed, or
        stages.field for every stage.
    drop: pieces to leave out.
    wire: `reader.signal` to the provider that shall feed it.
    stages: the stages to train, in order, by full or short name; where absent those of the composition, in the order
        of `rrg.composing.curriculum.default_order`.
    start: a recipe to begin from. Under another host its stages, image and text settings, chosen for the earlier host,
        are not taken.

    Raises UsageError with every problem found and the commands that settle them. Sizes that contradict each other are
    found before torch is imported, where the pieces' source text says them; they are then told alone.
    """
    if expression is None and start is None:
        raise UsageError("nothing to compose: give an expression such as lead+dmsr, or --from recipe.toml")
    earlier_drop = start.drop if start is not None and expression is None else []
    earlier_stages = start.stages if start is not None and expression is None else []
    if expression is None and start is not None:
        expression = start.expression
    assert expression is not None
    terms, plugins = expression, plugins or plugins_module.find()
    preset, unknown_host = _preset(host or (start.host.name if start else "tiny"))

    def wired(read: Callable[[Registered], Contract]) -> _Composer:
        composer = _Composer(plugins, {*drop, *earlier_drop}, read)
        composer.choose(terms)
        composer.problems += unknown_host
        composer.connect(preset["host"]["kind"], start.wire if start else {}, wire or {})
        composer.add_stages(start, settings or {}, stages, earlier_stages)
        composer.check_drops(set(drop))
        return composer

    early = wired(sketch_of)
    if not early.problems:
        sections = early.settings(preset, start, settings or {}, pieces=False)
        if not early.problems:
            _refuse(expression, early.conflicts(sections))
    composer = wired(contract_of)
    found = composer.settings(preset, start, settings or {})
    if not unknown_host:
        composer.problems += composer.conflicts(found)
    _refuse(expression, composer.problems)
    return Recipe(
        expression=expression,
        drop=sorted(composer.dropped),
        seed=composer.seed,
        stages=composer.stages,
        wire=composer.wires,
        visual_embeds=composer.visual_embeds,
        pieces={name: found[name].model_dump(mode="json", exclude_none=True) for name in composer.order},
        versions=_versions(composer.order, composer.plugins),
        **{section: found[section] for section in SECTIONS},  # type: ignore[arg-type]
    )


def _refuse(expression: str, problems: list[str]) -> None:
    if problems:
        raise UsageError(f"cannot compose {expression!r}", list(dict.fromkeys(problems)))


def _preset(host: str) -> tuple[dict[str, Any], list[str]]:
    """The host's preset; tiny's and the problem where there is no such host."""
    try:
        return host_preset(host), []
    except RRGError as error:
        return host_preset("tiny"), [error.message]


class _Composer:
    """The steps of `compose`; each adds to `problems` and goes on as far as it can.

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
        return self._of_kind("stage")

    def _of_kind(self, kind: str) -> list[str]:
        return [name for name, piece in self.chosen.items() if piece.kind == kind]

    def choose(self, expression: str) -> None:
        """Resolve the terms to pieces, less the dropped ones."""
        brought: dict[str, str] = {}
        for term in grammar.parse(expression):
            alias = registry()["aliases"].get(term)
            for part in grammar.parse(alias) if alias else [term]:
                answer = resolve.pieces_of(part, self.plugins)
                if isinstance(answer, str):
                    self.problems.append(answer)
                    continue
                twice = [piece.name for piece in answer if piece.name in brought]
                self.problems += [f"{n} comes twice, with {brought[n]} and with {term}; give it once" for n in twice]
                brought |= {piece.name: term for piece in answer}
                self._add(piece.name for piece in answer)

    def _add(self, names: Iterable[str]) -> None:
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

    def connect(self, kind: str, earlier: Mapping[str, str], wire: Mapping[str, str]) -> None:
        """Add core's defaults where nothing gives a signal, then wire every reader and order the pieces."""
        given = {port.signal for contract in self.contracts.values() for port in contract.gives}
        # An encoder of the composition replaces the host's own tower, and with it all that stands on the tower.
        host_gives = () if "patch_tokens" in given else registry()["kinds"][kind].get("gives", ())
        while True:
            wiring = resolve.Wiring(self.contracts, host_gives, {})
            missing = set(wiring.missing_defaults()) - self.dropped - self.failed
            if not missing:
                break
            self._add(name for name in wiring.missing_defaults() if name in missing)
        for signal, claimants in wiring.rivals().items():
            self.problems.append(f"{signal} is given by {' and '.join(claimants)}; only one can: {_settle(claimants)}")
        if wiring.providers.get("visual_embeds"):  # a connector of the composition replaces the host's
            self.visual_embeds = wiring.providers["visual_embeds"][-1]
        else:
            self.problems.append("the language model reads visual_embeds, and no piece gives it; add a connector")
        retrievers = self._of_kind("retriever")
        if len(retrievers) > 1:
            self.problems.append(f"{' and '.join(retrievers)} answer exemplars; only one can: {_settle(retrievers)}")
        wiring.chosen = {k: v for k, v in earlier.items() if wiring.is_open(k, v)}
        wiring.chosen |= {wiring.canonical(k): v for k, v in wire.items()}
        self.wires, problems = wiring.wire()
        self.problems += problems
        if not self.failed:  # what a broken piece would have given is not missed again
            self.problems += [self._unfed(reader, signal) for reader, signal in wiring.unfed]
        self.order, circle = wiring.order(self.wires)
        self.problems += circle
        self._check_writing(wiring)

    def _check_writing(self, wiring: resolve.Wiring) -> None:
        """Whatever writes reports does without what training alone shows."""
        absent = wiring.absent(self.order, self.wires)
        writers = [*self._of_kind("injector"), *self._of_kind("retriever")]
        if (self.visual_embeds, "visual_embeds") in absent:
            writers.append(self.visual_embeds)
        for name in writers:
            for port in self.contracts[name].reads:
                source = (self.wires.get(f"{name}.{port.argument}", ""), port.signal)
                if not port.optional and source in absent:
                    what = absent[source]
                    made = "" if what == port.signal else f" by {source[0]} from {what}"
                    self.problems.append(
                        f"{name} reads {port.signal}, which training alone has{made}, and must run when a report is "
                        f"written; give its argument the default None, or --drop {name}"
                    )

    def _unfed(self, reader: str, signal: str) -> str:
        """A signal that nobody gives, and the installed pieces that would."""
        givers = []
        for name, piece in self.plugins.pieces.items():
            if piece.kind in ("encoder", "connector") and name not in self.chosen:
                try:
                    givers += [name for port in self.read(piece).gives if port.signal == signal]
                except RRGError:  # a piece that cannot be read is no help here
                    continue
        back = [f"keeping {name}" if name in self.dropped else f"adding +{name}" for name in givers]
        options = " or by ".join([*back, f"--drop {reader}"])
        return f"{reader} reads {signal}, and no piece of this composition gives it; settle it by {options}"

    def add_stages(
        self, start: Recipe | None, given: Mapping[str, Any], asked: Sequence[str] | None, earlier: Sequence[str]
    ) -> None:
        """The stages asked for; else the methods' own, with core's where they bring none, or none that shows the
        retriever's exemplars, in their default order.

        earlier: stages of the recipe that is changed: those that were asked for stay, and so does their order.
        """

        def says(name: str, field: str) -> Any:
            earlier = start.pieces.get(name, {}).get(field) if start else None
            default = self.contracts[name].config.model_fields[field].default if earlier is None else earlier
            return given.get(f"{name}.{field}", given.get(f"stages.{field}", default))

        if asked is not None:
            order = self._asked_stages(asked)
        else:
            self._add(n for n in earlier if n in self.plugins.pieces and n not in ADDED)
            if not self.stages:
                self._add(["core.train"])
            if self._of_kind("retriever") and not any(says(name, "exemplars") for name in self.stages):
                self._add(["core.exemplars"])
            place = {name: number for number, name in enumerate(earlier)}
            default = curriculum.default_order(self.stages, self._of_kind("injector"), says)
            order = sorted(default, key=lambda name: place.get(name, len(place)))
        if not self.stages and not self.failed:
            self.problems.append("no stage is left to train; drop one stage less")
        self.chosen = {n: p for n, p in self.chosen.items() if n not in order} | {n: self.chosen[n] for n in order}
        self.order = [name for name in self.order if name in self.chosen and name not in order] + order
        self.order.sort(key=lambda name: RANK[self.chosen[name].kind])

    def _asked_stages(self, asked: Sequence[str]) -> list[str]:
        """Installed stages by full or short name; those of the composition that are not asked for are left out."""
        every = [name for name, piece in self.plugins.pieces.items() if piece.kind == "stage"]
        found, problems = curriculum.asked_for(asked, self.stages, every)
        self.problems += problems
        self.drop.difference_update(found)
        self.dropped.difference_update(found)  # asked for and dropped at once: `check_drops` says so
        for name in self.stages:
            if name not in found:
                del self.chosen[name], self.contracts[name]
                self.dropped.add(name)
        self._add(found)
        return [name for name in found if name in self.chosen]

    def check_drops(self, asked: set[str]) -> None:
        for name in sorted(asked - self.dropped):
            self.problems.append(f"--drop {name}: not in this composition{resolve.did_you_mean(name, self.chosen)}")

    def settings(
        self, preset: dict[str, Any], start: Recipe | None, given: Mapping[str, Any], *, pieces: bool = True
    ) -> dict[str, BaseModel]:
        """Validated settings by section and piece: defaults, then the host's, then `start`'s, then those given.

        pieces: False leaves the pieces' and stages' settings out, for which their modules would be imported.
        """
        models = {name: self.contracts[name].config for name in self.order} if pieces else {}
        tree = Settings({**SECTIONS, **models}, self.stages if pieces else [])
        tree.values["host"] |= preset["host"]
        for key, value in self._brought(preset, given).items():
            tree.assign(key, value, quiet=not pieces)
        for key, value in preset["set"].items():
            tree.assign(key, value, quiet=True)
        if start:
            tree.seed = start.seed
            same_host = absolute(start.host.name) == preset["host"]["name"] or start.host.name == preset["host"]["name"]
            for name, values in start.pieces.items():
                if name in self.chosen and (same_host or name not in self.stages):
                    tree.values[name] = dict(values)
            for section in SECTIONS if same_host else ("generation",):
                tree.values[section] = getattr(start, section).model_dump(mode="json")
            tree.values["host"]["name"] = preset["host"]["name"]
        for key, value in given.items():
            tree.assign(key, value, quiet=not pieces)
        found = tree.validated()
        self.problems += tree.problems
        self.seed = tree.seed
        around = curriculum.Surroundings(
            kinds={name: piece.kind for name, piece in self.chosen.items()},
            contracts=self.contracts,
            wires=self.wires,
            gone=[*self.dropped, *self.failed],
            retrievers=[name for name, piece in self.plugins.pieces.items() if piece.kind == "retriever"],
            whole=not self.failed,
        )
        for name, stage in tree.stated.items():
            self.problems += curriculum.problems_of(name, stage, around)
        return found

    def _brought(self, preset: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that the pieces bring. Two that disagree are a problem, unless somebody else decides."""
        brought: dict[str, Any] = {}
        owners: dict[str, str] = {}
        for name in self.order:
            for key, value in self.chosen[name].piece.sets.items():
                if key.partition(".")[0] == "host" and not preset["host"].get("source"):
                    continue  # a prompt's words mean nothing to a model built at random
                if key.partition(".")[0] not in SECTIONS and ".".join(key.split(".")[:2]) not in self.order:
                    continue  # of a piece that another one stands for
                if brought.setdefault(key, value) != value and key not in {*given, *preset["set"]}:
                    self.problems.append(
                        f"{owners[key]} sets {key}={brought[key]}, {name} sets {key}={value}; settle it with "
                        f"--set {key}={json.dumps(brought[key])} or --set {key}={json.dumps(value)}"
                    )
                owners.setdefault(key, name)
        return brought

    def conflicts(self, found: Mapping[str, BaseModel]) -> list[str]:
        """Axes that would have two sizes along the wires; none is sought where host or image settings are wrong."""
        host, image = found.get("host"), found.get("image")
        if not (isinstance(host, HostConfig) and isinstance(image, ImageConfig)):
            return []
        return conflicts(self.contracts, self.wires, self.visual_embeds, host, image)


def _settle(names: list[str]) -> str:
    return f"settle it with {' or '.join(f'--drop {name}' for name in names)}"


def _versions(pieces: list[str], plugins: Plugins) -> dict[str, str]:
    versions = {"rrg-compose": __version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    for name in pieces:
        plugin = plugins.plugin_of(name)
        versions.setdefault(plugin.distribution, plugin.version)
    return versions
