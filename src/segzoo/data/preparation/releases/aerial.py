"""Pictures from the air: LoveDA, Potsdam, Vaihingen, iSAID. The last three are cut into tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from segzoo.data.facts import DATASETS
from segzoo.data.preparation.content import Colours, Content, StoredIds
from segzoo.data.preparation.release import Files, Item, Release, pair
from segzoo.data.preparation.tiling import Tiling, left_top_right_bottom, top_bottom_left_right

POTSDAM_TILES = Tiling(512, 512, left_top_right_bottom)
"""mmsegmentation's stride of 256 changes only how many positions are tried; distinct tiles lie 512 apart."""
ISAID_TILES = Tiling(896, 896 - 384, top_bottom_left_right, pad=True)

# Which areas are for training is mmsegmentation's choice.
_POTSDAM = {
    "train": "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_7 6_8 6_9 6_10 6_11 6_12 7_7 7_8 7_9 7_10 "
    "7_11 7_12",
    "validation": "2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13",
}
_VAIHINGEN = {
    "train": "1 3 5 7 11 13 15 17 21 23 26 28 30 32 34 37",
    "validation": "2 4 6 8 10 12 14 16 20 22 24 27 29 31 33 35 38",
}


def _loveda(files: Files) -> Iterator[Item]:
    for part, folder in (("train", "Train"), ("validation", "Val"), ("test", "Test")):
        place = rf"{folder}/(?:Rural|Urban)"
        pictures = files.by_name(rf"{place}/images_png/(?P<name>[^/]+)\.png", what=f"{folder} pictures")
        if part == "test":  # its masks are with the benchmark
            yield from (Item(part, name, picture) for name, picture in pictures.items())
            continue
        masks = files.by_name(rf"{place}/masks_png/(?P<name>[^/]+)\.png", what=f"{folder} masks")
        yield from pair(part, pictures, {name: Content(file, StoredIds()) for name, file in masks.items()})


def _areas(
    pictures: Mapping[str, str], masks: Mapping[str, str], parts: Mapping[str, str], name: str
) -> Iterator[Item]:
    """Areas with masks in the colours of a data set, cut into tiles; ids are 1..6, and 0 for all other colours."""
    palette = DATASETS[name].palette
    decode = Colours({colour: label for label, colour in enumerate(palette, start=1)}, other=0)
    drawn = {area: Content(file, decode) for area, file in masks.items()}
    for part, areas in parts.items():
        yield from pair(part, pictures, drawn, areas.split(), tiling=POTSDAM_TILES)


def _potsdam(files: Files) -> Iterator[Item]:
    area = r"top_potsdam_(?P<name>\d+_\d+)"
    pictures = files.by_name(rf"{area}_RGB\.tif", what="pictures (RGB)")
    masks = files.by_name(rf"{area}_label_noBoundary\.tif", what="masks without boundaries")
    yield from _areas(pictures, masks, _POTSDAM, "potsdam")


def _vaihingen(files: Files) -> Iterator[Item]:
    area = r"top_mosaic_09cm_area(?P<name>\d+)"
    pictures = files.by_name(rf"top/{area}\.tif", what="pictures")
    masks = files.by_name(rf"{area}_noBoundary\.tif", what="masks without boundaries")
    for item in _areas(pictures, masks, _VAIHINGEN, "vaihingen"):
        yield item.renamed(f"area{item.stem}")


def _isaid(files: Files) -> Iterator[Item]:
    # As for mmsegmentation, what has no class's colour is background.
    decode = Colours({colour: label for label, colour in enumerate(DATASETS["isaid"].palette)}, other=0)
    for part, folder in (("train", "train"), ("validation", "val")):
        # The pictures are DOTA's, P0000.png; the masks end in _instance_color_RGB.
        pictures = files.by_name(rf"{folder}/(?:[^/]+/)*(?P<name>P\d+)\.png", what=f"{part} pictures")
        masks = files.by_name(rf"{folder}/(?:[^/]+/)*(?P<name>P\d+)_instance_color_RGB\.png", what=f"{part} masks")
        drawn = {name: Content(file, decode) for name, file in masks.items()}
        yield from pair(part, pictures, drawn, tiling=ISAID_TILES)
    # DOTA's test pictures, where they are here, stay whole: results are handed in for whole pictures.
    for found, picture in files.matching(r"test/(?:[^/]+/)*(?P<name>P\d+)\.png"):
        yield Item("test", found["name"], picture)


RELEASES = (
    Release("loveda", _loveda),
    Release("potsdam", _potsdam),
    Release("vaihingen", _vaihingen),
    Release("isaid", _isaid),
)
