"""The order of training: shuffled anew every epoch, studies with reports of like length in one batch."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

POOL = 32  # batches that are sorted by length together


class LengthGrouped(Sampler[int]):
    """Indices of an epoch, a function of (seed, epoch) alone, so that a resumed run sees the same order.

    Shuffled studies are taken in pools of 32 batches, each pool is sorted by length and its batches shuffled: batches
    hold little padding and stay random.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.batch_size
        batches = []
        for start in range(0, len(order), size * POOL):
            pool = sorted(order[start : start + size * POOL], key=self.lengths.__getitem__)
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        short = [b for b in batches if len(b) < size]  # the odd ones come last, else they'd shift every batch behind
        full = [b for b in batches if len(b) == size]
        for i in torch.randperm(len(full), generator=generator).tolist():
            yield from full[i]
        for batch in short:
            yield from batch
