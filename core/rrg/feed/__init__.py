"""Batches: films decoded ahead of the model, prompts filled in, texts for training.

`batch` holds studies and the prompt, `texts` what training alone shows and the training batch, `stream` the workers.
Whatever stands above it in docs/architecture.md may import it; it may import what stands below.
"""
