"""Which stages a composition trains, in what order, and whether each fits the pieces around it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from rrg.composing.contract import Contract
from rrg.composing.resolve import did_you_mean
from rrg.config import StageConfig


def default_order(stages: Sequence[str], injectors: Sequence[str], says: Callable[[str, str], Any]) -> list[str]:
    """Stages by what they need: first those without the language model, then those that tie it to the films, then
    those that train injected modules, which build on both, last those with exemplars, whose index holds what the
    others learnt. A method's own sequence is kept, and methods come as composed where nothing else decides.

    stages: as composed. says: a stage's setting by stage and field.
    """
    phases: dict[str, int] = {}
    reached: dict[str, int] = {}
    for name in stages:
        pieces = says(name, "pieces")
        patterns = [p for p in pieces if isinstance(p, str)] if isinstance(pieces, list) else []
        trains = any(fnmatch(injector, pattern) for injector in injectors for pattern in patterns)
        phase = 0 if not says(name, "report") else 3 if says(name, "exemplars") else 2 if trains else 1
        method = name.partition(".")[0]
        phases[name] = reached[method] = max(phase, reached.get(method, 0))
    return sorted(phases, key=phases.__getitem__)


def asked_for(words: Sequence[str], composed: Sequence[str], installed: Sequence[str]) -> tuple[list[str], list[str]]:
    """The stages that words mean, by full or short name, those of the composition first; and the problems."""
    found: list[str] = []
    problems: list[str] = []
    for word in words:
        own = [n for n in installed if word == n] or [n for n in composed if word == n.partition(".")[2]]
        matches = own or [n for n in installed if word == n.partition(".")[2]]
        if len(matches) == 1 and matches[0] not in found:
            found += matches
        elif len(matches) > 1:
            problems.append(f"--stages {word}: the short name of {' and '.join(matches)}; write it in full")
        else:
            names = [*installed, *(n.partition(".")[2] for n in installed)]
            why = "given twice" if matches else f"no such stage{did_you_mean(word, names)}"
            problems.append(f"--stages {word}: {why}; stages are {', '.join(installed)}")
    return found, problems


@dataclass(frozen=True)
class Surroundings:
    """What a stage stands among. kinds: the composition's pieces and their kinds. gone: pieces that were left out or
    cannot be read; a pattern may still name them. whole: whether every piece could be read.
    """

    kinds: Mapping[str, str]
    contracts: Mapping[str, Contract]
    wires: Mapping[str, str]
    gone: Sequence[str]
    retrievers: Sequence[str]  # installed ones
    whole: bool

    def of_kind(self, kind: str) -> list[str]:
        return [name for name, own in self.kinds.items() if own == kind]


def problems_of(name: str, stage: StageConfig, around: Surroundings) -> list[str]:
    """What of a stage's settings the composition cannot do, each with the flag that settles it."""
    problems = [*_idle_patterns(name, stage, around), *_unseen_texts(name, stage, around)]
    if around.whole:
        problems += _unread_contexts(name, stage, around)
        if stage.exemplars and not around.of_kind("retriever"):
            options = [*(f"adding +{n}" for n in around.retrievers), f"--set {name}.exemplars=false"]
            settle = f"settle it by {' or by '.join(options)}"
            problems.append(f"{name} shows exemplars, and no retriever answers them; {settle}")
    return problems


def _idle_patterns(name: str, stage: StageConfig, around: Surroundings) -> list[str]:
    """Patterns must match something. Dropping a piece takes its name out of them by itself."""
    own_setting = {"patch_tokens", "visual_embeds"}  # trained by `vision` and `connector`, not by name
    pieces = [
        piece
        for piece, kind in around.kinds.items()
        if kind != "stage" and not own_setting & {port.signal for port in around.contracts[piece].gives}
    ]
    problems = []
    losses = around.of_kind("loss")
    for field, patterns, names in (("pieces", stage.pieces or [], pieces), ("losses", stage.losses, losses)):
        absent = [p for p in patterns if p != "*" and not any(fnmatch(n, p) for n in [*names, *around.gone])]
        if absent:
            left = json.dumps([pattern for pattern in patterns if pattern not in absent])
            there = f"there are {', '.join(names)}" if names else "there are none"
            problems.append(
                f"{name}.{field}: {' and '.join(absent)} matches nothing of this composition ({there}); "
                f"settle it with --set '{name}.{field}={left}'"
            )
    return problems


def _unread_contexts(name: str, stage: StageConfig, around: Surroundings) -> list[str]:
    """Texts that the stage shows and no piece reads."""
    read = {
        port.signal
        for piece, contract in around.contracts.items()
        for port in contract.reads
        if f"{piece}.{port.argument}" in around.wires
    }
    unread = [context for context in stage.contexts if f"{context}_tokens" not in read]
    if not unread:
        return []
    return [
        f"{name} shows {' and '.join(unread)}, and no piece reads {unread[0]}_tokens; settle it with "
        f"--set {name}.contexts=[] or --drop {name}"
    ]


def _unseen_texts(name: str, stage: StageConfig, around: Surroundings) -> list[str]:
    """Texts that a loss of the stage must have and the stage doesn't show; the report it always shows."""
    problems = []
    for loss in (n for n in around.of_kind("loss") if any(fnmatch(n, pattern) for pattern in stage.losses)):
        texts = [port.signal.rpartition("_")[0] for port in around.contracts[loss].reads if not port.optional]
        unseen = [text for text in ("reference", "phrase") if text in texts and text not in stage.contexts]
        if unseen:
            shown = json.dumps([*stage.contexts, *unseen])
            problems.append(
                f"{loss} reads the {' and the '.join(unseen)}, and {name} doesn't show it; settle it with "
                f"--set '{name}.contexts={shown}' or --drop {loss}"
            )
    return problems
