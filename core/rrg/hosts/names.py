"""From a host's name to its settings: a name of registry.toml, a local folder, or a hub id."""

import difflib
import json
from pathlib import Path
from typing import Any

from rrg.errors import UsageError
from rrg.registry import registry

CONFIGS = Path(__file__).parent / "configs"


def host_preset(name: str) -> dict[str, dict[str, Any]]:
    """`{"host": fields of HostConfig, "set": settings of the composition that this host changes}`.

    Raises UsageError for a name that is none of the three.
    """
    known = registry()["hosts"]
    entry = known.get(name)
    if entry is None:
        entry = {"kind": kind_of(name), "source": name}
    general = registry()["kinds"].get(entry["kind"], {})
    fields = {k: v for k, v in {**general, **entry}.items() if k not in ("help", "config", "set")}
    return {"host": {"name": name, **fields}, "set": {**general.get("set", {}), **entry.get("set", {})}}


def kind_of(source: str) -> str:
    """`qwen3-vl` for Qwen3-VL, `text` for any other language model that transformers builds."""
    model_type = read_config(source).get("model_type")
    return "qwen3-vl" if model_type == "qwen3_vl" else "text"


def read_config(name: str) -> dict[str, Any]:
    """The Hugging Face configuration of a host: a known host's ships with the package.

    Raises UsageError where a folder holds none, or a hub id cannot be reached.
    """
    entry = registry()["hosts"].get(name)
    if entry:
        return json.loads((CONFIGS / f"{entry['config']}.json").read_text(encoding="utf-8"))
    folder = Path(name)
    if folder.is_dir():
        path = folder / "config.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"host {name}: the folder has no config.json; give a Hugging Face model folder") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"host {name}: {path} is not a JSON configuration: {error}") from error
    close = difflib.get_close_matches(name, registry()["hosts"], n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    if "/" not in name or name.startswith((".", "/")):
        raise UsageError(f"host {name}: no such host or folder; {hint}known hosts: {', '.join(registry()['hosts'])}")
    import rrg._torchvision  # noqa: F401  before transformers
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name).to_dict()
    except Exception as error:
        raise UsageError(
            f"host {name}: no configuration on this machine, and the hub cannot be reached or has no such model "
            f"({type(error).__name__}); give a local folder, or one of {', '.join(registry()['hosts'])}"
        ) from error
