"""CamVid: the original stills with masks in colours, SegNet's copy, or {split} and {split}_labels."""

from __future__ import annotations

import re
from dataclasses import dataclass

from segzoo.data.data_source import DataSource
from segzoo.data.facts import DATASETS, DatasetFacts
from segzoo.data.folders import Folder
from segzoo.data.label_encodings import CAMVID_COLORS, CAMVID_SEGNET_IDS, LabelEncoding
from segzoo.data.pairing import SPLIT_NAMES, Listing, PairingProblem, Source, SplitFiles, files_by_stem, pair_by_stem
from segzoo.errors import SegZooError

_STILLS, _MASKS = "701_StillsRaw_full", "LabeledApproved_full"
_FRAME = re.compile(r"(\w+?)_f?(\d+)$")


@dataclass(frozen=True)
class CamVidSplits:
    """A folder of pictures and one of masks for every split.

    Attributes:
        folder: the folder of the data set.
        label_folder: suffix that folders of masks add to the split's name: "annot" in SegNet's copy, whose masks hold
            0..10 and 11 for no class, "_labels" for masks in colours.
        label_suffix: suffix that names of masks add to those of pictures.
        encoding: how the masks are written.
    """

    folder: Folder
    label_folder: str
    label_suffix: str
    encoding: LabelEncoding

    @property
    def facts(self) -> DatasetFacts:
        return DATASETS["camvid"]

    def list_files(self) -> Listing:
        listing = Listing()
        for name, split in SPLIT_NAMES.items():
            images, labels = self.folder.child(name), self.folder.child(name + self.label_folder)
            if images is None:
                continue
            if labels is None:
                listing.problems.append(PairingProblem("split_without_masks", split, (images.path,)))
                continue
            listing.splits[split] = SplitFiles(encoding=self.encoding, place=images.path)
            pair_by_stem(listing, split, files_by_stem(images), files_by_stem(labels, self.label_suffix))
        return listing


@dataclass(frozen=True)
class CamVidOriginal:
    """The 701 stills with masks in 32 colours, which become 11 classes, split as SegNet's authors did.

    Attributes:
        images, labels: the folders 701_StillsRaw_full and LabeledApproved_full.
    """

    images: Folder
    labels: Folder

    @property
    def facts(self) -> DatasetFacts:
        return DATASETS["camvid"]

    def list_files(self) -> Listing:
        listing = Listing()
        images, labels = files_by_stem(self.images), files_by_stem(self.labels, "_L")
        split_of = {stem: _split(stem) for stem in (*images, *labels)}
        for split in ("train", "validation", "test"):
            some = [{s: files for s, files in part.items() if split_of[s] == split} for part in (images, labels)]
            if any(some):
                listing.splits[split] = SplitFiles(encoding=CAMVID_COLORS, place=self.images.path)
                pair_by_stem(listing, split, *some)
        return listing


def _split(stem: str) -> str:
    """The split of a frame: 367 training, 101 validation and 233 test frames are stretches of the four videos."""
    found = _FRAME.search(stem)
    video, frame = (found[1], int(found[2])) if found else ("", 0)
    if video == "Seq05VD" or (video == "0001TP" and frame > 8520):
        return "test"
    return "validation" if video == "0016E5" and 7959 <= frame <= 8159 else "train"


def find_camvid(folder: Folder, data: DataSource) -> CamVidSplits | CamVidOriginal | None:
    """CamVid in a folder or in its subfolder CamVid, or None.

    Raises:
        SegZooError: the original stills have no masks beside them.
    """
    for place in (folder, folder.child("CamVid")):
        if place is None:
            continue
        if place.child("train") is not None and place.child("trainannot") is not None:
            return CamVidSplits(place, "annot", "", CAMVID_SEGNET_IDS)
        if place.child("train_labels") is not None and "class_dict.csv" in place.files:
            return CamVidSplits(place, "_labels", "_L", CAMVID_COLORS)
        images = place.part(_STILLS, f"{_STILLS}.zip")
        if images is not None:
            labels = place.part(_MASKS, f"{_MASKS}.zip")
            if labels is None:
                raise SegZooError(
                    f"{place.path} has {_STILLS} but not {_MASKS}, the masks of CamVid. Put the folder or its zip archive "
                    "beside it."
                )
            return CamVidOriginal(images, labels)
    return None


SOURCE = Source(
    layout="CamVid (train and trainannot, train and train_labels, or 701_StillsRaw_full and LabeledApproved_full)",
    find=find_camvid,
    order=40,
)
