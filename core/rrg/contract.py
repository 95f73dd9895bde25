"""What a piece reads and gives, taken from the annotations of its `forward`; there is no second description."""

import inspect
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from rrg.config import PieceConfig
from rrg.errors import UsageError
from rrg.pieces import Registered
from rrg.signals import AXES, SIGNALS, signal_of


@dataclass(frozen=True)
class Port:
    """One named tensor at a piece: its axes as annotated, and whether the piece does without it."""

    argument: str
    signal: str
    axes: str
    optional: bool = False


@dataclass(frozen=True)
class Contract:
    """reads: signals by argument. gives: signals by field. prepared: what an injector computes once per request."""

    reads: tuple[Port, ...]
    gives: tuple[Port, ...]
    prepared: tuple[str, ...]
    config: type[PieceConfig]


def contract_of(piece: Registered) -> Contract:
    """Read a piece's contract.

    Raises UsageError where an argument has no annotation, a result is not named, or axes contradict the signal table.
    """
    config = _config_of(piece)
    if piece.kind == "stage":
        return Contract((), (), (), config)
    hints = _hints(piece, piece.cls.forward)
    prepared: tuple[Port, ...] = ()
    reads: list[Port] = []
    if piece.kind == "injector" and hasattr(piece.cls, "prepare"):
        of_prepare = _hints(piece, piece.cls.prepare)
        prepared = _fields(piece, of_prepare.pop("return", None))
        reads += _arguments(piece, piece.cls.prepare, of_prepare)
    given = {port.argument for port in prepared}
    result = hints.pop("return", None)
    local = {name: hint for name, hint in hints.items() if name not in given and name != "hidden"}
    reads += [port for port in _arguments(piece, piece.cls.forward, local) if port not in reads]
    gives = _fields(piece, result) if piece.kind in ("encoder", "connector") else ()
    for port in (*reads, *gives):
        _check_axes(piece, port)
    return Contract(tuple(reads), gives, tuple(given), config)


def _config_of(piece: Registered) -> type[PieceConfig]:
    if piece.kind == "stage":
        config: Any = piece.cls
    else:
        config = _hints(piece, piece.cls.__init__).get("config")
    if not (inspect.isclass(config) and issubclass(config, PieceConfig)):
        raise UsageError(f"piece {piece.name}: annotate `config` of its __init__ with a subclass of rrg.PieceConfig")
    return config


def _hints(piece: Registered, function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:
        raise UsageError(f"piece {piece.name}: annotations of {function.__qualname__} cannot be read: {error}") from error


def _arguments(piece: Registered, function: Any, hints: dict[str, Any]) -> list[Port]:
    ports = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self" or (name not in hints and parameter.annotation is not inspect.Parameter.empty):
            continue
        if name in ("hidden",) or name not in hints:
            if parameter.annotation is inspect.Parameter.empty:
                raise UsageError(f"piece {piece.name}: argument {name} of {function.__name__} has no annotation")
            continue
        hint, optional = _strip_none(hints[name])
        ports.append(Port(name, signal_of(name, piece.piece.method), _axes(hint), optional))
    return ports


def _strip_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (Union, UnionType):
        kept = [arg for arg in get_args(hint) if arg is not NoneType]
        return (kept[0] if len(kept) == 1 else hint), len(kept) < len(get_args(hint))
    return hint, False


def _fields(piece: Registered, result: Any) -> tuple[Port, ...]:
    if not (inspect.isclass(result) and issubclass(result, tuple) and hasattr(result, "_fields")):
        raise UsageError(f"piece {piece.name}: annotate its result with a NamedTuple whose fields are the signals it gives")
    ports = []
    for name, hint in get_type_hints(result, include_extras=True).items():
        bare, optional = _strip_none(hint)
        ports.append(Port(name, signal_of(name, piece.piece.method), _axes(bare), optional))
    return tuple(ports)


def _axes(hint: Any) -> str:
    return str(getattr(hint, "dim_str", ""))


def _check_axes(piece: Registered, port: Port) -> None:
    known = SIGNALS.get(port.signal)
    if known is not None and port.axes != known.axes:
        raise UsageError(f"piece {piece.name}: {port.argument} is annotated {port.axes!r}, "
                         f"the signal {port.signal} has the axes {known.axes!r}")
    strange = [axis for axis in port.axes.split() if axis not in AXES and not axis.isdigit()]
    if strange:
        raise UsageError(f"piece {piece.name}: {port.argument} has the axes {', '.join(strange)}; "
                         f"known axes are {', '.join(AXES)}")
