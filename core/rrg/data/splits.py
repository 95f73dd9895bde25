"""The published splits, and a draw by patient where a source has none."""

import random
from collections.abc import Collection

from rrg.data.study import SPLITS, Split

ANNOTATION = "annotation.json"
# Studies of R2Gen's selection, and films of its MIMIC-CXR annotation, one an item (Chen et al., EMNLP 2020); films of
# CXPMRG-Bench's (Wang et al., CVPR 2025).
PUBLISHED: dict[str, tuple[str, tuple[int, int, int]]] = {
    "IU X-Ray": ("studies", (2069, 296, 590)),
    "MIMIC-CXR": ("films", (270_790, 2130, 3858)),
    "CheXpert Plus": ("films", (40_463, 5780, 11_562)),
}
"""By collection: what is counted, and how many in train, val and test."""


def drawn(patients: Collection[str], seed: int) -> dict[str, Split]:
    """patient → split, 7:1:2; the order in which they come does not matter."""
    shuffled = sorted(set(patients))
    random.Random(seed).shuffle(shuffled)
    ends = [round(0.7 * len(shuffled)), round(0.8 * len(shuffled))]
    return {patient: SPLITS[sum(position >= end for end in ends)] for position, patient in enumerate(shuffled)}
