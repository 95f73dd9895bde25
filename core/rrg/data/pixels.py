"""What readers of films share: how many pixels one may have, and how colours become grey."""

import numpy as np

MAX_PIXELS = 64_000_000  # four times those of the largest detectors (about 4,300 × 3,500)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow
