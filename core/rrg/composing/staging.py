"""The stages of a composition and their order."""

from collections.abc import Mapping, Sequence
from typing import Any

from rrg.composing import curriculum
from rrg.composing.draft import Draft
from rrg.composing.recipe import Recipe

ADDED = ("core.train", "core.exemplars")  # stages that come by themselves where they are needed
# Encoders and connectors run in the order of their wires; the rest follows, stages last.
RANK = {"encoder": 0, "connector": 0, "injector": 1, "loss": 2, "retriever": 3, "stage": 4}


def add_stages(
    draft: Draft,
    start: Recipe | None,
    given: Mapping[str, Any],
    asked: Sequence[str] | None,
    earlier: Sequence[str],
) -> None:
    """The stages asked for; else the methods' own, with core's where they bring none, or none that shows the
    retriever's exemplars, in their default order.

    earlier: stages of the recipe that is changed: those that were asked for stay, and so does their order.
    """

    def says(name: str, field: str) -> Any:
        earlier = start.pieces.get(name, {}).get(field) if start else None
        default = draft.contracts[name].config.model_fields[field].default if earlier is None else earlier
        return given.get(f"{name}.{field}", given.get(f"stages.{field}", default))

    if asked is not None:
        order = _asked_stages(draft, asked)
    else:
        draft.add(n for n in earlier if n in draft.plugins.pieces and n not in ADDED)
        if not draft.stages:
            draft.add(["core.train"])
        if draft.of_kind("retriever") and not any(says(name, "exemplars") for name in draft.stages):
            draft.add(["core.exemplars"])
        place = {name: number for number, name in enumerate(earlier)}
        default = curriculum.default_order(draft.stages, draft.of_kind("injector"), says)
        order = sorted(default, key=lambda name: place.get(name, len(place)))
    if not draft.stages and not draft.failed:
        draft.problems.append("no stage is left to train; drop one stage less")
    draft.chosen = {n: p for n, p in draft.chosen.items() if n not in order} | {n: draft.chosen[n] for n in order}
    draft.order = [name for name in draft.order if name in draft.chosen and name not in order] + order
    draft.order.sort(key=lambda name: RANK[draft.chosen[name].kind])


def _asked_stages(draft: Draft, asked: Sequence[str]) -> list[str]:
    """Installed stages by full or short name; those of the composition that are not asked for are left out."""
    every = [name for name, piece in draft.plugins.pieces.items() if piece.kind == "stage"]
    found, problems = curriculum.asked_for(asked, draft.stages, every)
    draft.problems += problems
    draft.drop.difference_update(found)
    draft.dropped.difference_update(found)  # asked for and dropped at once: `check_drops` says so
    for name in draft.stages:
        if name not in found:
            del draft.chosen[name], draft.contracts[name]
            draft.dropped.add(name)
    draft.add(found)
    return [name for name in found if name in draft.chosen]
