"""A host's configuration with the fields that `host.config` changes, and no others.

A recipe is data: what it says never becomes an argument of a loader, which could run a model folder's own code.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rrg.composing.host_names import read_config
from rrg.composing.resolve import did_you_mean
from rrg.config import HostConfig
from rrg.errors import RRGError, UsageError

_LOADING = ("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation")
"""What a model's own file may ask of the loader: code from elsewhere. It is not handed on."""


def model_config(config: HostConfig, source: str) -> Any:
    """transformers' configuration of the host `source`, with the fields of `host.config` changed.

    Raises UsageError for a name that is no field of the configuration's class, and where none can be read.
    """
    from transformers import CONFIG_MAPPING

    try:
        own = read_config(source)
    except UsageError as error:
        if source == config.name:
            raise
        raise RRGError(f"host {config.name}: {error.message}; download the model first") from error
    content = {name: value for name, value in own.items() if name not in _LOADING}
    cls = CONFIG_MAPPING[content.pop("model_type")]
    return cls(**_changed(cls, content, config.config, "host.config"))


def _changed(cls: Any, content: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

    parts = cls.sub_configs
    # Fields of every configuration say how a model is loaded and what it returns; the rest is the architecture.
    known = {field.name for field in fields(cls)} - {field.name for field in fields(PreTrainedConfig)}
    known |= cls.attribute_map.keys()
    found = dict(content)
    for given, value in changes.items():
        if given not in known:
            raise UsageError(
                f"{where}.{given}: no field of {cls.__name__}{did_you_mean(given, known)}; {where} changes fields of "
                "the model's configuration, never how it is loaded"
            )
        name = cls.attribute_map.get(given, given)
        if name in parts and isinstance(value, Mapping):
            own = found.get(name) or {}
            part = parts[name] if parts[name] is not AutoConfig else CONFIG_MAPPING[own["model_type"]]
            value = _changed(part, own, value, f"{where}.{name}")
        found[name] = value
    return found
