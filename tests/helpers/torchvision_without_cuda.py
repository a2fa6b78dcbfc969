"""Lets a torchvision that was built for CUDA load beside a torch without it: two operators must be declared first.

``tests/vllm.sh`` copies this file into its environment, where a ``.pth`` file imports it as Python starts.
"""

import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    library: object = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        import torch

        if torch.version.cuda is None:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            # what it declares goes with it
            _BeforeTorchvision.library = library


sys.meta_path.insert(0, _BeforeTorchvision())
