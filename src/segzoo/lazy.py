"""Package attributes that are imported on first use, so that a package costs only what is used of it."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence


def lazy_attributes(package: str, names_of_modules: Mapping[str, Sequence[str]]) -> tuple[Callable, Callable]:
    """The ``__getattr__`` and ``__dir__`` of a package whose names live in its modules.

    Args:
        package: the package's ``__name__``.
        names_of_modules: for each module of the package, the names that the package offers from it.
    """
    where = {name: module for module, names in names_of_modules.items() for name in names}

    def get(name: str):
        if name in where:
            return getattr(importlib.import_module(f"{package}.{where[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *where})

    return get, names
