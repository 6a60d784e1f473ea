"""The layouts in which pictures and masks lie in files: one module each, found by what lies in a folder.

To add a layout, add a module with `SOURCE = Source(...)` (see `cityscapes.py` for a small one) whose `find` gives a
`segzoo.data.pairing.FileSource`. Nothing else has to be touched.
"""

from __future__ import annotations

import importlib
import pkgutil

from segzoo.data.data_source import DataSource
from segzoo.data.folders import Folder
from segzoo.data.pairing import FileSource, Source

_modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
SOURCES: tuple[Source, ...] = tuple(sorted((module.SOURCE for module in _modules), key=lambda source: source.order))
"""In the order in which they are tried."""
LAYOUTS = "; ".join(source.layout for source in reversed(SOURCES))
"""What is looked for in a folder, in words: the layout of a user's own folder first."""
EXTENSIONS = tuple(source.extension for source in SOURCES if source.extension is not None)
"""Of files that stand for a folder."""


def find_source(folder: Folder, data: DataSource) -> FileSource | None:
    """The pictures and masks in a folder, or in the only folder inside it (such as the one that an archive wraps around).

    Args:
        folder: Where to look.
        data: What the user said of the data.

    Raises:
        SegZooError: It is a known data set with a part missing.
    """
    for source in SOURCES:
        found = source.find(folder, data)
        if found is not None:
            return found
    if len(folder.folders) == 1 and not folder.files:
        return find_source(next(iter(folder.folders.values())), data)
    return None
