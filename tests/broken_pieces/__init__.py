"""A tiny broken piece for each check of the contract suite, and the sound ones that they are made of."""

from broken_pieces import stages  # noqa: F401  (it fills the table)
from broken_pieces.encoders import Heads
from broken_pieces.injectors import Shift
from broken_pieces.losses import Loss
from broken_pieces.retrievers import Retriever
from broken_pieces.table import BROKEN, TAMPERED

__all__ = ["BROKEN", "TAMPERED", "Heads", "Loss", "Retriever", "Shift"]
