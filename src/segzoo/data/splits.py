"""Training rows and evaluation rows, which every command cuts from a data set in the same way."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from segzoo.data.loading import DataSource, load_source
from segzoo.data.mixture import repeated
from segzoo.data.rows import row_names, undecoded
from segzoo.errors import SegZooError
from segzoo.images.archives import file_address, readable
from segzoo.images.windows import split_window

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def load_splits(
    source: DataSource | str | os.PathLike,
    *,
    train_val_split: float = 0.15,
    train_val_groups: str | None = None,
    max_train_samples: int | None = None,
    train_fraction: float | None = None,
    max_eval_samples: int | None = None,
    seed: int = 0,
) -> tuple[Dataset | IterableDataset | None, Dataset | list[dict[str, Any]]]:
    """Load a data set and split it into training and evaluation rows.

    Without a validation split, a part of the training rows is set aside; ``seed`` decides which, so that a later
    evaluation sees the same pictures. Where windows of a file share pixels (`DataSource.tile_stride`), whole files are.

    Args:
        source: where the data is. The training rows of a stream are an iterable that is read while training; its
            evaluation rows are fetched once and kept, undecoded.
        train_val_split: share of the training rows to set aside, between 0 and 1.
        train_val_groups: regular expression that finds in a picture's name (its path below the data's folder) what it
            shares with the pictures that have to stay on its side, such as ``(patient\\d+)_``: the groups of the
            expression, or all that it matches. Whole groups are then set aside, as many pictures as ``train_val_split``
            says or the next more. None: pictures stand for themselves, and windows that share pixels for their file.
        max_train_samples, max_eval_samples: number of rows to keep, of a table at random, of a stream the first ones;
            None keeps all.
        train_fraction: share of the training rows to keep, the first ones in an order shuffled by ``seed``, one at
            least; None keeps all. ``max_train_samples`` counts from them.
        seed: seed of the random choice of rows.

    Returns:
        training rows and evaluation rows; the former are None where there is only a validation split.

    Raises:
        SegZooError: the data cannot be loaded, has neither split, or is too small to be split; ``train_fraction`` is
            asked of a stream, whose length is not known; ``train_val_groups`` is no expression, does not fit a
            picture, finds one group alone, or the data has a validation split; windows that share pixels are all of one file.
    """
    if not 0 < train_val_split < 1:
        raise SegZooError(f"--train_val_split is {train_val_split}; it must lie between 0 and 1")
    source = DataSource.of(source)
    if train_fraction is not None and not 0 < train_fraction <= 1:
        raise SegZooError(f"--train_fraction is {train_fraction}; it must be above 0, and 1 at most")
    if train_fraction is not None and train_fraction < 1 and source.streaming:
        raise SegZooError(
            "--train_fraction needs the number of pictures, which a stream does not tell; leave one out, or give 1"
        )
    pattern = None if train_val_groups is None else _expression(train_val_groups)
    splits = load_source(source)
    train_rows, eval_rows = splits.get("train"), splits.get("validation")
    if train_rows is None and eval_rows is None:
        raise SegZooError(f"{source} has no train and no validation split; it has {', '.join(splits)}")
    if pattern is not None and eval_rows is not None:
        raise SegZooError(
            f"{source} has a validation split, so that nothing is set aside; leave out --train_val_groups"
        )
    if source.streaming:
        if eval_rows is None:
            raise SegZooError(
                f"{source} has no validation split, and none can be cut from a stream; leave out --streaming"
            )
        if train_rows is not None and max_train_samples is not None:
            train_rows = train_rows.take(max_train_samples)
        kept = eval_rows if max_eval_samples is None else eval_rows.take(max_eval_samples)
        return train_rows, list(undecoded(kept))
    if eval_rows is None:
        if len(train_rows) < 2:
            raise SegZooError(f"{source} has no validation split and too few pictures to set some aside")
        groups = None
        if pattern is not None:
            groups = _groups(_short_names(train_rows, source), pattern)
        elif source.tile_stride is not None and source.tile_stride < source.tile:
            groups = _files(train_rows, source)
        if groups is None:
            parts = train_rows.train_test_split(test_size=train_val_split, seed=seed)
            train_rows, eval_rows = parts["train"], parts["test"]
        else:
            set_aside = _some_groups(groups, train_val_split, seed)
            train_rows, eval_rows = (
                train_rows.select(np.flatnonzero(~set_aside)),
                train_rows.select(np.flatnonzero(set_aside)),
            )
    train_rows = repeated(train_rows)
    counts = [max_train_samples]
    if train_fraction is not None and train_rows is not None:
        counts.append(max(1, int(len(train_rows) * train_fraction)))
    kept = min((count for count in counts if count is not None), default=None)
    return _some(train_rows, kept, seed), _some(eval_rows, max_eval_samples, seed)


def _expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise SegZooError(
            f"--train_val_groups {text}: is no regular expression ({error}); an example is (patient\\d+)_"
        ) from None


def _short_names(rows: Dataset, source: DataSource) -> list[str]:
    """Names of the pictures, relative to the data's folder, so that a copy elsewhere is split in the same way."""
    above = [
        os.path.join(readable(file_address(path)), "") for path in (str(source.path), os.path.abspath(source.path))
    ]
    names = []
    for index, row in enumerate(undecoded(rows)):
        name = row_names(row, index)[0]
        for folder in above:
            name = name.removeprefix(folder)
        names.append(name.replace("\\", "/"))
    return names


def _files(rows: Dataset, source: DataSource) -> list[str]:
    """The file of each window."""
    files = [split_window(path)[0] for path in rows["image_path"]]
    if len(set(files)) < 2:
        raise SegZooError(
            f"--tile_stride {source.tile_stride}: windows share pixels, so that whole files are set aside, and {source} has one "
            "file alone; leave --tile_stride out, or add a validation part"
        )
    return files


def _groups(names: list[str], pattern: re.Pattern[str]) -> list[str]:
    """The group of each picture, by its name."""
    keys = []
    for name in names:
        match = pattern.search(name)
        if match is None:
            raise SegZooError(
                f"--train_val_groups {pattern.pattern}: does not fit {name}; every picture needs a group, such as its folder"
            )
        keys.append(match.groups(default="") or match.group())
    if len(set(keys)) < 2:
        raise SegZooError(
            f"--train_val_groups {pattern.pattern}: finds one group alone, {keys[0]!r}, so that nothing can be set aside; "
            "let it match what differs between groups"
        )
    return [str(key) for key in keys]


def _some_groups(keys: list[str], share: float, seed: int) -> np.ndarray:
    """Whether each picture is set aside, (pictures,): whole groups, in an order that the seed shuffles."""
    groups, members = np.unique(keys, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(groups))
    sizes = np.bincount(members)[order]
    wanted = np.searchsorted(np.cumsum(sizes), share * len(keys)) + 1
    return np.isin(members, order[: min(int(wanted), len(groups) - 1)])


def _some(rows: Dataset | None, count: int | None, seed: int) -> Dataset | None:
    if rows is None or count is None:
        return rows
    if count < 1:
        raise SegZooError(f"a part of {count} pictures is asked for; it must be 1 or more")
    return rows.shuffle(seed=seed).select(range(min(count, len(rows))))
