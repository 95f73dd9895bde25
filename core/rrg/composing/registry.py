"""registry.toml: names of methods, aliases, hosts and data sets, and how to install what is known but absent.

Data only: it never makes a piece exist. Pieces come from plugins alone.
"""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any


@cache
def registry() -> dict[str, Any]:
    """The parsed registry: `methods`, `aliases`, `hosts`, `datasets`, each a table by name."""
    here = Path(__file__).parent.parent
    # An installed wheel carries the file inside the package; an editable install reads the repository's own.
    path = next(p for p in (here / "registry.toml", here.parent.parent / "registry.toml") if p.exists())
    return tomllib.loads(path.read_text(encoding="utf-8"))
