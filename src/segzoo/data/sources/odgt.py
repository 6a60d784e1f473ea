"""Lists of MIT's scene-parsing code: one JSON object per line, with the paths of a picture and its mask."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segzoo.data.data_source import DataSource
from segzoo.data.facts import DATASETS, DatasetFacts
from segzoo.data.folders import Folder
from segzoo.data.pairing import SPLIT_NAMES, Listing, PairingProblem, Source, SplitFiles
from segzoo.errors import SegZooError
from segzoo.images.archives import file_name
from segzoo.regular_files import open_regular

_EXTENSION = ".odgt"
_ADE20K = "ADEChallengeData2016/"


@dataclass(frozen=True)
class OdgtLists:
    """The lists of one folder.

    The masks of that code hold 0 for "no class": pass do_reduce_labels unless the lists are those of ADE20K, which is
    recognised.

    Attributes:
        lists: paths of the lists by split.
        root: folder that paths in the lists begin at; None: the lists' own folder, or the one above it.
    """

    lists: dict[str, str]
    root: Path | None = None

    @property
    def facts(self) -> DatasetFacts | None:
        for file in self.lists.values():
            for _, record in _records(file):
                return DATASETS["ade20k"] if record["fpath_img"].startswith(_ADE20K) else None
        return None

    def list_files(self) -> Listing:
        listing = Listing()
        for split, file in self.lists.items():
            files = listing.splits[split] = SplitFiles(place=file)
            root = None
            for number, record in _records(file):
                root = root or self._root(file, number, record)
                image, label = (os.path.join(root, record[key]) for key in ("fpath_img", "fpath_segm"))
                if not os.path.isfile(label):
                    listing.problems.append(PairingProblem("image_without_mask", split, (image,)))
                elif not os.path.isfile(image):
                    listing.problems.append(PairingProblem("mask_without_image", split, (label,)))
                else:
                    files.pairs.append((image, label))
        return listing

    def _root(self, file: str, number: int, record: dict) -> Path:
        here = Path(file).parent
        roots = [self.root] if self.root is not None else [here, here.parent]
        for root in roots:
            if (root / record["fpath_img"]).exists() or (root / record["fpath_segm"]).exists():
                return root
        raise SegZooError(
            f"{file}, line {number}: there is no {record['fpath_img']} in {' or '.join(map(str, roots))}. Give the folder "
            "that the paths begin at (data_root=...)."
        )


def find_odgt(folder: Folder, data: DataSource) -> OdgtLists | None:
    """The lists directly in a folder, or None; their names say "train" (the default), "val" or "test".

    Raises:
        SegZooError: two lists are of the same split.
    """
    found: dict[str, str] = {}
    for name, file in folder.files.items():
        if not name.lower().endswith(_EXTENSION):
            continue
        stem = Path(file).stem.casefold()
        split = next((split for name, split in SPLIT_NAMES.items() if name in stem), "train")
        if split in found:
            raise SegZooError(f"{found[split]} and {file} both seem to be the {split} split. Keep one of them.")
        found[split] = file
    root = None if data.data_root is None else Path(data.data_root).expanduser()
    return OdgtLists(found, root) if found else None


def _records(file: str) -> Iterator[tuple[int, dict]]:
    """The number, from 1, and the object of every line that is not empty."""
    try:
        with open_regular(file) as opened, io.TextIOWrapper(opened, "utf-8-sig", "surrogateescape") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _record(file, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise SegZooError(f"{file} cannot be read as text: {error}") from error


def _record(file: str, number: int, line: str) -> dict:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise SegZooError(f"{file}, line {number} is not JSON: {error}") from error
    if not isinstance(record, dict) or not all(isinstance(record.get(k), str) for k in ("fpath_img", "fpath_segm")):
        raise SegZooError(f'{file}, line {number} should be like {{"fpath_img": "a.jpg", "fpath_segm": "a.png"}}.')
    return record | {key: file_name(record[key]) for key in ("fpath_img", "fpath_segm")}


SOURCE = Source(
    layout="lists training.odgt and validation.odgt",
    find=find_odgt,
    order=10,
    extension=_EXTENSION,
)
