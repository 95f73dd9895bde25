"""Batches: films decoded ahead of the model, prompts filled in, texts for training.

Training, retrieval and generation import it; it imports data, model and composing.
"""
