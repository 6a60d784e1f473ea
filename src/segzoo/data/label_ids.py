"""Which ids a mask holds, which of them are no class, and what probably went wrong with those."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np


def count_ids(mask: np.ndarray) -> dict[int, int]:
    """Pixels of every id that occurs, in ascending order.

    Args:
        mask: Ids of any integer type and shape; other types are counted by value.
    """
    if mask.dtype.kind in "iub" and mask.size and 0 <= mask.min() and mask.max() < 1 << 16:
        counts = np.bincount(mask.ravel())
        present = np.flatnonzero(counts)
        return dict(zip(present.tolist(), counts[present].tolist(), strict=True))
    ids, counts = np.unique(mask, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def class_of(label: int, ignore_index: int = 255, reduce_labels: bool = False) -> int | None:
    """The class that an id in a mask stands for; None for an ignored one.

    Args:
        label: Id as it is stored.
        ignore_index: Id that never counts.
        reduce_labels: 0 stands for "no class" and 1 for the first class.
    """
    if label == ignore_index or (reduce_labels and label == 0):
        return None
    return label - 1 if reduce_labels else label


def ids_outside(
    counts: Mapping[int, int], num_labels: int, ignore_index: int = 255, reduce_labels: bool = False
) -> dict[int, int]:
    """The part of `count_ids` that is neither a class nor ignored, by stored id."""
    bad = {}
    for label, pixels in counts.items():
        found = class_of(label, ignore_index, reduce_labels)
        if found is not None and (found != int(found) or not 0 <= found < num_labels):
            bad[label] = pixels
    return bad


def list_ids(counts: Mapping[int, int], most: int = 8) -> str:
    """Ids with their pixel counts in words; the first of them."""
    words = [f"{label} ({pixels} pixel{'s' * (pixels != 1)})" for label, pixels in list(counts.items())[:most]]
    return ", ".join(words) + (f" and {len(counts) - most} more ids" if len(counts) > most else "")


def list_ranges(ids: Iterable[int]) -> str:
    """Whole numbers in words: "0-10, 255"."""
    runs: list[list[int]] = []
    for label in sorted(ids):
        if runs and label == runs[-1][1] + 1:
            runs[-1][1] = label
        else:
            runs.append([label, label])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def likely_fix(
    bad: Collection[int], seen: Collection[int], num_labels: int, ignore_index: int = 255, reduce_labels: bool = False
) -> str:
    """What to do about ids that are no class.

    Args:
        bad: Those ids, as stored; at least one.
        seen: All ids of the same masks.
        num_labels, ignore_index, reduce_labels: What the ids were held against.
    """
    bad, seen = set(bad), set(seen)
    if any(label != int(label) for label in bad):
        return "ids must be whole numbers: was the mask resized with smoothing, or scaled to 0..1?"
    if bad == {num_labels} and not reduce_labels:
        return (
            f"ids run up to {num_labels}: if 0 stands for 'no class', pass --do_reduce_labels "
            f"(do_reduce_labels=True); if not, the data has {num_labels + 1} classes"
        )
    if 255 in bad and seen <= {0, 255}:
        return "the mask is black and white: store 1 instead of 255 (divide by 255)"
    if bad == {255}:
        return f"255 usually marks pixels that do not count: pass ignore_index=255 (it is {ignore_index})"
    if min(bad) < 0:
        return f"negative ids usually mark pixels that do not count: pass ignore_index={min(bad)} (it is {ignore_index})"
    step = math.gcd(*(int(label) for label in seen - {ignore_index}))
    if step >= 10 and len(seen) > 1 and max(seen - {ignore_index}) // step < num_labels:
        return f"all ids are multiples of {step}, made for looking at: divide the masks by {step}"
    if num_labels == 19 and len(bad) > 1 and max(bad) <= 33:
        return "they look like Cityscapes' own ids: take the *_labelTrainIds.png masks instead of *_labelIds.png"
    if len(seen) > 2 * num_labels and len(seen) > 16:
        return "so many ids look like a grey picture, a smoothed resize or instance ids rather than classes"
    first = 1 if reduce_labels else 0
    last = first + num_labels - 1
    return f"the data has at least {max(bad) + 1 - first} classes, or the ids have to be mapped to {first}..{last} first"
