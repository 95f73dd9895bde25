"""A model's learnt weights on disk: `pieces.safetensors` by piece and layer, peft's adapter folder, the host's own.

Weights that come from elsewhere (a host's or an encoder's published ones) are saved only where a stage has trained them.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rrg.errors import DataError
from rrg.model import RRGModel

PIECES, HOST, ADAPTER = "pieces.safetensors", "host.safetensors", "adapter"


def save_weights(model: RRGModel, folder: Path) -> None:
    """Write everything that a run adds to the published weights into `folder`, which the caller makes appear at once."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_to_save(_pieces(model)), folder / PIECES, metadata={"format": "pt", "recipe": model.recipe.hash})
    host = _host(model)
    if host:
        save_file(_to_save(host), folder / HOST, metadata={"format": "pt", "recipe": model.recipe.hash})
    if model.host.adapter is not None:
        model.host.adapter.save_pretrained(folder / ADAPTER)


def load_weights(model: RRGModel, folder: Path) -> None:
    """Put saved weights into a model that was built from the same recipe.

    Raises DataError where a file is missing, no safetensors, or its keys or shapes are not the model's.
    """
    _load(_pieces(model), folder / PIECES)
    host_file = folder / HOST
    if host_file.exists():
        saved = dict(model.host.model.named_parameters())
        names = _keys(host_file)
        _load({name: saved[name] for name in names if name in saved}, host_file)
        # What a stage has trained is saved again by the stages after it.
        model.touched |= {f"host.model.{name}" for name in names}
    if model.host.adapter is not None:
        from peft import set_peft_model_state_dict

        path = folder / ADAPTER / "adapter_model.safetensors"
        set_peft_model_state_dict(model.host.adapter, _read(path))


def _pieces(model: RRGModel) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in [*model.modules_by_piece, *model.injection.pieces]:
        own = dict(model.piece_parameters(name))
        published = getattr(model.modules_by_piece.get(name), "published", False)
        if published and not any(key in model.touched for key in own):
            continue
        tensors |= own | dict(model.piece_buffers(name))
    return tensors


def _host(model: RRGModel) -> dict[str, Tensor]:
    """The host's own weights that a stage has trained; all of them for a host built at random."""
    every = [(n, p) for n, p in model.host.model.named_parameters() if ".rrg." not in n and "lora_" not in n]
    random = not model.recipe.host.source
    return {n: p for n, p in every if random or f"host.model.{n}" in model.touched}


def _to_save(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a safetensors file that can be read: {error}") from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (safe_open is no dict)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a safetensors file that can be read: {error}") from error


def _load(into: dict[str, Tensor], path: Path) -> None:
    saved = _read(path)
    missing, strange = sorted(into.keys() - saved.keys()), sorted(saved.keys() - into.keys())
    shapes = [f"{k}: {tuple(saved[k].shape)} saved, {tuple(t.shape)} built" for k, t in into.items()
              if k in saved and saved[k].shape != t.shape]
    problems = [*(f"{key} is missing" for key in missing), *(f"{key} belongs to no module" for key in strange), *shapes]
    if problems:
        raise DataError(f"{path}: {len(problems)} weights do not fit the recipe's model", problems[:10])
    with torch.no_grad():
        for key, tensor in into.items():
            tensor.copy_(saved[key])
