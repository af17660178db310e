"""Registers with transformers when the outermost import of a transformers or hfvision module of this thread has ended.

Not sooner, because transformers imports its auto modules while other modules of its own are still half made, and not
by importing transformers here, because `import hfvision` alone must stay free.
"""

import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from hfvision import registry

_PACKAGES = ("transformers.", "hfvision.")


class _Depth(threading.local):
    imports = 0  # imports of these packages under way in this thread


_depth = _Depth()


class RegisteringFinder:
    """Finds modules as the other finders do, and has their import counted."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(_PACKAGES):
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        spec = next((spec for finder in finders if (spec := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            _count_import(spec)
        return spec


def _count_import(spec: ModuleSpec) -> None:
    """Wrap the loader's exec_module on the instance, for one use: a substitute loader would break `python -m`."""
    loader = spec.loader
    assert loader is not None
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        del loader.__dict__["exec_module"]
        _depth.imports += 1
        try:
            execute(module)
        finally:
            _depth.imports -= 1
        register_if_outermost()

    loader.__dict__["exec_module"] = exec_module


def register_if_outermost() -> None:
    if _depth.imports:
        return
    _depth.imports += 1  # what registering imports does not register again
    try:
        registry.register_imported()
    finally:
        _depth.imports -= 1


def install() -> None:
    """Watch imports from now on, and register at once with what is imported already."""
    sys.meta_path.insert(0, RegisteringFinder())
    register_if_outermost()
