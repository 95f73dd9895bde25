#!/usr/bin/env bash
# transformers 5.23.0: DINOv3ConvNextModel.
# Expected: last_hidden_state is a map (films, channels, height, width), as ConvNext's and ConvNextV2's is.
# Happens: it is a sequence (films, 1 + height * width, channels) whose first token is the pooled map, as if of a
# vision transformer. Code that takes every token for a region counts one region too many, and a height * width
# read off the length fails or is wrong. hidden_states[0] is the film itself, where the others give the stem's
# map. The last map is hidden_states[-1], before the last norm.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0

HF_HUB_OFFLINE=1 HF_HOME="$tmp/hf" "$tmp/venv/bin/python" - <<'PY'
import torch
import transformers
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    ConvNextV2Config,
    ConvNextV2Model,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
)

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)
films = torch.randn(2, 3, 96, 64)
shape = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
seen = {}
for model in (
    ConvNextModel(ConvNextConfig(**shape)),
    ConvNextV2Model(ConvNextV2Config(**shape)),
    DINOv3ConvNextModel(DINOv3ConvNextConfig(**shape)),
):
    with torch.no_grad():
        out = model.eval()(films, output_hidden_states=True)
    name = type(model).__name__
    seen[name] = tuple(out.last_hidden_state.shape)
    print(f"{name:20} last_hidden_state {seen[name]} hidden_states[0] {tuple(out.hidden_states[0].shape)}")

assert seen["ConvNextModel"] == seen["ConvNextV2Model"] == (2, 16, 3, 2)
assert seen["DINOv3ConvNextModel"] == (2, 1 + 3 * 2, 16)

tokens, last = out.last_hidden_state, out.hidden_states[-1]  # of DINOv3ConvNextModel
assert torch.equal(tokens[:, 0], out.pooler_output)
assert torch.allclose(tokens[:, 0], model.layer_norm(last.mean((2, 3))), atol=1e-5)
assert torch.allclose(tokens[:, 1:], model.layer_norm(last.flatten(2).transpose(1, 2)), atol=1e-5)
assert torch.equal(out.hidden_states[0], films)
print("its first token is the normed mean of the map; its other 6 are the map's places; hidden_states[0] is the film")
PY
