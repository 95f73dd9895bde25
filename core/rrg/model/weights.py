"""A model's learnt weights on disk: `pieces.safetensors` by piece and layer, peft's adapter folder, the host's own.

Weights that come from elsewhere are saved only where a stage has trained them: the host's, and those of the children
that a piece's module names in `published`, such as ("backbone",).
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rrg.errors import DataError
from rrg.model.model import RRGModel

PIECES, HOST, ADAPTER = "pieces.safetensors", "host.safetensors", "adapter"


def save_weights(model: RRGModel, folder: Path) -> None:
    """Write all that a run adds to the published weights into `folder`, which the caller makes appear at once."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(_pieces(model), folder / PIECES, model.recipe.hash)
    if host := _host(model):
        _save(host, folder / HOST, model.recipe.hash)
    if model.host.adapter is not None:
        # Embeddings are never adapted here; "auto" would ask the hub about them.
        model.host.adapter.save_pretrained(folder / ADAPTER, save_embedding_layers=False)


def load_weights(model: RRGModel, folder: Path) -> None:
    """Put saved weights into a model of the same recipe that has entered the same stages (`begin`).

    Raises DataError where a file is missing or no safetensors, or its keys or shapes are not the model's.
    """
    _load(_pieces(model), folder / PIECES)
    if host := _host(model):
        _load(host, folder / HOST)
    if model.host.adapter is not None:
        from peft import get_peft_model_state_dict

        adapters = get_peft_model_state_dict(model.host.adapter, save_embedding_layers=False)
        _load(adapters, folder / ADAPTER / "adapter_model.safetensors")


def _pieces(model: RRGModel) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in [*model.modules_by_piece, *model.injection.pieces]:
        own = model.piece_parameters(name)
        published = {f"{name}/{child}" for child in getattr(model.modules_by_piece.get(name), "published", ())}
        untrained = published - {_child(key) for key, _ in own if key in model.touched}
        tensors |= {key: value for key, value in [*own, *model.piece_buffers(name)] if _child(key) not in untrained}
    return tensors


def _child(key: str) -> str:
    """`core.encoder/backbone` of `core.encoder/backbone.conv1.weight`."""
    piece, _, rest = key.partition("/")
    return f"{piece}/{rest.partition('.')[0]}"


def _host(model: RRGModel) -> dict[str, Tensor]:
    """The host's own weights that a stage has trained; all of them for a host built at random."""
    every = [(n, p) for n, p in model.host.model.named_parameters() if ".rrg." not in n and "lora_" not in n]
    random = not model.recipe.host.source
    return {n: p for n, p in every if random or f"host.model.{n}" in model.touched}


def _save(tensors: dict[str, Tensor], path: Path, recipe: str) -> None:
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(content, path, metadata={"recipe": recipe})  # one entry: safetensors writes several in any order


def _load(into: dict[str, Tensor], path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            saved = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (safe_open is no dict)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a safetensors file that can be read: {error}") from error
    shapes = [
        f"{key}: {tuple(saved[key].shape)} saved, {tuple(tensor.shape)} built"
        for key, tensor in into.items()
        if key in saved and saved[key].shape != tensor.shape
    ]
    missing, strange = sorted(into.keys() - saved.keys()), sorted(saved.keys() - into.keys())
    problems = [*(f"{key} is missing" for key in missing), *(f"{key} belongs to no module" for key in strange), *shapes]
    if problems:
        raise DataError(f"{path}: {len(problems)} weights do not fit the recipe's model", problems[:10])
    with torch.no_grad():
        for key, tensor in into.items():
            tensor.copy_(saved[key])
