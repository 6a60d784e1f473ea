"""Pascal VOC 2012 with the masks of SBD, and Pascal Context."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from segzoo.data.preparation.content import Content, MatlabIds, Regions, StoredIds, content_of
from segzoo.data.preparation.release import Files, Item, Release, names_in, pair
from segzoo.errors import SegZooError, first_line
from segzoo.images.archives import readable

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
    pictures = files.by_name(r"VOC2010/JPEGImages/(?P<name>[^/]+)\.jpg", what="pictures")
    # The models of the zoo were trained on masks from PASCAL in Detail's file, which drops three pictures.
    if any(True for _ in files.matching(_DETAIL)):
        yield from _of_detail(files.the(_DETAIL, what="the annotations"), pictures, table)
        return
    decode = MatlabIds(("LabelMap",), table, other=0)
    masks = files.by_name(r"trainval/(?P<name>\d+_\d+)\.mat", what="masks (or trainval_merged.json)")
    drawn = {name: Content(file, decode) for name, file in masks.items()}
    for part, place in (("train", "Main/train"), ("validation", "Main/val")):
        # All 10,103 pictures of VOC 2010's main lists were drawn.
        yield from pair(part, pictures, drawn, _names(files, 2010, place))


_DETAIL = r"trainval_merged\.json"


def _of_detail(address: str, pictures: Mapping[str, str], table: Mapping[int, int]) -> Iterator[Item]:
    """Pictures and masks in the annotations of PASCAL in Detail, which divide them by themselves.

    Raises:
        SegZooError: the file is not such annotations, or pictures are missing.
    """
    regions: dict[int, list[tuple[int, str]]] = {}
    parts: dict[str, dict[str, Regions]] = {"train": {}, "val": {}}
    try:
        content = json.loads(content_of(address))
        for entry in content["annos_segmentation"]:
            counts = entry["segmentation"]["counts"]
            if not isinstance(counts, str):
                raise TypeError("a region is not in COCO's compressed form")
            regions.setdefault(entry["image_id"], []).append((table.get(entry["category_id"], 0), counts))
        for entry in content["images"]:
            drawn = Regions(address, (entry["height"], entry["width"]), tuple(regions.get(entry["image_id"], ())))
            parts.get(entry["phase"], {})[entry["file_name"].removesuffix(".jpg")] = drawn
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SegZooError(
            f"{readable(address)}: no annotations of PASCAL in Detail ({type(error).__name__}: {first_line(error)}); "
            "download it again, or take trainval.tar.gz"
        ) from None
    del content
    for part, phase in (("train", "train"), ("validation", "val")):
        yield from pair(part, pictures, parts[phase], sorted(parts[phase]))


RELEASES = (
    Release("pascal_voc_aug", _pascal_voc_aug),
    *(Release(name, _pascal_context) for name in ("pascal_context_59", "pascal_context_60")),
)
