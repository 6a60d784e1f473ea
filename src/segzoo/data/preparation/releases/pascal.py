"""Pascal VOC 2012 with the masks of SBD, and Pascal Context."""

from __future__ import annotations

from collections.abc import Iterator

from segzoo.data.preparation.content import Content, MatlabIds, StoredIds, content_of
from segzoo.data.preparation.release import Files, Item, Release, names_in, pair

_VOC_IDS = StoredIds({**{label: label for label in range(21)}, 255: 255})
_SBD_IDS = MatlabIds(("GTcls", "Segmentation"), _VOC_IDS.table)

# The 59 classes by the numbers of Pascal Context's 459 (labels.txt); all others are background, 0.
_CONTEXT = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159),
    *(162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368),
    *(397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)


def _names(files: Files, year: int, place: str) -> list[str]:
    return names_in(content_of(files.the(rf"VOC{year}/ImageSets/{place}\.txt", what=f"the list {place}.txt")))


def _pascal_voc_aug(files: Files) -> Iterator[Item]:
    pictures = files.by_name(r"VOC2012/JPEGImages/(?P<name>[^/]+)\.jpg", what="pictures")
    drawn = files.by_name(r"VOC2012/SegmentationClass/(?P<name>[^/]+)\.png", what="masks of VOC")
    added = files.by_name(r"cls/(?P<name>[^/]+)\.mat", what="masks of SBD")
    train, validation = (_names(files, 2012, f"Segmentation/{part}") for part in ("train", "val"))
    # Where both drew a picture, VOC's own mask counts; what VOC tests on is never trained on.
    masks = {name: Content(file, _SBD_IDS) for name, file in added.items()}
    masks |= {name: Content(drawn[name], _VOC_IDS) for name in (*train, *validation) if name in drawn}
    names = sorted({*train, *added} - set(validation))
    yield from pair("train", pictures, masks, names)
    yield from pair("validation", pictures, masks, validation)


def _pascal_context(files: Files) -> Iterator[Item]:
    """Ids 1..59, and 0 for background; Pascal Context 59 leaves the background out by its label rule."""
    table = {stored: label for label, stored in enumerate(_CONTEXT, start=1)}
    decode = MatlabIds(("LabelMap",), table, other=0)
    pictures = files.by_name(r"VOC2010/JPEGImages/(?P<name>[^/]+)\.jpg", what="pictures")
    masks = files.by_name(r"trainval/(?P<name>\d+_\d+)\.mat", what="masks")
    drawn = {name: Content(file, decode) for name, file in masks.items()}
    for part, place in (("train", "Main/train"), ("validation", "Main/val")):
        # All 10,103 pictures of VOC 2010's main lists were drawn.
        yield from pair(part, pictures, drawn, _names(files, 2010, place))


RELEASES = (
    Release("pascal_voc_aug", _pascal_voc_aug),
    *(Release(name, _pascal_context) for name in ("pascal_context_59", "pascal_context_60")),
)
