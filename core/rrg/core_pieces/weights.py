"""Published weights: safetensors alone, and all of them."""

from pathlib import Path
from typing import Any

from rrg.errors import DataError


def need_safetensors(source: str, loader: str) -> None:
    """Raises DataError where `source` is a model folder whose weights are a pickle alone, which is never opened.

    loader: the class of transformers that reads them, for the message.
    """
    folder = Path(source)
    pickles = sorted(path.name for suffix in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{suffix}"))
    if folder.is_dir() and pickles and not any(folder.glob("*.safetensors")):
        raise DataError(
            f"{source}: its weights are a pickle ({pickles[0]}), which can run code and is not opened; where you trust "
            f'it, convert it by python -c "from transformers import {loader} as M; '
            f"M.from_pretrained('{source}').save_pretrained('{source}')\""
        )


def refuse_missing(found: dict[str, Any]) -> None:
    """Weights that a checkpoint lacks would be random, and frozen; what pools is not read.

    found: what transformers says of the loading. Raises ValueError that names one of them.
    """
    missing = sorted(key for key in found["missing_keys"] if "pooler" not in key and "position_ids" not in key)
    if missing:
        raise ValueError(f"its weights lack {len(missing)} that its configuration asks for, such as {missing[0]}")
