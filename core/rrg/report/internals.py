"""What the model's modules did in a case, as `rrg.report.reader` notes it. Light: no torch."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gate:
    """values: (layers tokens), the gate's mean over channels where the model writes each token of the report."""

    piece: str
    layers: list[int]
    tokens: list[str]
    values: np.ndarray


@dataclass(frozen=True)
class Attention:
    """shares: (observations films rows columns), the mean over heads; each observation's sum to 1."""

    piece: str
    shares: np.ndarray


@dataclass(frozen=True)
class Internals:
    gates: list[Gate]
    attention: Attention | None
