"""Where studies get their split from: R2Gen's annotation.json, or a draw by patient."""

import json
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rrg.data.study import SPLITS, Split
from rrg.errors import DataError

ANNOTATION = "annotation.json"
MAX_ANNOTATION_BYTES = 1 << 30
# Studies of R2Gen's selection, and films of its MIMIC-CXR annotation, one an item (Chen et al., EMNLP 2020); films of
# CXPMRG-Bench's (Wang et al., CVPR 2025).
PUBLISHED: dict[str, tuple[str, tuple[int, int, int]]] = {
    "IU X-Ray": ("studies", (2069, 296, 590)),
    "MIMIC-CXR": ("films", (270_790, 2130, 3858)),
    "CheXpert Plus": ("films", (40_463, 5780, 11_562)),
}
"""By collection: what is counted, and how many in train, val and test."""


def listed(path: Path) -> Iterator[tuple[str, Split, Any]]:
    """(where, split, raw item) of an annotation.json. Raises DataError where it as a whole is not R2Gen's layout."""
    if path.stat().st_size > MAX_ANNOTATION_BYTES:
        raise DataError(f"{path}: larger than {MAX_ANNOTATION_BYTES >> 30} GiB, which is refused")
    try:
        annotation = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not (isinstance(annotation, dict) and all(isinstance(annotation.get(split), list) for split in SPLITS)):
        raise DataError(f"{path}: expected an object with the lists {', '.join(SPLITS)}, as R2Gen writes it")
    for split in SPLITS:
        for number, item in enumerate(annotation[split]):
            yield f"{path.name} {split}[{number}]", split, item


def drawn(patients: Collection[str], seed: int) -> dict[str, Split]:
    """patient → split, 7:1:2; the order in which they come does not matter."""
    shuffled = sorted(set(patients))
    random.Random(seed).shuffle(shuffled)
    ends = [round(0.7 * len(shuffled)), round(0.8 * len(shuffled))]
    return {patient: SPLITS[sum(position >= end for end in ends)] for position, patient in enumerate(shuffled)}
