"""Cityscapes: leftImg8bit/{split}/{city} beside gtFine/{split}/{city}, unpacked or as the two official archives."""

from __future__ import annotations

from dataclasses import dataclass

from segzoo.data.data_source import DataSource
from segzoo.data.facts import DATASETS, DatasetFacts
from segzoo.data.folders import Folder
from segzoo.data.label_encodings import CITYSCAPES_LABEL_IDS
from segzoo.data.pairing import Listing, Source, SplitFiles, files_by_stem, pair_by_stem
from segzoo.errors import SegZooError

_IMAGES, _LABELS = "leftImg8bit", "gtFine"
_SPLITS = {"train": "train", "validation": "val"}


@dataclass(frozen=True)
class Cityscapes:
    """The fine annotations of the splits train and val.

    Masks `*_labelTrainIds.png` are used where a split has any; otherwise `*_labelIds.png`, whose ids are mapped to the
    19 classes. The test split is left out, because its published masks are blank.

    Attributes:
        images, labels: the folders leftImg8bit and gtFine.
    """

    images: Folder
    labels: Folder

    @property
    def facts(self) -> DatasetFacts:
        return DATASETS["cityscapes"]

    def list_files(self) -> Listing:
        listing = Listing()
        for split, name in _SPLITS.items():
            images, labels = self.images.child(name), self.labels.child(name)
            if images is None or labels is None:
                continue
            encoding, masks = None, files_by_stem(labels, "_gtFine_labelTrainIds")
            if not masks:
                encoding, masks = CITYSCAPES_LABEL_IDS, files_by_stem(labels, "_gtFine_labelIds")
            listing.splits[split] = SplitFiles(encoding=encoding, place=images.path)
            pair_by_stem(listing, split, files_by_stem(images, "_leftImg8bit"), masks)
        return listing


def find_cityscapes(folder: Folder, data: DataSource) -> Cityscapes | None:
    """Cityscapes in a folder, or None.

    Raises:
        SegZooError: only one of the two parts is present.
    """
    images, labels = (folder.part(name, f"{name}_trainvaltest.zip") for name in (_IMAGES, _LABELS))
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        there, missing = (_LABELS, _IMAGES) if images is None else (_IMAGES, _LABELS)
        raise SegZooError(
            f"{folder.path} looks like Cityscapes: it has {there} but not {missing}. Put {missing}/ or "
            f"{missing}_trainvaltest.zip beside it, and give the folder that holds both."
        )
    return Cityscapes(images, labels)


SOURCE = Source(
    layout="Cityscapes (leftImg8bit and gtFine, as folders or zip archives)",
    find=find_cityscapes,
    order=20,
)
