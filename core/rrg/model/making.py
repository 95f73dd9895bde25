"""A piece's module made of its settings, with one error for whatever its own code raises."""

from typing import Any

from pydantic import ValidationError
from torch import nn

from rrg.axes import Axes
from rrg.composing.contract import Contract
from rrg.composing.recipe import Recipe, validation_problems
from rrg.errors import RRGError, UsageError
from rrg.pieces import Registered


def made(piece: Registered, config: Any, axes: Axes, **where: Any) -> nn.Module:
    try:
        module: nn.Module = piece.cls(config, axes, **where)
    except RRGError:
        raise
    except Exception as error:  # a piece's own code may raise anything, such as for a width that its heads don't divide
        raise UsageError(
            f"piece {piece.name} cannot be built with its settings and {axes}: {type(error).__name__}: {error}; "
            f"change its settings with --set {piece.name}.…, or leave it out with --drop {piece.name}"
        ) from error
    return module.float()  # whatever precision its weights were saved in


def width_of(name: str, module: nn.Module, attribute: str, signal: str) -> int:
    """Width of the tokens that a module gives."""
    width = getattr(module, attribute, None)
    if not isinstance(width, int):
        raise UsageError(f"piece {name}: it gives {signal}, so it needs an attribute `{attribute}`, their width")
    return width


def settings_of(recipe: Recipe, name: str, contract: Contract) -> Any:
    try:
        return contract.config.model_validate(recipe.pieces[name])
    except ValidationError as error:  # a recipe that was written by hand
        raise UsageError(f"the recipe's settings of {name}", validation_problems(error, prefix=name)) from error
