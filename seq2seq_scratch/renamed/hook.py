"""Lets old names of modules and of their contents work for one release, with one warning that says the new name.

The packages do not import each other, and each has this file; a test compares them.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any


class RenamedModules(MetaPathFinder, Loader):
    """Imports the modules of a package under their old names. Both names give the same module.

    Args:
        package: the name of the package.
        modules: the new names of modules by their old names, within the package.
    """

    def __init__(self, package: str, modules: Mapping[str, str]):
        self.modules = {f"{package}.{old}": f"{package}.{new}" for old, new in modules.items()}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in self.modules:
            return None
        new = self.modules[fullname]
        warn(fullname, new)
        # The new name lets `python -m` resolve the module's relative imports.
        return ModuleSpec(new, self, loader_state=fullname)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name)
        self.own_spec = module.__spec__
        sys.modules[spec.loader_state] = module
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own_spec  # the import system has replaced it by the spec of the old name

    def get_code(self, fullname: str) -> CodeType:
        """Returns the code that `python -m` runs."""
        spec = importlib.util.find_spec(self.modules[fullname])
        return spec.loader.get_code(spec.name)


def understand_names(package: str, names: Mapping[str, Mapping[str, str]]) -> None:
    """Gives modules a `__getattr__` for names that have moved to other modules.

    Args:
        package: the name of the package.
        names: for each module, the names that have moved, with the module that each has moved to.
    """
    for module_name, moved in names.items():
        module = importlib.import_module(f"{package}.{module_name}")

        def get(name: str, module: ModuleType = module, moved: Mapping[str, str] = moved) -> Any:
            if name not in moved:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            new = f"{package}.{moved[name]}"
            warn(f"{module.__name__}.{name}", f"{new}.{name}")
            value = getattr(importlib.import_module(new), name)
            setattr(module, name, value)  # the next access does not call this function
            return value

        module.__getattr__ = get


def warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name will be removed in version 0.3.", FutureWarning, stacklevel=3)
