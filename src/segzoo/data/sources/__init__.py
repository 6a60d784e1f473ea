"""The layouts of pictures and masks in files: one module each, recognised by the contents of a folder.

To add a layout, add a module with `SOURCE = Source(...)` (see `cityscapes.py` for a small one) whose `find` returns a
`segzoo.data.pairing.FileSource`. Nothing else has to be changed.
"""

from __future__ import annotations

import importlib
import pkgutil

from segzoo.data.data_source import DataSource
from segzoo.data.folders import Folder
from segzoo.data.pairing import FileSource, Source

_modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
SOURCES: tuple[Source, ...] = tuple(sorted((module.SOURCE for module in _modules), key=lambda source: source.order))
"""The layouts in the order in which they are tried."""
LAYOUTS = "; ".join(source.layout for source in reversed(SOURCES))
"""All layouts in words, for messages: the layout of a user's own folder first."""
EXTENSIONS = tuple(source.extension for source in SOURCES if source.extension is not None)
"""Extensions of files that may be given instead of a folder."""


def find_source(folder: Folder, data: DataSource) -> FileSource | None:
    """The pictures and masks in a folder, or in the only folder inside it; None if no layout fits.

    Args:
        folder: the folder to look in.
        data: the source as the user described it.

    Raises:
        SegZooError: a part of a known data set is missing.
    """
    for source in SOURCES:
        found = source.find(folder, data)
        if found is not None:
            return found
    if len(folder.folders) == 1 and not folder.files:
        return find_source(next(iter(folder.folders.values())), data)
    return None
