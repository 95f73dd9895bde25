"""A plan as data, and printed."""

import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

from rrg.signals import of_training

REPORT = 100
ESTIMATES = f"""\
Memory and FLOPs are estimates. Training: weights, gradients and AdamW's moments of what trains, exactly;
activations by 17 values a token and layer (2 with checkpointing), 3 copies of the logits and the outputs of
the encoders. Generation: weights and key-value cache. FLOPs: one study, a report of {REPORT} tokens."""


@dataclass
class StagePlan:
    """One stage. trains: trainable parameters by part. texts: what it shows its losses beside the film. memory: bytes
    on each device, by use.
    """

    name: str
    trains: dict[str, int]
    losses: list[str]
    texts: list[str]
    settings: dict[str, Any]
    memory: dict[str, int]


@dataclass
class Plan:
    """What a recipe will build and cost; `table()` for reading, `to_json()` for programs.

    pieces: name, kind, parameters and origin of each part; the host's language model, adapters and vision tower first.
    wires: reader, provider, signal and shape. prefix: slots and views of the visual prefix.
    generation_memory: bytes. flops_per_report: of one study with a report of REPORT tokens. Either is None where it is
    not available; `notes` say why, and what else is worth knowing: lengths that the host was not made for.
    adapters: what LoRA adapts (`targets`), and the decoder layers' other weights (`left_out`), by name.
    """

    expression: str
    hash: str
    host: dict[str, Any]
    pieces: list[dict[str, Any]]
    wires: list[dict[str, str]]
    prefix: dict[str, int]
    stages: list[StagePlan] = field(default_factory=list)
    total_parameters: int = 0
    generation_memory: int | None = 0
    flops_per_report: int | None = 0
    adapters: dict[str, list[str]] | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        lines = [f"recipe {self.hash}: {self.expression} on {self.host['name']}", "", "pieces"]
        lines += _columns([[p["name"], p["kind"], count(p["parameters"]), p["origin"]] for p in self.pieces])
        lines += ["", "who feeds whom"]
        lines += _columns([[w["reader"], "<-", w["provider"], w["signal"], _when(w)] for w in self.wires])
        if self.adapters:
            lines += ["", *_wrapped("LoRA adapts:", self.adapters["targets"])]
            lines += _wrapped("left as they are:", self.adapters["left_out"] or ["nothing else of the layers"])
        for number, stage in enumerate(self.stages, 1):
            lines += ["", *_stage_lines(number, stage)]
        lines += [
            "",
            f"parameters {count(self.total_parameters)}; "
            f"visual prefix of {self.prefix['slots']} positions ({self.prefix['views']} films)",
            f"generation {self._generation()}",
            *(line for note in self.notes for line in _wrapped("note:", note.split(), between=" ")),
            "",
            ESTIMATES,
        ]
        return "\n".join(lines)

    def _generation(self) -> str:
        memory, flops = self.generation_memory, self.flops_per_report
        about = "memory not available" if memory is None else f"about {size(memory)}"
        return f"{about}, {'FLOPs not available' if flops is None else f'{flops / 1e9:,.1f} GFLOPs a report'}"


def count(number: int) -> str:
    """1.20 B, 33.60 M, 5.10 k."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return str(number)


def size(number: int) -> str:
    """GiB, or MiB below one."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _when(wire: dict[str, str]) -> str:
    return wire["shape"] + (", in training alone" if of_training(wire["signal"]) else "")


def _stage_lines(number: int, stage: StagePlan) -> list[str]:
    s = stage.settings
    length = f"{s['max_steps']} steps" if s["max_steps"] > 0 else f"{s['epochs']:g} epochs"
    trained = [f"{part} {count(n)}" for part, n in stage.trains.items() if n]
    uses = [f"{part} {size(n)}" for part, n in stage.memory.items() if part != "total"]
    return [
        f"stage {number}: {stage.name}: {length}, batch {s['batch_size']} x {s['accumulation']}, AdamW {s['lr']:g}, "
        f"{s['schedule']}",
        *_wrapped(f"trains {count(sum(stage.trains.values()))}:", trained or ["nothing"]),
        *_wrapped("losses:", stage.losses),
        *([f"  texts: {', '.join(stage.texts)}, in training alone"] if stage.texts else []),
        *(["  prompt: with the retrieved report"] if s["exemplars"] else []),
        *_wrapped(f"memory about {size(stage.memory['total'])} a device:", uses),
    ]


def _wrapped(head: str, parts: list[str], between: str = ", ") -> list[str]:
    whole = between.join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)  # a part is never broken
    lines = textwrap.wrap(f"{head} {whole}", 110, initial_indent="  ", subsequent_indent="    ")
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
