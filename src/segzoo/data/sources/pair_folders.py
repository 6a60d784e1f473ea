"""A user's folder: pictures and masks in two trees, or in two folders of every split."""

from __future__ import annotations

from dataclasses import dataclass

from segzoo.data.data_source import DataSource
from segzoo.data.facts import DATASETS, DatasetFacts
from segzoo.data.folders import Folder
from segzoo.data.pairing import SPLIT_NAMES, Listing, PairingProblem, Source, SplitFiles, files_by_stem, pair_by_stem
from segzoo.errors import SegZooError

_IMAGE_FOLDERS = ("images", "image", "imgs", "img")
_LABEL_FOLDERS = ("annotations", "annotation", "labels", "masks", "mask", "label")
_ADE20K = "ADEChallengeData2016"
_ADE20K_FILES = ("objectInfo150.txt", "objectInfo150.csv")


@dataclass(frozen=True)
class PairFolders:
    """Pictures and masks whose file names differ only in the extension and a suffix.

    Attributes:
        images, labels: folders by split.
        facts: the facts of the ADE20K benchmark if it was recognised, or None.
        image_suffix, label_suffix: ends of the names before the extension; other files are left out.
    """

    images: dict[str, Folder]
    labels: dict[str, Folder]
    facts: DatasetFacts | None = None
    image_suffix: str = ""
    label_suffix: str = ""

    def list_files(self) -> Listing:
        listing = Listing()
        for split, folder in self.images.items():
            if split not in self.labels:
                listing.problems.append(PairingProblem("split_without_masks", split, (folder.path,)))
                continue
            listing.splits[split] = SplitFiles(place=folder.path)
            images = files_by_stem(folder, self.image_suffix)
            pair_by_stem(listing, split, images, files_by_stem(self.labels[split], self.label_suffix))
        for split, folder in self.labels.items():
            if split not in self.images:
                listing.problems.append(PairingProblem("split_without_images", split, (folder.path,)))
        return listing


def find_pair_folders(folder: Folder, data: DataSource) -> PairFolders | None:
    """Pictures and masks in a folder, or in its subfolder ADEChallengeData2016; or None.

    Raises:
        SegZooError: there are pictures in splits but no folder of masks, or one split has two names.
    """
    images, labels = folder.child(*_IMAGE_FOLDERS), folder.child(*_LABEL_FOLDERS)
    if images is not None and labels is not None:
        facts = None
        if folder.name == _ADE20K or any(name in folder.files for name in _ADE20K_FILES):
            facts = DATASETS["ade20k"]
        return PairFolders(_splits(images), _splits(labels), facts, data.image_suffix, data.label_suffix)
    splits = {split: f for split, f in _named_splits(folder).items() if f.child(*_IMAGE_FOLDERS) is not None}
    if splits and any(f.child(*_LABEL_FOLDERS) is not None for f in splits.values()):
        pictures = {split: f.child(*_IMAGE_FOLDERS) for split, f in splits.items()}
        masks = {split: f.child(*_LABEL_FOLDERS) for split, f in splits.items()}
        masks = {split: f for split, f in masks.items() if f is not None}
        return PairFolders(pictures, masks, None, data.image_suffix, data.label_suffix)
    if images is not None and _named_splits(images) and not _has_metadata(images):
        raise SegZooError(
            f"{folder.path} has {images.name}/ but no annotations/ beside it. Put masks into annotations/{{split}}."
        )
    return find_pair_folders(folder.folders[_ADE20K], data) if _ADE20K in folder.folders else None


def _named_splits(folder: Folder) -> dict[str, Folder]:
    found: dict[str, Folder] = {}
    for name, child in folder.folders.items():
        split = SPLIT_NAMES.get(name.casefold())
        if split in found:
            raise SegZooError(f"{found[split].path} and {child.path} are both the {split} split. Keep one of them.")
        if split is not None:
            found[split] = child
    return found


def _splits(folder: Folder) -> dict[str, Folder]:
    return _named_splits(folder) or {"train": folder}


def _has_metadata(folder: Folder) -> bool:
    """Whether there are metadata files among the pictures, which `datasets` may understand."""
    below = [name for child in folder.folders.values() for name in child.files]
    return any(f.rpartition(".")[2] in ("jsonl", "csv", "parquet") for f in (*folder.files, *below))


SOURCE = Source(
    layout="images/{split} and annotations/{split}, or {split}/images and {split}/annotations",
    find=find_pair_folders,
    order=1000,  # last: the folders of known data sets may be called so, too
)
