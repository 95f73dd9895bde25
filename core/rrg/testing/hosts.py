"""Tiny random language models with the layers of the real ones, built in milliseconds."""

from typing import Any

import torch

import rrg._torchvision  # noqa: F401  before transformers

HOSTS = ("llama", "phi3", "qwen3", "qwen3-vl")
WIDTH, LAYERS, VOCABULARY = 24, 3, 320
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tiny_model(kind: str, seed: int = 0, width: int = WIDTH) -> Any:
    """A random model of `HOSTS`, in evaluation mode: LAYERS layers, wide enough weights that tokens differ.

    width: of its hidden states, a multiple of 6 or 8.
    """
    import transformers as t

    torch.manual_seed(seed)
    heads, spread = 3 if width % 6 == 0 else 4, 0.3 * (WIDTH / width) ** 0.5
    plain = {**TEXT, "hidden_size": width, "num_attention_heads": heads, "initializer_range": spread}
    if kind == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**plain, num_key_value_heads=heads)).eval()
    if kind == "phi3":
        return t.Phi3ForCausalLM(t.Phi3Config(**plain, num_key_value_heads=heads)).eval()
    text = {**plain, "num_key_value_heads": 1, "head_dim": 8}
    if kind == "qwen3":
        return t.Qwen3ForCausalLM(t.Qwen3Config(**text)).eval()
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    vision = {
        "depth": 3,
        "hidden_size": 12,
        "intermediate_size": 16,
        "num_heads": 1,
        "out_hidden_size": width,
        "patch_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": spread,
    }
    config = t.Qwen3VLConfig(
        text_config={**text, "vocab_size": 400, "rope_parameters": rope},
        vision_config=vision,
        vision_start_token_id=390,
        vision_end_token_id=391,
        image_token_id=392,
        video_token_id=393,
        initializer_range=spread,
    )
    return t.Qwen3VLForConditionalGeneration(config).eval()
