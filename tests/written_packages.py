"""Packages that `rrg new` wrote, made visible as an editable install would."""

import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

InstallPackage = Callable[[Path], None]


def describe(folder: Path) -> None:
    """Write beside a package the metadata that an installer makes of its pyproject.toml."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    info = folder.parent / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    points = "".join(f"{point} = {module}\n" for point, module in project["entry-points"]["rrg"].items())
    (info / "entry_points.txt").write_text(f"[rrg]\n{points}", encoding="utf-8")


@pytest.fixture
def install_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[InstallPackage]:
    before = set(sys.modules)

    def make(folder: Path) -> None:
        folder = folder.resolve()
        describe(folder)
        monkeypatch.syspath_prepend(folder.parent)
        monkeypatch.syspath_prepend(folder)

    yield make
    for module in set(sys.modules) - before:
        if module.startswith("rrg_"):
            del sys.modules[module]
