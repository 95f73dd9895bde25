"""The settings of a composition: defaults, then the host's, then an earlier recipe's, then those given."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from rrg.composing import curriculum
from rrg.composing.draft import Draft
from rrg.composing.host_names import absolute
from rrg.composing.recipe import Recipe
from rrg.composing.settings import Settings
from rrg.composing.unify import conflicts
from rrg.config import GenerationConfig, HostConfig, ImageConfig, TextConfig

SECTIONS: dict[str, type[BaseModel]] = {
    "host": HostConfig,
    "image": ImageConfig,
    "text": TextConfig,
    "generation": GenerationConfig,
}


def settings_of(
    draft: Draft,
    preset: dict[str, Any],
    start: Recipe | None,
    given: Mapping[str, Any],
    *,
    pieces: bool = True,
) -> dict[str, BaseModel]:
    """Validated settings by section and piece: defaults, then the host's, then `start`'s, then those given.

    pieces: False leaves the pieces' and stages' settings out, for which their modules would be imported.
    """
    models = {name: draft.contracts[name].config for name in draft.order} if pieces else {}
    tree = Settings({**SECTIONS, **models}, draft.stages if pieces else [])
    tree.values["host"] |= preset["host"]
    for key, value in _brought(draft, preset, given).items():
        tree.assign(key, value, quiet=not pieces)
    for key, value in preset["set"].items():
        tree.assign(key, value, quiet=True)
    if start:
        tree.seed = start.seed
        same_host = absolute(start.host.name) == preset["host"]["name"] or start.host.name == preset["host"]["name"]
        for name, values in start.pieces.items():
            if name in draft.chosen and (same_host or name not in draft.stages):
                tree.values[name] = dict(values)
        for section in SECTIONS if same_host else ("generation",):
            tree.values[section] = getattr(start, section).model_dump(mode="json")
        tree.values["host"]["name"] = preset["host"]["name"]
    for key, value in given.items():
        tree.assign(key, value, quiet=not pieces)
    found = tree.validated()
    draft.problems += tree.problems
    draft.seed = tree.seed
    around = curriculum.Surroundings(
        kinds={name: piece.kind for name, piece in draft.chosen.items()},
        contracts=draft.contracts,
        wires=draft.wires,
        gone=[*draft.dropped, *draft.failed],
        retrievers=[name for name, piece in draft.plugins.pieces.items() if piece.kind == "retriever"],
        whole=not draft.failed,
    )
    for name, stage in tree.stated.items():
        draft.problems += curriculum.problems_of(name, stage, around)
    return found


def _brought(draft: Draft, preset: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the pieces bring. Two that disagree are a problem, unless somebody else decides."""
    brought: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for name in draft.order:
        for key, value in draft.chosen[name].piece.sets.items():
            if key.partition(".")[0] == "host" and not preset["host"].get("source"):
                continue  # a prompt's words mean nothing to a model built at random
            if key.partition(".")[0] not in SECTIONS and ".".join(key.split(".")[:2]) not in draft.order:
                continue  # of a piece that another one stands for
            if brought.setdefault(key, value) != value and key not in {*given, *preset["set"]}:
                draft.problems.append(
                    f"{owners[key]} sets {key}={brought[key]}, {name} sets {key}={value}; settle it with "
                    f"--set {key}={json.dumps(brought[key])} or --set {key}={json.dumps(value)}"
                )
            owners.setdefault(key, name)
    return brought


def axis_conflicts(draft: Draft, found: Mapping[str, BaseModel]) -> list[str]:
    """Axes that would have two sizes along the wires; none is sought where host or image settings are wrong."""
    host, image = found.get("host"), found.get("image")
    if not (isinstance(host, HostConfig) and isinstance(image, ImageConfig)):
        return []
    return conflicts(draft.contracts, draft.wires, draft.visual_embeds, host, image)
