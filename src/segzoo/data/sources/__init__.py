"""Where data sets come from: one module for each kind of source, found by what lies in a folder.

A source of files lists pairs of picture and mask (`FileSource`); what the `datasets` library reads is in `tables`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segzoo.data.sources.camvid import LAYOUT as _CAMVID
from segzoo.data.sources.camvid import find_camvid
from segzoo.data.sources.cityscapes import LAYOUT as _CITYSCAPES
from segzoo.data.sources.cityscapes import find_cityscapes
from segzoo.data.sources.folders import Folder
from segzoo.data.sources.odgt import LAYOUT as _ODGT
from segzoo.data.sources.odgt import find_odgt
from segzoo.data.sources.pair_folders import LAYOUT as _PAIRS
from segzoo.data.sources.pair_folders import find_pair_folders
from segzoo.data.sources.pairing import FileSource
from segzoo.data.sources.pascal_voc import LAYOUT as _VOC
from segzoo.data.sources.pascal_voc import find_pascal_voc
from segzoo.data.sources.tables import LAYOUT as _TABLES

LAYOUTS = "; ".join((_PAIRS, _CITYSCAPES, _VOC, _CAMVID, _ODGT, _TABLES))
"""What is looked for in a folder, in words."""


def find_source(
    folder: Folder, *, image_suffix: str = "", label_suffix: str = "", data_root: Path | None = None
) -> FileSource | None:
    """The source of files in a folder, or in the only folder inside it (such as the one that an archive wraps around).

    Args:
        folder: Where to look.
        image_suffix, label_suffix: For a user's own folder, see `PairFolders`.
        data_root: For lists, see `OdgtLists`.

    Raises:
        SegZooError: It is a known data set with a part missing.
    """
    finders: tuple[Callable[[Folder], FileSource | None], ...] = (
        lambda place: find_odgt(place, data_root),
        find_cityscapes,
        find_pascal_voc,
        find_camvid,
        lambda place: find_pair_folders(place, image_suffix, label_suffix),
    )
    for find in finders:
        source = find(folder)
        if source is not None:
            return source
    if len(folder.folders) == 1 and not folder.files:
        return find_source(
            next(iter(folder.folders.values())),
            image_suffix=image_suffix,
            label_suffix=label_suffix,
            data_root=data_root,
        )
    return None
