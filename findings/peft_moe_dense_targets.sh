#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0: LoRA on a mixture of experts that has dense first layers or shared experts.
# Expected: target_modules=["gate_proj", "up_proj", "down_proj"] adapts every linear layer of those names.
# Happens: the names are rewritten to the routed experts' fused parameters; the linear layers that still bear them
# (the dense layers', the shared experts') get no adapter, and no error or warning names them. Targets that name
# the shared experts alone, as a list (peft's issue 3711) or as a regular expression, land on the routed experts.
# LoHa, which is not rewritten, finds all nine layers by the same list.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0 peft==0.21.2

HF_HUB_OFFLINE=1 HF_HOME="$tmp/hf" "$tmp/venv/bin/python" - <<'PY'
import warnings

import peft
import torch
import transformers
from peft import LoHaConfig, LoraConfig, get_peft_model
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

NAMES = ["gate_proj", "up_proj", "down_proj"]
CONFIG = Glm4MoeConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, n_routed_experts=4, num_experts_per_tok=2,
    n_shared_experts=1, first_k_dense_replace=1,
)  # fmt: skip


def adapted(peft_config):
    """The modules of a new model that carry an adapter, and the warnings given."""
    model = Glm4MoeForCausalLM(CONFIG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = get_peft_model(model, peft_config).get_base_model()
    found = [n for n, m in model.named_modules() if getattr(m, "lora_A", None) or getattr(m, "hada_w1_a", None)]
    return found, [str(w.message) for w in caught]


print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
linear = [
    n
    for n, m in Glm4MoeForCausalLM(CONFIG).named_modules()
    if isinstance(m, torch.nn.Linear) and n.endswith(tuple(NAMES))
]
print(f"{len(linear)} linear layers of those names:", *linear, sep="\n  ")
assert len(linear) == 9

loha, _ = adapted(LoHaConfig(target_modules=NAMES, r=2))
print("LoHa adapts", len(loha), "of them")
assert loha == linear

shared = [f"shared_experts.{n}" for n in NAMES]
pattern = r".*\.shared_experts\.(gate|up|down)_proj"
for targets in (NAMES, shared, pattern):
    found, said = adapted(LoraConfig(target_modules=targets, r=2))
    hits = len(set(found) & set(linear))
    print(f"LoRA {targets} adapts {hits} of them; adapters are on:", *found, sep="\n  ")
    assert found and not set(found) & set(linear)
    assert all(".mlp.experts" in name for name in found)
    assert not any("shared_experts" in text or "layers.0" in text for text in said), said
PY
