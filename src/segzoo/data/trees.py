"""The tree in which mmsegmentation reads a known data set, for data that was prepared for it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from segzoo.data.facts import DatasetFacts
from segzoo.data.folders import open_folder
from segzoo.data.pairing import (
    Listing,
    SplitFiles,
    files_by_stem,
    listed_stem,
    pair_by_list,
    pair_by_stem,
    settle,
    single_files,
)

if TYPE_CHECKING:
    from datasets import Dataset


def rows_of_tree(path: Path, facts: DatasetFacts, split: str) -> Dataset | None:
    """The pictures and masks of one part of a data set in mmsegmentation's tree of it.

    Args:
        path: the folder that the facts' paths begin at.
        facts: the data set.
        split: "train", "validation" or "test".

    Returns:
        a table as `segzoo.data.load_source` makes it; None if the folder has no such tree, or the part no masks.

    Raises:
        SegZooError: pictures and masks do not pair up.
    """
    part = facts.splits.get(split)
    if part is None or part.images is None or part.masks is None or not path.is_dir():
        return None
    root = open_folder(path)
    images, labels = root.at(part.images), root.at(part.masks)
    if images is None or labels is None:
        return None
    masks = files_by_stem(labels, facts.mask_suffix.rpartition(".")[0])
    if not masks:
        return None
    listing = Listing()
    listing.splits[split] = SplitFiles(place=images.path)
    if part.image_list is None:
        pair_by_stem(listing, split, files_by_stem(images, facts.image_suffix.rpartition(".")[0]), masks)
    else:
        file = PurePosixPath(part.image_list)
        place = root if file.parent == PurePosixPath() else root.at(str(file.parent))
        if place is None or file.name not in place.files:
            return None
        pictures, masks = single_files(images), single_files(labels)
        known = pictures.keys() | masks
        stems = [listed_stem(line, known) for line in place.read_names(file.name) if line.strip()]
        pair_by_list(listing, split, stems, pictures, masks)
    return settle(listing, str(path), strict=True, on_problem=None)[split]
