"""Lets OpenMMLab's packages load with mmcv-lite, which lacks mmcv's compiled operations; nothing here calls them."""

import importlib.machinery
import sys
import types

_NAME = "mmcv._ext"


def install() -> None:
    """Replaces mmcv's module of compiled operations; call it before `mmseg` or `mmdet` is imported."""
    sys.modules.setdefault(_NAME, _Stub(_NAME))


class _Stub(types.ModuleType):
    """A module in which each name is an empty class."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
