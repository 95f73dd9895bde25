"""The composed model: signals, injected modules, the language model, losses.

A new family of language models is a file in `hosts`; nobody else asks which family it is. Whoever trains, retrieves or
writes imports it; it imports composing and below.
"""
