"""The label check that runs before a loss sees a batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import SegZooError


def _as_arrays(labels: Any) -> list[np.ndarray]:
    if not isinstance(labels, list | tuple):
        labels = [labels]
    arrays = []
    for label in labels:
        array = label.detach().cpu().numpy() if hasattr(label, "detach") else np.asarray(label)
        arrays.extend(array if array.ndim == 3 else [array])
    return arrays


def _count_ids(array: np.ndarray) -> dict[int, int]:
    if array.dtype == np.uint8:
        counts = np.bincount(array.ravel(), minlength=256)
        present = np.flatnonzero(counts)
        return dict(zip(present.tolist(), counts[present].tolist(), strict=True))
    ids, counts = np.unique(array, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _likely_fix(bad: dict[int, int], seen: set[int], num_labels: int, ignore_index: int) -> str:
    if any(float(i) != int(i) for i in bad):
        return "ids must be whole numbers: was the mask resized with smoothing, or scaled to 0..1?"
    if set(bad) == {num_labels} and ignore_index != num_labels:
        return (
            f"ids run up to {num_labels}: if 0 stands for 'no class', pass --do_reduce_labels "
            f"(do_reduce_labels=True); if not, the data has {num_labels + 1} classes"
        )
    if 255 in bad and seen <= {0, 255}:
        return "the mask is black and white: store 1 instead of 255 (divide by 255)"
    if set(bad) == {255}:
        return f"255 usually marks pixels that do not count: pass ignore_index=255 (it is {ignore_index})"
    if min(bad) < 0:
        return (
            f"negative ids usually mark pixels that do not count: pass ignore_index={min(bad)} (it is {ignore_index})"
        )
    if len(seen) > 2 * num_labels and len(seen) > 16:
        return "so many ids look like a grey picture, a smoothed resize or instance ids rather than classes"
    return f"the data has at least {max(bad) + 1} classes, or the ids have to be mapped to 0..{num_labels - 1} first"


def check_labels(
    labels: Any, num_labels: int, ignore_index: int = 255, names: Sequence[str] | str | None = None
) -> None:
    """Makes sure that every label id is a class or the ignore index.

    Args:
        labels: Label map (height, width), batch (batch, height, width), or a list of maps of any sizes; tensors or
            arrays of class ids.
        num_labels: Number of classes; valid ids are 0..num_labels-1.
        ignore_index: Id that never counts.
        names: What to call each map in the error, usually its file.

    Raises:
        SegZooError: Ids outside the range. The message names the first such file, the ids with their pixel counts, how
            many maps are affected, and the likely fix. A batch of 0 and 255 alone for a two-class model only warns,
            since 255 is then ignored and class 1 never appears.
    """
    arrays = _as_arrays(labels)
    names = [names] if isinstance(names, str) else names
    seen_anywhere: set[int] = set()
    affected: list[tuple[int, dict[int, int], set[int]]] = []
    for index, array in enumerate(arrays):
        counts = _count_ids(array)
        bad = {i: n for i, n in counts.items() if i != ignore_index and not 0 <= i < num_labels or i != int(i)}
        seen_anywhere |= set(counts)
        if bad:
            affected.append((index, bad, set(counts)))
    if affected:
        index, bad, seen = affected[0]
        name = names[index] if names is not None and index < len(names) else f"label map {index}"
        listed = ", ".join(f"{i} ({n} pixels)" for i, n in list(bad.items())[:8]) + (", ..." if len(bad) > 8 else "")
        others = f" {len(affected) - 1} more of {len(arrays)} maps here have such ids." if len(affected) > 1 else ""
        everything = set().union(*(b for _, b, _ in affected))
        fix = _likely_fix(dict.fromkeys(everything, 0), seen_anywhere, num_labels, ignore_index)
        raise SegZooError(
            f"{name}: label ids outside 0..{num_labels - 1} (ignored: {ignore_index}): {listed}.{others} "
            f"Likely fix: {fix}."
        )
    if num_labels == 2 and ignore_index == 255 and seen_anywhere == {0, 255}:
        warnings.warn(
            "These masks hold only 0 and 255, and 255 is ignored, so class 1 never appears. If 255 means class 1, "
            "divide the masks by 255.",
            stacklevel=2,
        )
