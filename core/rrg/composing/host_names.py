"""From a host's name to its settings: a name of registry.toml, a local folder, or a hub id."""

import json
import os
from pathlib import Path
from typing import Any

from rrg.composing.registry import registry
from rrg.composing.resolve import did_you_mean
from rrg.errors import UsageError

CONFIGS = Path(__file__).parent / "configs"
NOT_SETTINGS = ("help", "config", "set", "model_type", "gives")


def host_preset(name: str) -> dict[str, dict[str, Any]]:
    """`{"host": fields of HostConfig, "set": settings of the composition that this host changes}`.

    Raises UsageError for a name that is none of the three, or a model that writes no text.
    """
    entry = registry()["hosts"].get(name)
    if entry is None:
        name = absolute(name)
        entry = {"kind": _kind_of(name), "source": name}
    general = registry()["kinds"].get(entry["kind"], {})
    fields = {k: v for k, v in {**general, **entry}.items() if k not in NOT_SETTINGS}
    return {"host": {"name": name, **fields}, "set": {**general.get("set", {}), **entry.get("set", {})}}


def absolute(name: str) -> str:
    """The whole path of a folder that is there, so that a recipe means the same from everywhere; else the name."""
    path = Path(name).expanduser()
    return os.path.abspath(path) if name and path.is_dir() else name


def _kind_of(name: str) -> str:
    """The kind of registry.toml that has the model_type; `text` for any other language model of transformers."""
    model_type = read_config(name)["model_type"]
    for kind, about in registry()["kinds"].items():
        if about.get("model_type") == model_type:
            return str(kind)
    import rrg._torchvision  # noqa: F401  before transformers

    # isort: split
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UsageError(
            f"host {name}: its model_type {model_type!r} is no causal language model of transformers, nor Qwen3-VL"
        )
    return "text"


def read_config(name: str) -> dict[str, Any]:
    """The Hugging Face configuration of a host: a known host's ships with the package.

    Raises UsageError where a folder holds none, or a hub id cannot be reached.
    """
    entry = registry()["hosts"].get(name)
    path = CONFIGS / f"{entry['config']}.json" if entry else _config_file(name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"host {name}: the folder has no config.json; give a Hugging Face model folder") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"host {name}: {path} is not a JSON configuration: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UsageError(f"host {name}: {path} names no model_type; give a Hugging Face model folder")
    return config


def _config_file(name: str) -> Path:
    """config.json of a folder, or of a hub id: from the hub, or from its cache where the hub is out of reach."""
    known = registry()["hosts"]
    if Path(name).is_dir():
        return Path(name) / "config.json"
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(
            f"host {name}: no such host or folder{did_you_mean(name, known)}; known hosts: {', '.join(known)}"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its retries are no news: what failed in the end is said below
    try:
        return Path(hf_hub_download(name, "config.json"))
    except Exception as error:
        raise UsageError(
            f"host {name}: no configuration on this machine, and the hub cannot be reached or has no such model "
            f"({type(error).__name__}); give a local folder, or one of {', '.join(known)}"
        ) from error
