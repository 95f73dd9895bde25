"""`rrg explain`: a method's or a piece's equations, files and open choices."""

import argparse
import textwrap
from typing import TYPE_CHECKING

from rrg.cli._options import add_json

if TYPE_CHECKING:
    from rrg.authoring.explain import Explanation

WIDTH = 110


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "explain",
        help="say what a method or piece computes, where, and what its paper leaves open",
        description="Print each piece's equations, the file that implements it, what it reads and gives, and the "
        "settings that the paper leaves open with what was chosen.",
        epilog="example: rrg explain lead",
    )
    parser.add_argument("name", metavar="METHOD|PIECE", help="such as lead, dast.dvaf or dmsr")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from rrg.authoring.explain import explain, title_of

    found = explain(args.name)
    if args.json:
        print(json.dumps([piece.to_json() for piece in found], indent=2, ensure_ascii=False))
        return 0
    title = title_of(args.name)
    closed = _settings(found, is_open=False) if len(found) == 1 else []
    lines = [title, ""] if title else []
    for piece in found:
        lines += [*_piece(piece), ""]
    left = _settings(found, is_open=True)
    lines += ["Left open by the paper, and what was chosen:", *left] if left else ["The paper leaves no setting open."]
    lines += ["", "Its other settings:", *closed] if closed else []
    if found[0].readme:
        lines += ["", f"More: {found[0].readme}"]
    print("\n".join(lines))
    return 0


def _piece(piece: "Explanation") -> list[str]:
    lines = [f"{piece.name}  ({piece.kind})  {piece.source}"]
    for paragraph in (piece.about, *piece.equations.split("\n\n")):
        lines += _wrapped(paragraph, "  ", "  ")
    lines += [f"  reads  {', '.join(piece.reads)}"] if piece.reads else []
    lines += [f"  gives  {', '.join(piece.gives)}"] if piece.gives else []
    lines += [f"  brings {key} = {_value(value)}" for key, value in piece.brings.items()]
    return lines


def _settings(found: "list[Explanation]", is_open: bool) -> list[str]:
    lines = []
    for piece in found:
        for setting in piece.settings:
            if setting.open == is_open:
                text = f"{piece.name}.{setting.name} = {_value(setting.default)}: {setting.meaning}"
                lines += _wrapped(text, "  ", "      ")
    return lines


def _value(value: object) -> str:
    import json

    return "unset" if value is None else json.dumps(value, ensure_ascii=False)


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    joined = " ".join(text.split()).removesuffix(":")
    return textwrap.wrap(joined, WIDTH, initial_indent=first, subsequent_indent=rest)
