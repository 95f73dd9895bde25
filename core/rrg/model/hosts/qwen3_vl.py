"""Qwen3-VL as host: its own vision tower, connector and DeepStack, unless the composition replaces them.

The tower runs once per request: its last feature map becomes `patch_tokens`, and the same outputs go on to the
language model. Where a composition brings its own `visual_embeds`, the model reads them as a text model would, without
DeepStack.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from rrg.config import HostConfig
from rrg.errors import UsageError
from rrg.model.hosts.text import TextHost, positions
from rrg.views import side_by_side


class Qwen3VLHost(TextHost):
    """Qwen3-VL of transformers, unmodified."""

    loader = "AutoModelForImageTextToText"

    def __init__(self, config: HostConfig, model: Any, tokenizer: Any) -> None:
        super().__init__(config, model, tokenizer)
        vision = model.config.vision_config
        self.patch, self.merge, self.time = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        self.vision = vision.hidden_size

    @property
    def tower(self) -> nn.Module:  # type: ignore[override]
        """Blocks and embeddings of the vision tower; the mergers are the `connector`."""
        return cast(nn.Module, self.model.model.visual)

    def tower_parameters(self, connector: bool) -> list[tuple[str, nn.Parameter]]:
        named = ((f"model.visual.{n}", p) for n, p in self.tower.named_parameters())
        return [(n, p) for n, p in named if ("merger" in n) == connector]

    def language_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(n, p) for n, p in super().language_parameters() if ".visual." not in n]

    def grid(self, size: int) -> int:
        """Patches along one side of a film of `size` pixels."""
        step = self.patch * self.merge
        if size % step:
            raise UsageError(
                f"image.size={size}: {self.config.name} reads films whose side is a multiple of {step}; "
                f"set image.size={round(size / step) * step or step}"
            )
        return int(size // self.patch)

    def tokens_of_film(self, size: int) -> int:
        return int(self.grid(size) // self.merge) ** 2

    @property
    def image_token(self) -> str:  # type: ignore[override]
        return str(self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id))

    def tower_flops(self, size: int) -> int:
        """Two FLOPs a weight and patch, and the two products of attention within a film.

        The mergers see one position for each merge x merge patches.
        """
        patches, vision = self.grid(size) ** 2, self.model.config.vision_config
        weights = 0.0
        for name, module in self.tower.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                weights += module.weight.numel() / (self.merge**2 if "merger" in name else 1)
        return int(2 * weights * patches + 4 * patches**2 * vision.hidden_size * vision.depth)

    def see(self, pixel_values: Tensor, view_mask: Tensor) -> dict[str, Any]:
        """Run the tower on the films that there are.

        pixel_values: (batch views channels height width) in [0, 1]. Gives patch_tokens (batch patches vision) before
        merging, patch_mask (batch patches), and as visual_embeds the tower's own output for the language model. On the
        meta device, where positions cannot be computed, shapes alone.
        """
        if pixel_values.is_meta:
            batch, count = pixel_values.shape[0], pixel_values.shape[1] * self.grid(pixel_values.shape[-1]) ** 2
            shape = torch.empty(batch, count, self.vision, device="meta")
            mask = torch.ones(batch, count, dtype=torch.bool, device="meta")
            return {"patch_tokens": shape, "patch_mask": mask, "visual_embeds": None}
        patches, grid = self.patchify(pixel_values[view_mask])
        out = self.model.model.get_image_features(patches, grid)
        tokens, mask = side_by_side(out.last_hidden_state.unflatten(0, (grid.shape[0], -1)), view_mask)
        return {"patch_tokens": tokens, "patch_mask": mask, "visual_embeds": out}

    def patchify(self, films: Tensor) -> tuple[Tensor, Tensor]:
        """(films channels height width) to (films·patches, channels·time·patch²), merge blocks together, and grids."""
        side = self.grid(films.shape[-1])
        x = films.expand(-1, 3, -1, -1) * 2 - 1  # mean and deviation 0.5, as published
        m, p = self.merge, self.patch
        x = x.reshape(x.shape[0], 3, side // m, m, p, side // m, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
        x = x.unsqueeze(6).expand(*x.shape[:6], self.time, p, p)  # a still film fills both time steps
        grid = torch.tensor([[1, side, side]] * films.shape[0], device=films.device)
        return x.reshape(films.shape[0] * side * side, 3 * self.time * p * p), grid

    def assemble_native(self, batch: dict[str, Tensor], seen: Any, size: int) -> dict[str, Any]:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        images = (ids == self.model.config.image_token_id).int()
        side = self.grid(size)
        films = int(images.sum()) // self.tokens_of_film(size)
        grid = torch.tensor([[1, side, side]] * films, device=ids.device)
        # The model is not asked to do this itself: from embeddings alone it can't find rows and columns of images.
        rope, _ = self.model.model.get_rope_index(ids, images, image_grid_thw=grid, attention_mask=mask)
        return {
            "inputs_embeds": self.model.get_input_embeddings()(ids),
            "attention_mask": mask,
            # Row 0 counts text positions; rows 1 to 3 are time, height and width.
            "position_ids": torch.cat([positions(mask)[None], rope]),
            "mm_encoder_outputs": {"image": type(seen)(**seen)},  # a copy: generate repeats it in place for beams
        }

    def assemble(self, batch: dict[str, Tensor], visual_embeds: Tensor, visual_mask: Tensor) -> dict[str, Any]:
        inputs = super().assemble(batch, visual_embeds, visual_mask)
        return {**inputs, "position_ids": inputs["position_ids"].expand(4, -1, -1)}
