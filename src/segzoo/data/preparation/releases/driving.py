"""Cityscapes, and the sets in bad weather and at night that have its classes."""

from __future__ import annotations

from collections.abc import Iterator

from segzoo.data.label_encodings import CITYSCAPES_LABEL_IDS
from segzoo.data.preparation.content import Content, StoredIds
from segzoo.data.preparation.release import Files, Item, Release, pair

_STORED_AS_LABEL_IDS = StoredIds(CITYSCAPES_LABEL_IDS.ids, CITYSCAPES_LABEL_IDS.other)


def _cityscapes(files: Files) -> Iterator[Item]:
    for part, folder in (("train", "train"), ("validation", "val")):
        place = rf"{folder}/[^/]+/(?P<name>[^/]+)"
        pictures = files.by_name(rf"leftImg8bit/{place}_leftImg8bit\.png", what=f"{part} pictures")
        masks = files.by_name(rf"gtFine/{place}_gtFine_labelIds\.png", what=f"{part} masks")
        yield from pair(part, pictures, {name: Content(file, _STORED_AS_LABEL_IDS) for name, file in masks.items()})


def _dark_zurich(files: Files) -> Iterator[Item]:
    place = r"val/night/[^/]+/(?P<name>[^/]+)"
    pictures = files.by_name(rf"rgb_anon/{place}_rgb_anon\.png", what="validation pictures")
    masks = files.by_name(rf"gt/{place}_gt_labelTrainIds\.png", what="validation masks")
    yield from pair("validation", pictures, {name: Content(file, StoredIds()) for name, file in masks.items()})


def _night_driving(files: Files) -> Iterator[Item]:
    place = r"test/night/(?:[^/]+/)*(?P<name>[^/]+)"
    pictures = files.by_name(rf"leftImg8bit/{place}_leftImg8bit\.png", what="test pictures")
    masks = files.by_name(rf"{place}_gtCoarse_labelTrainIds\.png", what="test masks")
    yield from pair("test", pictures, {name: Content(file, StoredIds()) for name, file in masks.items()})


def _acdc(files: Files) -> Iterator[Item]:
    # The same place in clear weather is in folders of other names, such as train_ref.
    for part, folder in (("train", "train"), ("validation", "val"), ("test", "test")):
        place = rf"(?P<name>(?:fog|night|rain|snow)/{folder}/[^/]+/[^/]+)"
        pictures = files.by_name(rf"rgb_anon/{place}_rgb_anon\.png", what=f"{part} pictures")
        if part == "test":  # its masks are with the benchmark
            items = (Item(part, name, picture) for name, picture in pictures.items())
        else:
            masks = files.by_name(rf"gt/{place}_gt_labelTrainIds\.png", what=f"{part} masks")
            items = pair(part, pictures, {name: Content(file, StoredIds()) for name, file in masks.items()})
        for item in items:
            condition, *_, frame = item.stem.split("/")
            yield item.renamed(f"{condition}_{frame}")


RELEASES = (
    Release("acdc", _acdc),
    Release("cityscapes", _cityscapes),
    Release("dark_zurich", _dark_zurich),
    Release("night_driving", _night_driving),
)
