"""Radiology report generation from composable pieces.

    model = rrg.load("runs/demo")
    print(model.generate(["film.png"])[0])

Importing this package loads no torch; the names below load what they need when first used.
"""

from typing import TYPE_CHECKING, Any

from rrg.hookspecs import hookimpl
from rrg.pieces import Piece

if TYPE_CHECKING:
    from rrg.composing.composition import compose
    from rrg.config import PieceConfig, StageConfig
    from rrg.generate.reporter import load

__version__ = "0.1.0"
__all__ = ["Piece", "PieceConfig", "StageConfig", "compose", "hookimpl", "load"]

_LAZY = {
    "compose": "rrg.composing.composition",
    "load": "rrg.generate.reporter",
    "PieceConfig": "rrg.config",
    "StageConfig": "rrg.config",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rrg' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
