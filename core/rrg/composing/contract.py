"""What a piece reads and gives, taken from the annotations of its `forward`; there is no second description."""

import inspect
from collections.abc import Container
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

from pydantic import ValidationError

from rrg.config import InjectorConfig, LossConfig, PieceConfig, StageConfig
from rrg.errors import UsageError
from rrg.pieces import Registered
from rrg.signals import AXES, SIGNALS, signal_of

CONFIGS: dict[str, type[PieceConfig]] = {"injector": InjectorConfig, "loss": LossConfig, "stage": StageConfig}
# Kinds whose result is one tensor rather than named signals, and its axes.
RESULTS = {"injector": SIGNALS["hidden"].axes, "loss": "", "retriever": "batch key"}


@dataclass(frozen=True)
class Port:
    """One named tensor at a piece: its type and axes as annotated, and whether the piece does without it.

    optional, of what a piece gives: whether it may be None.
    """

    argument: str
    signal: str
    axes: str
    dtype: str
    optional: bool = False


@dataclass(frozen=True)
class Contract:
    """reads: signals by argument. gives: signals by field. config: the schema of the piece's settings.

    hidden: an injector's hidden states as it takes them and as it gives them back; nothing for other kinds.
    """

    reads: tuple[Port, ...]
    gives: tuple[Port, ...]
    config: type[PieceConfig]
    hidden: tuple[Port, ...] = ()


def fits(axes: str, other: str) -> bool:
    """Whether two annotations have one form: the same names in the same order, or a whole number in place of a name.

    `rrg.composing.unify` says whether the number is right. `batch` has no number: a batch holds as many studies as it
    likes.
    """
    ours, theirs = axes.split(), other.split()
    return len(ours) == len(theirs) and all(
        a == b or ((a.isdecimal() or b.isdecimal()) and "batch" not in (a, b))
        for a, b in zip(ours, theirs, strict=True)
    )


def can_run(contract: Contract, there: Container[str]) -> bool:
    """Whether a piece runs with these arguments: all that it must have, and one at least of what it may have."""
    reads = contract.reads
    return all(port.argument in there or port.optional for port in reads) and (
        not reads or any(port.argument in there for port in reads)
    )


def contract_of(piece: Registered) -> Contract:
    """Read a piece's contract.

    Raises UsageError where the class cannot be loaded or built as its kind is, an argument or the result is not
    annotated, or axes or types contradict the signal table.
    """
    return Reader(piece).contract()


class Reader:
    """Reads one piece; every failure names the piece. `rrg.composing.sketch` reads the same from the source alone."""

    def __init__(self, piece: Registered) -> None:
        self.piece = piece

    def contract(self) -> Contract:
        config, kind = self.config(), self.piece.kind
        if kind == "stage":
            return Contract((), (), config)
        forward = self.method("forward")
        if forward is None:
            raise self.fail("it has no forward")
        if kind not in RESULTS:
            gives = self.fields(forward)
            return Contract(self.arguments(forward), gives, config)
        result = self.result(forward)
        if kind != "injector":
            return Contract(self.arguments(forward), (), config)
        hidden, reads = self.injector(forward)
        return Contract(reads, (), config, (hidden, result))

    def fail(self, message: str) -> UsageError:
        return UsageError(f"piece {self.piece.name}: {message}")

    def config(self) -> type[PieceConfig]:
        cls, kind = self.piece.cls, self.piece.kind
        base = CONFIGS.get(kind, PieceConfig)
        config = cls if kind == "stage" else self._config_of_module(cls)
        if not (inspect.isclass(config) and issubclass(config, base)):
            what = "its target must be" if kind == "stage" else "annotate `config` of its __init__ with"
            raise self.fail(f"{what} a subclass of rrg.config.{base.__name__}, as for every {kind}")
        try:
            config()
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
            raise self.fail(f"every setting needs a default that is valid; these have none: {fields}") from error
        except Exception as error:  # a default's own code may raise anything
            raise self.fail(f"its default settings fail: {type(error).__name__}: {error}") from error
        return config

    def _config_of_module(self, cls: Any) -> Any:
        from torch import nn

        if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
            raise self.fail(f"{self.piece.piece.target} is no subclass of torch.nn.Module")
        named = {"layer": 0, "first": None} if self.piece.kind == "injector" else {}
        try:
            inspect.signature(cls.__init__).bind(cls, None, None, **named)
        except TypeError as error:
            expected = ", ".join(["config", "axes", *named])
            raise self.fail(f"__init__ must take ({expected}), as for every {self.piece.kind}: {error}") from error
        return self._hints(cls.__init__).get("config")

    def method(self, name: str) -> Any:
        return getattr(self.piece.cls, name, None)

    def arguments(self, function: Any) -> tuple[Port, ...]:
        """The signals that a function reads. An argument with a default is optional."""
        hints = self._hints(function)
        ports = []
        for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise self.fail(f"{function.__name__} takes *{name}; arguments are signals, so each needs its name")
            if name not in hints:
                raise self.fail(f"argument {name} of {function.__name__} has no annotation")
            optional = parameter.default is not parameter.empty
            if NoneType in get_args(hints[name]) and not optional:
                raise self.fail(f"argument {name} of {function.__name__} may be None, so give it the default None")
            ports.append(self.port(name, hints[name], optional))
        return tuple(ports)

    def fields(self, function: Any) -> tuple[Port, ...]:
        """The named tensors that a function gives."""
        result = self._hints(function).get("return")
        if not (inspect.isclass(result) and issubclass(result, tuple) and hasattr(result, "_fields")):
            raise self.fail(
                f"annotate the result of {function.__name__} with a NamedTuple whose fields are the signals it gives"
            )
        return tuple(self.port(name, hint, NoneType in get_args(hint)) for name, hint in self._hints(result).items())

    def result(self, function: Any) -> Port:
        """The one tensor that an injector, a loss or a retriever gives; an injector's is named hidden."""
        expected, hint = RESULTS[self.piece.kind], self._hints(function).get("return")
        if not fits(getattr(hint, "dim_str", "?"), expected):
            raise self.fail(f'the result of a {self.piece.kind}\'s forward is annotated Float[Tensor, "{expected}"]')
        return Port("hidden", "hidden", *self.tensor("hidden", hint))

    def injector(self, forward: Any) -> tuple[Port, tuple[Port, ...]]:
        """`hidden`, and what an injector reads: by `prepare` where it has one, which gives what `forward` takes."""
        ports = {port.argument: port for port in self.arguments(forward)}
        hidden = ports.pop("hidden", None)
        if hidden is None:
            raise self.fail("forward of an injector takes `hidden`")
        prepare = self.method("prepare")
        if prepare is None:
            return hidden, tuple(ports.values())
        taken = {name: (port.dtype, port.axes) for name, port in ports.items()}
        given = {port.argument: (port.dtype, port.axes) for port in self.fields(prepare)}
        differ = sorted(name for name in given | taken if given.get(name) != taken.get(name))
        if differ:
            raise self.fail(
                "prepare gives what forward takes beside `hidden`, by the same names and axes; "
                f"these differ: {', '.join(differ)}"
            )
        return hidden, self.arguments(prepare)

    def _hints(self, thing: Any) -> dict[str, Any]:
        try:
            return get_type_hints(thing, include_extras=True)
        except Exception as error:
            raise self.fail(f"annotations of {thing.__qualname__} cannot be read: {error}") from error

    def port(self, name: str, hint: Any, optional: bool = False) -> Port:
        axes, dtype = self.tensor(name, hint)
        port = Port(name, signal_of(name, self.piece.piece.method), axes, dtype, optional)
        known = SIGNALS.get(port.signal)
        if known is not None and not (port.dtype == known.dtype and fits(port.axes, known.axes)):
            raise self.fail(
                f'{name} is annotated {port.dtype}[Tensor, "{port.axes}"]; '
                f'the signal {port.signal} is {known.dtype}[Tensor, "{known.axes}"]'
            )
        strange = [axis for axis in port.axes.split() if axis not in AXES and not axis.isdecimal()]
        if strange:
            raise self.fail(f"{name} has the axes {', '.join(strange)}; known axes are {', '.join(AXES)}")
        return port

    def tensor(self, name: str, hint: Any) -> tuple[str, str]:
        """Axes and type of an annotation."""
        options = [option for option in get_args(hint) if option is not NoneType]
        bare = options[0] if NoneType in get_args(hint) and len(options) == 1 else hint
        if getattr(bare, "dim_str", None) is None:
            raise self.fail(
                f'{name} is annotated {hint}; expected a jaxtyping type, such as Float[Tensor, "batch host"]'
            )
        return str(bare.dim_str), bare.dtype.__name__
