"""Pascal VOC: JPEGImages, SegmentationClass and the lists in ImageSets/Segmentation."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from segzoo.data.data_source import DataSource
from segzoo.data.facts import DATASETS, DatasetFacts
from segzoo.data.folders import Folder
from segzoo.data.pairing import Listing, Source, SplitFiles, listed_stem, pair_by_list, single_files
from segzoo.errors import SegZooError

_YEARS = range(2012, 2006, -1)


@dataclass(frozen=True)
class PascalVoc:
    """One year of Pascal VOC; masks are palette PNGs whose indices are the ids, 255 at borders.

    Splits come from train.txt, val.txt and test.txt. If there is a folder SegmentationClassAug (the further masks of
    SBD), the train split is trainaug.txt, or without that list every mask in the folder that is not in val.txt.

    Attributes:
        folder: the folder of the year, such as VOC2012.
    """

    folder: Folder

    @property
    def facts(self) -> DatasetFacts:
        return DATASETS["pascal_voc"]

    def list_files(self) -> Listing:
        listing = Listing()
        images = single_files(self.folder.child("JPEGImages"))
        official = self.folder.child("SegmentationClass")
        labels = {} if official is None else single_files(official)
        further = self.folder.child("SegmentationClassAug")
        more = {} if further is None else single_files(further)
        known = {*images, *labels, *more}
        names = (("train", "train"), ("validation", "val"), ("test", "test"))
        lists = {split: self._list(name, known) for split, name in names}
        if further is not None:
            lists["train"] = self._list("trainaug", known) or sorted(more.keys() - set(lists["validation"] or ()))
            labels = {**more, **labels, **{stem: more[stem] for stem in lists["train"] if stem in more}}
        for split, stems in lists.items():
            if stems is None or (split == "test" and not labels.keys() & set(stems)):
                continue  # the benchmark keeps the masks of its test split
            listing.splits[split] = SplitFiles(place=self.folder.path)
            pair_by_list(listing, split, stems, images, labels)
        return listing

    def _list(self, name: str, known: Set[str]) -> list[str] | None:
        lists = self.folder.at("ImageSets/Segmentation")
        if f"{name}.txt" not in lists.files:
            return None
        lines = lists.read_names(f"{name}.txt")
        return [listed_stem(line, known) for line in lines if line.strip()]


def find_pascal_voc(folder: Folder, data: DataSource) -> PascalVoc | None:
    """Pascal VOC in a folder, in its VOCdevkit, or in a year inside either, the latest first; or None.

    Raises:
        SegZooError: a part of the data set is missing.
    """
    for root in (folder, folder.child("VOCdevkit")):
        for place in () if root is None else (root, *(root.child(f"VOC{year}") for year in _YEARS)):
            if place is not None and place.child("JPEGImages") is not None:
                return _checked(place)
    return None


def _checked(folder: Folder) -> PascalVoc | None:
    missing = [f for f in ("SegmentationClass", "ImageSets/Segmentation") if folder.at(f) is None]
    if missing == ["SegmentationClass"] and folder.child("SegmentationClassAug") is not None:
        missing = []
    if missing:
        raise SegZooError(
            f"{folder.path} looks like Pascal VOC, for it has JPEGImages, but {' and '.join(missing)} is not there. Unpack "
            "all of VOCtrainval, or rename the folder if it holds something else."
        )
    lists = folder.at("ImageSets/Segmentation").files
    if not {"train.txt", "val.txt", "trainaug.txt"} & lists.keys():
        raise SegZooError(f"{folder.path}/ImageSets/Segmentation has neither train.txt nor val.txt.")
    return PascalVoc(folder)


SOURCE = Source(
    layout="Pascal VOC (VOCdevkit/VOC2012 with JPEGImages, SegmentationClass and ImageSets/Segmentation)",
    find=find_pascal_voc,
    order=30,
)
