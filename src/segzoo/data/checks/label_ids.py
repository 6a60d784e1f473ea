"""The ids of a mask: their counts, which of them are no class, and the likely cause."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import PIL.Image


def count_ids(mask: np.ndarray) -> dict[int, int]:
    """Number of pixels of every id that occurs, in ascending order of the ids.

    Args:
        mask: ids of any integer type and shape; other types are counted by value.
    """
    if mask.dtype == np.uint8 and mask.ndim == 2 and mask.size:
        return {index: count for index, count in enumerate(PIL.Image.fromarray(mask).histogram()) if count}
    if mask.dtype.kind in "iub" and mask.size and mask.min() >= 0 and mask.max() < 1 << 16:
        counts = np.bincount(mask.ravel().astype(np.intp, copy=False))
        present = np.flatnonzero(counts)
        return dict(zip(present.tolist(), counts[present].tolist(), strict=True))
    ids, counts = np.unique(mask, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class LabelRule:
    """What the ids in masks mean.

    Attributes:
        num_labels: number of classes; None if it is not known, so that no id is out of range.
        ignore_index: id that never counts.
        reduce_labels: whether 0 stands for "no class" and 1 for the first class.
    """

    num_labels: int | None = None
    ignore_index: int = 255
    reduce_labels: bool = False

    @property
    def first(self) -> int:
        """The id of the first class in masks, 0 or 1."""
        return 1 if self.reduce_labels else 0

    def class_of(self, label: int) -> int | None:
        """The class of an id in masks, which may be out of range; None for an ignored id."""
        if label == self.ignore_index or (self.reduce_labels and label == 0):
            return None
        return label - self.first

    def outside(self, counts: Mapping[int, int]) -> dict[int, int]:
        """Those ids of `count_ids`, with their counts, that are neither classes nor ignored."""
        if self.num_labels is None:
            return {}
        found = {label: self.class_of(label) for label in counts}
        return {
            label: counts[label]
            for label, index in found.items()
            if index is not None and (index != int(index) or not 0 <= index < self.num_labels)
        }

    def in_words(self) -> str:
        """The ids that may occur, for messages."""
        if self.num_labels is None:
            return f"any (ignored: {self.ignore_index})"
        zero = "0 and " if self.reduce_labels else ""
        return f"{self.first}..{self.first + self.num_labels - 1} (ignored: {zero}{self.ignore_index})"

    def likely_fix(self, bad: Collection[int], seen: Collection[int]) -> str:
        """What to do about ids that are not classes, as a phrase.

        Args:
            bad: these ids, at least one.
            seen: all ids of the same masks.
        """
        bad, seen = set(bad), set(seen)
        if any(label != int(label) for label in bad):
            return "ids must be whole numbers: was the mask resized with smoothing, or scaled to 0..1?"
        if bad == {self.num_labels} and not self.reduce_labels:
            return (
                f"ids run up to {self.num_labels}: if 0 stands for 'no class', pass --do_reduce_labels "
                f"(do_reduce_labels=True); if not, the data has {self.num_labels + 1} classes"
            )
        if 255 in bad and seen <= {0, 255}:
            return "the mask is black and white: store 1 instead of 255 (divide by 255)"
        if bad == {255}:
            return f"255 usually marks pixels that do not count: pass ignore_index=255 (it is {self.ignore_index})"
        if min(bad) < 0:
            return (
                f"negative ids usually mark pixels that do not count: pass ignore_index={min(bad)} "
                f"(it is {self.ignore_index})"
            )
        step = math.gcd(*(int(label) for label in seen - {self.ignore_index}))
        if step >= 10 and len(seen) > 1 and max(bad) // step < self.num_labels:
            return f"all ids are multiples of {step}, made for looking at: divide the masks by {step}"
        if self.num_labels == 19 and len(bad) > 1 and max(bad) <= 33:
            return "they look like Cityscapes' own ids: take the *_labelTrainIds.png masks instead of *_labelIds.png"
        if len(seen) > 2 * self.num_labels and len(seen) > 16:
            return "so many ids look like a grey picture, a smoothed resize or instance ids rather than classes"
        return (
            f"the data has at least {max(bad) + 1 - self.first} classes, or the ids have to be mapped to "
            f"{self.first}..{self.first + self.num_labels - 1} first"
        )


def list_ids(counts: Mapping[int, int], most: int = 8) -> str:
    """The first ``most`` ids with their pixel counts, in words."""
    words = [f"{label} ({pixels} pixel{'s' * (pixels != 1)})" for label, pixels in list(counts.items())[:most]]
    return ", ".join(words) + (f" and {len(counts) - most} more ids" if len(counts) > most else "")


def list_ranges(ids: Iterable[int]) -> str:
    """Whole numbers as ranges in words, such as "0-10, 255"."""
    runs: list[list[int]] = []
    for label in sorted(ids):
        if runs and label == runs[-1][1] + 1:
            runs[-1][1] = label
        else:
            runs.append([label, label])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
