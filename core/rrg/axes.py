"""Sizes that are known when a piece is built."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Axes:
    """host: the language model's hidden width. layers: its decoder layers. vision: width of `patch_tokens`
    (0 until its provider is built). image: height and width of films, in pixels. diseases: observations.
    language: width of the text encoder's vectors (0 until it is built, and where there is none).
    """

    host: int
    layers: int
    image: int
    vision: int = 0
    diseases: int = 14
    language: int = 0
