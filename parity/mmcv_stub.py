"""Lets mmsegmentation and mmdetection load with mmcv-lite, which lacks mmcv's compiled operations.

The operations that mmdetection's detectors need, NMS and RoIAlign, are torchvision's (parity/mmcv_ops.py). All other
operations are empty classes, which nothing here calls.
"""

import importlib.machinery
import sys
import types

_MODULES = ("mmcv._ext", "mmcv.ops")
# Modules of mmcv.ops that mmdetection imports.
_SUBMODULES = ("carafe", "merge_cells", "modulated_deform_conv", "multi_scale_deform_attn", "nms", "roi_align")


def install() -> None:
    """Replaces mmcv's modules of compiled operations; call it before `mmseg` or `mmdet` is imported."""
    if "mmcv.ops" in sys.modules:
        return
    for name in (*_MODULES, *(f"mmcv.ops.{name}" for name in _SUBMODULES)):
        sys.modules[name] = _Stub(name)
    from parity import mmcv_ops  # imported here, because it loads PyTorch and torchvision

    for module in ("mmcv.ops", "mmcv.ops.nms", "mmcv.ops.roi_align"):
        for name in ("batched_nms", "nms", "roi_align", "RoIAlign"):
            setattr(sys.modules[module], name, getattr(mmcv_ops, name))


class _Stub(types.ModuleType):
    """A module in which each other name is an empty class."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
