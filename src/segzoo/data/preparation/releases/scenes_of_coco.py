"""COCO-Stuff 10k and 164k."""

from __future__ import annotations

from collections.abc import Iterator

from segzoo.data.preparation.content import Content, MatlabIds, StoredIds, content_of
from segzoo.data.preparation.release import Files, Item, Release, names_in, pair

# Of COCO's 91 ids of things, counted from 1, these stand for nothing.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
_USED = [stored for stored in range(1, 183) if stored not in _UNUSED]

OF_10K = {0: 0, **{stored: label for label, stored in enumerate(_USED, start=1)}}
"""Ids 1..171 by those of the 10k release, where 0 is "unlabelled"."""
OF_164K = {stored - 1: label for label, stored in enumerate(_USED)}
"""Ids 0..170 by those of the 164k release, which counts from 0."""


def _coco_stuff_10k(files: Files) -> Iterator[Item]:
    pictures = files.by_name(r"images/(?P<name>COCO_[^/]+)\.jpg", what="pictures")
    masks = files.by_name(r"annotations/(?P<name>COCO_[^/]+)\.mat", what="masks")
    drawn = {name: Content(file, MatlabIds(("S",), OF_10K)) for name, file in masks.items()}
    for part in ("train", "test"):
        names = names_in(content_of(files.the(rf"imageLists/{part}\.txt", what=f"the list of the {part} part")))
        yield from pair(part, pictures, drawn, names)


def _coco_stuff_164k(files: Files) -> Iterator[Item]:
    for part, folder in (("train", "train2017"), ("validation", "val2017")):
        pictures = files.by_name(rf"{folder}/(?P<name>\d+)\.jpg", what=f"{part} pictures")
        masks = files.by_name(rf"{folder}/(?P<name>\d+)\.png", what=f"{part} masks")
        yield from pair(
            part, pictures, {name: Content(file, StoredIds(OF_164K, other=255)) for name, file in masks.items()}
        )


RELEASES = (
    Release("coco_stuff_10k", _coco_stuff_10k),
    Release("coco_stuff_164k", _coco_stuff_164k),
)
