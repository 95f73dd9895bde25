"""Let a CUDA build of torchvision import beside a CPU build of torch; import this before transformers or timm.

Such a pair is what a plain package index gives a machine without a GPU. torchvision's compiled operators can't load
there, and its import then fails on `operator torchvision::nms does not exist`. Declaring the two operators that its
Python code names is enough: we never call them.
"""

import importlib.util
import re
from pathlib import Path

import torch


def _built_for_cuda() -> bool:
    spec = importlib.util.find_spec("torchvision")  # finds the folder; runs none of its code
    if spec is None or spec.origin is None:
        return False
    return re.search(r"__version__ = '.*\+cu", (Path(spec.origin).parent / "version.py").read_text()) is not None


declared = None  # the declarations live as long as this object
if torch.version.cuda is None and _built_for_cuda():
    declared = torch.library.Library("torchvision", "DEF")
    declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
