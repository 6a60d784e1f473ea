"""The checks that run before a loss sees a batch: of labels in memory, and of the files of the first batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from segzoo.data.checks.findings import ERROR, Case
from segzoo.data.checks.label_ids import LabelRule, count_ids
from segzoo.data.checks.probing import PairFacts, crop_case, few_levels_case, ids_case, probe_pair
from segzoo.data.joint_steps import Scale
from segzoo.data.rows import row_names
from segzoo.errors import SegZooError
from segzoo.images.resizing import keep_ratio_size

_BLACK_AND_WHITE = (
    "These masks hold only 0 and 255, and 255 is ignored, so class 1 never appears. If 255 means class 1, divide the "
    "masks by 255."
)
_PASSED_OVER = ("unreadable_image", "unreadable_mask", "image_without_mask")
_WHOLE_BATCH_IGNORED = (
    "warning: all labels of the first batch are ignored, so that it teaches and scores nothing: check --ignore_index and "
    "--do_reduce_labels, or look at the pictures with `segzoo data show`"
)


def _as_arrays(labels: Any) -> list[np.ndarray]:
    if not isinstance(labels, list | tuple):
        labels = [labels]
    arrays = []
    for label in labels:
        array = label.detach().cpu().numpy() if hasattr(label, "detach") else np.asarray(label)
        arrays.extend(array if array.ndim == 3 else [array])
    return arrays


def _plainly_fits(labels: np.ndarray, num_labels: int, ignore_index: int) -> bool:
    """Whether all ids are classes or ignored, in a third of the time of counting them; False if it is not plain."""
    if labels.dtype.kind not in "iu" or not labels.size or (most := labels.max()) > 255:
        return False
    if labels.dtype != np.uint8 and labels.min() < 0:
        return False
    if most < num_labels:
        return True
    small = labels.astype(np.uint8, copy=False)
    return not ((small >= num_labels) & (small != ignore_index)).any()


def check_labels(
    labels: Any, num_labels: int, ignore_index: int = 255, names: Sequence[str] | str | None = None
) -> None:
    """Check that every label id is a class or the ignore index.

    Args:
        labels: label map (height, width), batch (batch, height, width), or a list of maps of any sizes; tensors or
            arrays of class ids.
        num_labels: number of classes; valid ids are 0..num_labels-1.
        ignore_index: id that never counts.
        names: name of each map in the error, usually its file.

    Raises:
        SegZooError: ids are outside the range. The message names the first such file, the ids with their pixel counts,
            how many maps are affected, and the likely fix. A batch of only 0 and 255 for a two-class model causes a
            warning instead, because 255 is then ignored and class 1 never appears.
    """
    arrays = _as_arrays(labels)
    if num_labels > 2 and all(_plainly_fits(array, num_labels, ignore_index) for array in arrays):
        return
    names = [names] if isinstance(names, str) else names
    rule = LabelRule(num_labels, ignore_index)
    counts = [count_ids(array) for array in arrays]
    seen = set().union(*counts)
    bad = {index: found for index, ids in enumerate(counts) if (found := rule.outside(ids))}
    if bad:
        index, first = next(iter(bad.items()))
        name = names[index] if names is not None and index < len(names) else f"label map {index}"
        others = f" ({len(bad) - 1} more of {len(arrays)} maps here have such ids)" if len(bad) > 1 else ""
        fix = rule.likely_fix(set().union(*bad.values()), seen)
        raise SegZooError(
            f"{replace(ids_case(first, seen, rule, name), fix=f'likely fix: {fix}').sentence()}{others}."
        )
    if num_labels == 2 and ignore_index == 255 and seen == {0, 255}:
        warnings.warn(_BLACK_AND_WHITE, stacklevel=2)


def check_first_batch(
    dataset: Any,
    indices: Sequence[int],
    *,
    num_labels: int,
    ignore_index: int = 255,
    reduce_labels: bool = False,
    crop_size: tuple[int, int] | None = None,
    max_corrupt: int = 0,
) -> list[str]:
    """Check the files of the first batch as `segzoo data check` does, before the first step of a training.

    Masks are checked whole, even if the training takes crops of them. Then one sample is made as the training makes
    it.

    Args:
        dataset: the `SegmentationDataset` of the training.
        indices: positions of the first batch's samples in it.
        num_labels: number of classes.
        ignore_index: id that never counts.
        reduce_labels: whether masks hold 0 for "no class" and 1..num_labels for the classes.
        crop_size: (height, width) of the training's crops; None: whole pictures.
        max_corrupt: up to this number of pairs with a corrupt or missing file are no error here, because the data set
            passes over them.

    Returns:
        Warnings, one line each, about pictures smaller than the crop, pictures of 16 bits that leave most of their range
        unused, masks of ignored pixels only, masks of 0 and 255 only, and EXIF rotations that differ or are ambiguous;
        and a note about masks of several equal channels.

    Raises:
        SegZooError: a training cannot use a file. The message names the first such file (or pair), the problem, the
            likely fix, and how many more pairs of the batch have errors.
    """
    lines = check_rows(
        {int(index): dataset.dataset[int(index)] for index in indices}.items(),
        num_labels=num_labels,
        ignore_index=ignore_index,
        reduce_labels=reduce_labels,
        crop_size=crop_size,
        max_corrupt=max_corrupt,
        transform=dataset.transform,
        num_channels=dataset.num_channels,
    )
    with warnings.catch_warnings():
        for message in (_BLACK_AND_WHITE[:40], ".*channels are all equal"):  # `lines` says it
            warnings.filterwarnings("ignore", message=message)
        dataset[int(indices[0])]
    return lines


def check_rows(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    *,
    num_labels: int,
    ignore_index: int = 255,
    reduce_labels: bool = False,
    crop_size: tuple[int, int] | None = None,
    max_corrupt: int = 0,
    transform: Any = None,
    num_channels: int = 3,
) -> list[str]:
    """`check_first_batch` for rows of any source, such as the first ones of a stream.

    Args:
        rows: index and undecoded row (`segzoo.data.rows.undecoded`) of each pair.
        num_labels, ignore_index, reduce_labels, crop_size, max_corrupt: see `check_first_batch`.
        transform: the training's transform; if it resizes pictures, their new sizes are compared with the crop.
        num_channels: number of channels that the model takes.

    Returns:
        Warnings, one line each.

    Raises:
        SegZooError: a training cannot use a file.
    """
    rule = LabelRule(num_labels, ignore_index, reduce_labels)
    facts = []
    for index, row in rows:
        image_name, label_name = row_names(row, index)
        facts.append(
            probe_pair(
                row["image"],
                row.get("label"),
                rule,
                image_name=image_name,
                label_name=label_name,
                encoding=row.get("label_encoding"),
                num_channels=num_channels,
            )
        )
    refuse_errors(facts, max_corrupt, f"the {len(facts)} pairs of the first batch")
    return _warnings(facts, rule, crop_size, transform)


def refuse_errors(facts: Sequence[PairFacts], max_corrupt: int, looked_at: str) -> None:
    """Raise the error of the first pair that has one; the message gives the number of the others.

    Args:
        facts: the pairs, or only those with errors.
        max_corrupt: see `check_first_batch`.
        looked_at: all pairs that were looked at, in words.

    Raises:
        SegZooError: a pair has an error, and not only one that ``max_corrupt`` allows.
    """
    errors = [[case for case in pair.cases if case.severity == ERROR] for pair in facts]
    if max_corrupt:
        corrupt = [any(case.kind in _PASSED_OVER for case in cases) for cases in errors]
        if sum(corrupt) <= max_corrupt:
            errors = [cases for cases, is_corrupt in zip(errors, corrupt, strict=True) if not is_corrupt]
    bad = [cases for cases in errors if cases]
    if bad:
        more = len(bad) - 1
        others = f" ({more} more of {looked_at} {'has' if more == 1 else 'have'} errors)"
        raise SegZooError(
            f"{bad[0][0].sentence()}.{others * (more > 0)} `segzoo data check` finds all such files at once."
        )


def _warnings(
    facts: Sequence[PairFacts], rule: LabelRule, crop_size: tuple[int, int] | None, transform: Any
) -> list[str]:
    """One line about each kind of problem that does not stop a training but that its user should know."""
    lines = []
    by_kind: dict[str, list[Case]] = {}
    for pair in facts:
        for case in pair.cases:
            by_kind.setdefault(case.kind, []).append(case)
    ignored = by_kind.get("only_ignored", [])
    if ignored and len(ignored) == len(facts):
        lines.append(_WHOLE_BATCH_IGNORED)
    elif ignored:
        lines.append(_counted(ignored, len(facts)))
    seen = set().union(*(pair.ids or () for pair in facts))
    if rule.num_labels == 2 and rule.ignore_index == 255 and seen == {0, 255}:
        lines.append(f"warning: {Case('black_and_white', files=(facts[0].label_name,)).sentence()}")
    if dark := few_levels_case(max((pair.brightest for pair in facts if pair.brightest is not None), default=None)):
        named = replace(dark, files=(f"{facts[0].image_name} and the rest of the first batch",))
        lines.append(f"warning: {named.sentence()}")
    if crop_size is not None:
        small = [
            case
            for pair in facts
            if pair.size is not None
            and (case := crop_case(pair.size, _scaled(pair.size, transform), crop_size, pair.image_name))
        ]
        if small:
            lines.append(_counted(small, len(facts)))
    lines += [_counted(by_kind[kind], len(facts)) for kind in ("exif_differs", "exif_ambiguous") if kind in by_kind]
    if "equal_channels" in by_kind:
        lines.append(_counted(by_kind["equal_channels"], len(facts), "note"))
    return lines


def _counted(cases: Sequence[Case], total: int, word: str = "warning") -> str:
    """One line with the number of the cases, and the first of them."""
    return f"{word}: {len(cases)} of the {total} pairs of the first batch: {cases[0].sentence()}"


def _scaled(size: tuple[int, int], transform: Any) -> tuple[int, int]:
    """(height, width) of a picture after resizing, before random scaling."""
    scale = next((step for step in getattr(transform, "steps", ()) if isinstance(step, Scale)), None)
    if scale is None:
        return size
    short_edge, long_edge = scale.size or (None, None)
    if scale.short_edges:
        short_edge = min(scale.short_edges)
    if scale.size is not None and not scale.keep_ratio:
        return scale.size
    return keep_ratio_size(size, short_edge, long_edge)
