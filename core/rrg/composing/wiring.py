"""Who feeds whom: core's defaults added, rivals and gaps reported, pieces put in order."""

from collections.abc import Mapping

from rrg.composing import resolve
from rrg.composing.draft import Draft
from rrg.composing.registry import registry
from rrg.errors import RRGError


def connect(draft: Draft, kind: str, earlier: Mapping[str, str], wire: Mapping[str, str]) -> None:
    """Add core's defaults where nothing gives a signal, then wire every reader and order the pieces."""
    given = {port.signal for contract in draft.contracts.values() for port in contract.gives}
    # An encoder of the composition replaces the host's own tower, and with it all that stands on the tower.
    host_gives = () if "patch_tokens" in given else registry()["kinds"][kind].get("gives", ())
    while True:
        wiring = resolve.Wiring(draft.contracts, host_gives, {})
        missing = set(wiring.missing_defaults()) - draft.dropped - draft.failed
        if not missing:
            break
        draft.add(name for name in wiring.missing_defaults() if name in missing)
    for signal, claimants in wiring.rivals().items():
        draft.problems.append(f"{signal} is given by {' and '.join(claimants)}; only one can: {_settle(claimants)}")
    if wiring.providers.get("visual_embeds"):  # a connector of the composition replaces the host's
        draft.visual_embeds = wiring.providers["visual_embeds"][-1]
    else:
        draft.problems.append("the language model reads visual_embeds, and no piece gives it; add a connector")
    retrievers = draft.of_kind("retriever")
    if len(retrievers) > 1:
        draft.problems.append(f"{' and '.join(retrievers)} answer exemplars; only one can: {_settle(retrievers)}")
    wiring.chosen = {k: v for k, v in earlier.items() if wiring.is_open(k, v)}
    wiring.chosen |= {wiring.canonical(k): v for k, v in wire.items()}
    draft.wires, problems = wiring.wire()
    draft.problems += problems
    if not draft.failed:  # what a broken piece would have given is not missed again
        draft.problems += [_unfed(draft, reader, signal) for reader, signal in wiring.unfed]
    draft.order, circle = wiring.order(draft.wires)
    draft.problems += circle
    _check_writing(draft, wiring)


def _check_writing(draft: Draft, wiring: resolve.Wiring) -> None:
    """Whatever writes reports does without what training alone shows."""
    absent = wiring.absent(draft.order, draft.wires)
    writers = [*draft.of_kind("injector"), *draft.of_kind("retriever")]
    if (draft.visual_embeds, "visual_embeds") in absent:
        writers.append(draft.visual_embeds)
    for name in writers:
        for port in draft.contracts[name].reads:
            source = (draft.wires.get(f"{name}.{port.argument}", ""), port.signal)
            if not port.optional and source in absent:
                what = absent[source]
                made = "" if what == port.signal else f" by {source[0]} from {what}"
                draft.problems.append(
                    f"{name} reads {port.signal}, which training alone has{made}, and must run when a report is "
                    f"written; give its argument the default None, or --drop {name}"
                )


def _unfed(draft: Draft, reader: str, signal: str) -> str:
    """A signal that nobody gives, and the installed pieces that would."""
    givers = []
    for name, piece in draft.plugins.pieces.items():
        if piece.kind in ("encoder", "connector") and name not in draft.chosen:
            try:
                givers += [name for port in draft.read(piece).gives if port.signal == signal]
            except RRGError:  # a piece that cannot be read is no help here
                continue
    back = [f"keeping {name}" if name in draft.dropped else f"adding +{name}" for name in givers]
    options = " or by ".join([*back, f"--drop {reader}"])
    return f"{reader} reads {signal}, and no piece of this composition gives it; settle it by {options}"


def _settle(names: list[str]) -> str:
    return f"settle it with {' or '.join(f'--drop {name}' for name in names)}"
