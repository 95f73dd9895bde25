"""Resolve an expression to a recipe, or report everything that is wrong with it at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rrg import __version__
from rrg.composing import plugins as plugins_module
from rrg.composing.choosing import check_drops, choose
from rrg.composing.contract import Contract, contract_of
from rrg.composing.draft import Draft
from rrg.composing.host_names import host_preset
from rrg.composing.plugins import Plugins
from rrg.composing.recipe import Recipe
from rrg.composing.settling import SECTIONS, axis_conflicts, settings_of
from rrg.composing.sketch import sketch_of
from rrg.composing.staging import add_stages
from rrg.composing.wiring import connect
from rrg.errors import RRGError, UsageError
from rrg.pieces import Registered

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

    def wired(read: Callable[[Registered], Contract]) -> Draft:
        draft = Draft(plugins, {*drop, *earlier_drop}, read)
        choose(draft, terms)
        draft.problems += unknown_host
        connect(draft, preset["host"]["kind"], start.wire if start else {}, wire or {})
        add_stages(draft, start, settings or {}, stages, earlier_stages)
        check_drops(draft, set(drop))
        return draft

    early = wired(sketch_of)
    if not early.problems:
        sections = settings_of(early, preset, start, settings or {}, pieces=False)
        if not early.problems:
            _refuse(expression, axis_conflicts(early, sections))
    draft = wired(contract_of)
    found = settings_of(draft, preset, start, settings or {})
    if not unknown_host:
        draft.problems += axis_conflicts(draft, found)
    _refuse(expression, draft.problems)
    return Recipe(
        expression=expression,
        drop=sorted(draft.dropped),
        seed=draft.seed,
        stages=draft.stages,
        wire=draft.wires,
        visual_embeds=draft.visual_embeds,
        pieces={name: found[name].model_dump(mode="json", exclude_none=True) for name in draft.order},
        versions=_versions(draft.order, draft.plugins),
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
