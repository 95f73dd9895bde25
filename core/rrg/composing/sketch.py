"""A piece's contract from its source text: neither the piece's module nor torch is imported.

Read are annotations that stand in the module, or in a module of the same package or of rrg whose class it uses:
jaxtyping types, aliases of them, `| None`, NamedTuples, base classes. Whatever else decides (other packages,
conditions, computed annotations) is left to `rrg.composing.contract`.
"""

import ast
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from rrg.composing.contract import CONFIGS, Contract, Port, Reader
from rrg.config import PieceConfig
from rrg.errors import UsageError
from rrg.pieces import Registered

Tree = TypeVar("Tree", bound=ast.AST)
MODULE = ("nn.Module", "torch.nn.Module", "Module")


def sketch_of(piece: Registered) -> Contract:
    """As `rrg.composing.contract.contract_of`, but with the settings of the piece's kind in place of its own.

    Raises UsageError where the source does not say it all.
    """
    try:
        return _Sketch(piece).contract()
    except BaseException as error:  # the package around the module is imported, and may raise anything
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UsageError(f"piece {piece.name}: its source cannot be read ({type(error).__name__}: {error})") from error


class _Sketch(Reader):
    """Reads syntax trees where the run-time reader has classes, functions and types."""

    def __init__(self, piece: Registered) -> None:
        super().__init__(piece)
        module, _, self.target = piece.piece.target.partition(":")
        self.bound = {} if piece.kind == "stage" else _bound(_body(module))

    def config(self) -> type[PieceConfig]:
        return CONFIGS.get(self.piece.kind, PieceConfig)

    def method(self, name: str, of: str | None = None) -> ast.FunctionDef | None:
        cls = self._class(of or self.target)
        own = _bound(cls.body)
        if name in own:
            return _expect(own[name], ast.FunctionDef)
        [base] = map(ast.unparse, cls.bases)
        return None if base in MODULE else self.method(name, base)

    def arguments(self, function: ast.FunctionDef) -> tuple[Port, ...]:
        a = function.args
        if a.vararg or a.kwarg:
            raise self.fail("an argument has no name")
        positional = [*a.posonlyargs, *a.args]
        defaults = [None] * (len(positional) - len(a.defaults)) + a.defaults + a.kw_defaults
        pairs = list(zip([*positional, *a.kwonlyargs], defaults, strict=True))[1:]
        return tuple(self.port(arg.arg, arg.annotation, default is not None) for arg, default in pairs)

    def fields(self, function: ast.FunctionDef) -> tuple[Port, ...]:
        cls = self._class(_expect(_unquoted(function.returns), ast.Name).id)
        if [ast.unparse(base) for base in cls.bases] != ["NamedTuple"]:
            raise self.fail(f"{cls.name} is no plain NamedTuple")
        items = [item for item in cls.body if isinstance(item, ast.AnnAssign)]
        return tuple(self.port(ast.unparse(i.target), i.annotation, isinstance(i.annotation, ast.BinOp)) for i in items)

    def result(self, function: ast.FunctionDef) -> Port:
        return Port("hidden", "hidden", *self.tensor("the result", function.returns))

    def tensor(self, name: str, hint: ast.expr | None) -> tuple[str, str]:
        match _unquoted(hint):
            case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
                return self.tensor(name, left)
            case ast.Name(id=alias):
                statement = self.bound[alias]
                if isinstance(statement, ast.Assign | ast.AnnAssign):
                    return self.tensor(name, statement.value)
            case ast.Subscript(value=ast.Name(id=kind), slice=ast.Tuple(elts=[_, ast.Constant(value=str(axes))])):
                statement = self.bound[kind]
                if isinstance(statement, ast.ImportFrom) and statement.module == "jaxtyping":
                    return axes.strip(), next(n.name for n in statement.names if kind == (n.asname or n.name))
        raise self.fail(f"{name} has another kind of annotation")

    def _class(self, name: str) -> ast.ClassDef:
        """A class of the module, or one that it imports from its own package or rrg, with all that stands there."""
        statement = self.bound[name]
        if isinstance(statement, ast.ImportFrom) and statement.module:
            package = statement.module.partition(".")[0]
            if package in ("rrg", self.piece.piece.target.partition(".")[0]):
                there = _bound(_body(statement.module))
                original = next(alias.name for alias in statement.names if name == (alias.asname or alias.name))
                self.bound = there | self.bound | {name: there[original]}
        return _expect(self.bound[name], ast.ClassDef)


def _body(module: str) -> list[ast.stmt]:
    """Statements of a module; its package is imported, it is not."""
    origin: Any = getattr(find_spec(module), "origin", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing the module will tell them
        return ast.parse(Path(origin).read_bytes()).body


def _expect(found: ast.AST | None, kind: type[Tree]) -> Tree:
    if not isinstance(found, kind):
        raise TypeError(f"{found} is no plain {kind.__name__}")
    return found


def _unquoted(hint: ast.expr | None) -> ast.expr | None:
    match hint:
        case ast.Constant(value=str(text)):
            return ast.parse(text, mode="eval").body
    return hint


def _bound(body: list[ast.stmt]) -> dict[str, ast.stmt | None]:
    """The statement that gives each name of a module or class; None where several do or a condition decides."""
    found: dict[str, ast.stmt | None] = {}
    for statement in body:
        plain = isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign | ast.ImportFrom)
        for name in _names(statement):
            found[name] = statement if plain and name not in found else None
    return found


def _names(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return {statement.name}
    names = set()
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name)
    return names
