"""What a run depended on besides its recipe and its data."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from rrg.composing.recipe import Recipe


def environment(recipe: Recipe) -> dict[str, Any]:
    """What a run depended on besides its recipe."""
    return {
        "versions": recipe.versions,
        "recipe": recipe.hash,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "seed": recipe.seed,
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit of rrg's own checkout, `-dirty` where it was changed; None where it is no checkout."""
    file = Path(__file__)
    git = ["git", "-C", str(file.parent)]
    try:  # an installed copy may lie within somebody else's checkout, which doesn't track it
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
