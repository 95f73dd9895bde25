"""Installed distributions for tests of plugins: a module and the metadata that importlib.metadata finds."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install("odd", source): distribution odd-plugin 1.2 whose entry point `odd` is a module with that source."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def make(name: str, source: str, **more: str) -> None:
        for module, text in {name: source, **more}.items():
            (folder / f"{module}.py").write_text(textwrap.dedent(text), encoding="utf-8")
            monkeypatch.delitem(sys.modules, module, raising=False)
        info = folder / f"{name}_plugin-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[rrg]\n{name} = {name}\n", encoding="utf-8")

    yield make  # type: ignore[misc]
    for module in [m for m in sys.modules if (folder / f"{m}.py").exists()]:
        del sys.modules[module]


def piece(hook: str, name: str, target: str) -> str:
    """Source of a plugin that registers one piece."""
    return f"""
    import rrg

    @rrg.hookimpl
    def {hook}():
        return [rrg.Piece({name!r}, {target!r}, "for a test")]
    """


LOGITS = """
    from typing import NamedTuple

    from jaxtyping import Float
    from torch import Tensor, nn

    from rrg import PieceConfig
    from rrg.axes import Axes


    class Logits(NamedTuple):
        disease_logits: Float[Tensor, "batch diseases"]


    class Heads(nn.Module):
        def __init__(self, config: PieceConfig, axes: Axes) -> None:
            super().__init__()
            self.linear = nn.Linear(axes.vision, axes.diseases)

        def forward(self, visual_mean: Float[Tensor, "batch vision"]) -> Logits:
            return Logits(self.linear(visual_mean))
"""
