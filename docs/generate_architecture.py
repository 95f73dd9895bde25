"""Draw docs/architecture.svg: the floors of the layers contract in pyproject.toml, a box a package with the first line
of its docstring. `make docs-pages`.
"""

import ast
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = Path(__file__).parent / "architecture.svg"
WIDTH, GAP, LINE, PAD = 960, 12, 17, 12


def floors() -> list[list[str]]:
    """Modules of core/rrg by floor, the commands first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = [c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    return [[name.strip() for name in floor.split("|")] for floor in contract["layers"]]


def title(name: str) -> str:
    """The first line of a module's docstring."""
    path = ROOT / "core" / "rrg" / name
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].replace("`", "")


def draw() -> str:
    """The whole picture."""
    rows, height = [], GAP
    for floor in floors():
        wide = (WIDTH - GAP) / len(floor) - GAP
        packages = [name for name in floor if (ROOT / "core" / "rrg" / name).is_dir()]
        texts = [textwrap.wrap(title(name) if packages else "", int(wide / 6.9)) for name in floor]
        tall = PAD * 2 + LINE * (1 + max(map(len, texts)))
        for place, (name, text) in enumerate(zip(floor, texts, strict=True)):
            x = GAP + place * (wide + GAP)
            rows.append(f'<rect x="{x:.0f}" y="{height}" width="{wide:.0f}" height="{tall}" rx="4"/>')
            for number, line in enumerate([name, *text]):
                kind = "line" if number else "name"
                y = height + PAD + LINE * number + 12
                rows.append(f'<text class="{kind}" x="{x + PAD:.0f}" y="{y}">{escape(line)}</text>')
        height += tall + GAP
    style = (
        "rect{fill:#f4f6f8;stroke:#8aa0b2} text{font-family:sans-serif;fill:#1d2a35} "
        ".name{font-size:14px;font-weight:bold} .line{font-size:12px}"
    )
    body = "\n".join(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Packages of core/rrg by floor">\n<style>{style}</style>\n'
        f'<rect x="0" y="0" width="{WIDTH}" height="{height}" style="fill:#ffffff;stroke:none"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
