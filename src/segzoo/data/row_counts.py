"""How many pixels of each class every mask of a table holds: for class weights, and for sampling by rare classes."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.data.checks.class_counts import ClassCounts
from segzoo.data.checks.label_ids import LabelRule, count_ids
from segzoo.data.decoding import CorruptImageError, decode_pair
from segzoo.data.loader import Loader
from segzoo.data.rows import row_names, undecoded
from segzoo.files import write_whole

_AT_A_TIME = 16  # masks that a loading process hands over together


@dataclass(frozen=True)
class RowCounts:
    """The pixels of each class in each mask.

    Attributes:
        pixels: number of pixels, uint32 (rows, num_labels); a row of zeros where the mask cannot be read.
        ignored: number of pixels that do not count, by row, int64 (rows,).
    """

    pixels: np.ndarray
    ignored: np.ndarray

    def summed(self) -> ClassCounts:
        """The counts of all rows together."""
        pixels = self.pixels.astype(np.int64)
        shown, totals = pixels > 0, pixels.sum(axis=1)
        return ClassCounts(
            pixels=pixels.sum(axis=0),
            images=shown.sum(axis=0),
            pixels_beside=(shown * totals[:, None]).sum(axis=0),
            ignored=int(self.ignored.sum()),
            ignored_images=int((self.ignored > 0).sum()),
            num_images=len(pixels),
        )

    def save(self, path: str | os.PathLike, key: str) -> None:
        """Write a file that `load` reads with the same ``key``, which says of what data the counts are.

        Raises:
            OSError: the file cannot be written.
        """
        arrays = {"key": np.array(key), "pixels": self.pixels, "ignored": self.ignored}
        write_whole(path, lambda file: np.savez_compressed(file, **arrays))

    @classmethod
    def load(cls, path: str | os.PathLike, key: str) -> RowCounts | None:
        """The counts that `save` wrote with this ``key``; None where there are none, or they cannot be read."""
        try:
            with np.load(Path(path), allow_pickle=False) as found:
                return cls(found["pixels"], found["ignored"]) if str(found["key"]) == key else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    @classmethod
    def joined(cls, parts: Sequence[RowCounts]) -> RowCounts:
        """The counts of all rows, from parts of which number i has the rows i, i + n, i + 2 n ... of n parts."""
        count = sum(len(part.ignored) for part in parts)
        pixels = np.zeros((count, parts[0].pixels.shape[1]), np.uint32)
        ignored = np.zeros(count, np.int64)
        for first, part in enumerate(parts):
            pixels[first :: len(parts)], ignored[first :: len(parts)] = part.pixels, part.ignored
        return cls(pixels, ignored)


def count_rows(
    rows: Any,
    rule: LabelRule,
    *,
    num_workers: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    skip_corrupt: bool = False,
) -> RowCounts:
    """Count the classes in the masks of a table; pictures are not read.

    Args:
        rows: `datasets.Dataset` of `load_segmentation_dataset`.
        rule: what the ids in the masks mean, with the number of classes. Ids that are no class are left out: a
            training refuses them when it reads the picture.
        num_workers: number of processes that read masks; 0 reads in this one.
        process_index, num_processes: this process counts the rows of these positions, every n-th one.
        skip_corrupt: a mask that cannot be read counts as empty; False makes it an error.

    Raises:
        CorruptImageError: a mask is missing or cannot be read.
        SegZooError: a mask does not hold class ids.
    """
    masks = _Masks(undecoded(rows), rule, skip_corrupt)
    mine = range(process_index, len(masks.rows), num_processes)
    batches = [mine[first : first + _AT_A_TIME] for first in range(0, len(mine), _AT_A_TIME)]
    num_workers = min(num_workers, len(mine) // 64)  # starting a process takes as long as some masks
    found = [row for batch in Loader(masks, batches, collate=list, num_workers=num_workers) for row in batch]
    table = np.array(found, dtype=np.int64).reshape(len(mine), rule.num_labels + 1)
    return RowCounts(table[:, :-1].astype(np.uint32), table[:, -1])


@dataclass(frozen=True)
class _Masks:
    """Pixels of each class, and those that do not count, by position of the row."""

    rows: Any
    rule: LabelRule
    skip_corrupt: bool

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[int]:
        row = self.rows[index]
        counts = [0] * (self.rule.num_labels + 1)
        label, (_, name) = row.get("label"), row_names(row, index)
        try:
            if label is None:
                raise CorruptImageError(f"{name}: there is no mask.")
            ids = decode_pair(
                None, label, label_name=name, encoding=row.get("label_encoding"), on_note=lambda text: None
            )[1]
        except CorruptImageError:
            if not self.skip_corrupt:
                raise
            return counts
        for label_id, pixels in count_ids(ids).items():
            found = self.rule.class_of(label_id)
            if found is None:
                counts[-1] += pixels
            elif found in range(self.rule.num_labels):
                counts[int(found)] += pixels
        return counts
