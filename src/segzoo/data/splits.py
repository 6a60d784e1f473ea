"""Training rows and evaluation rows, which every command cuts from a data set in the same way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from segzoo.data.loading import DataSource, load_source
from segzoo.data.mixture import repeated
from segzoo.data.rows import undecoded
from segzoo.errors import SegZooError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def load_splits(
    source: DataSource | str | os.PathLike,
    *,
    train_val_split: float = 0.15,
    max_train_samples: int | None = None,
    train_fraction: float | None = None,
    max_eval_samples: int | None = None,
    seed: int = 0,
) -> tuple[Dataset | IterableDataset | None, Dataset | list[dict[str, Any]]]:
    """Load a data set and split it into training and evaluation rows.

    Without a validation split, a part of the training rows is set aside; ``seed`` decides which, so that a later
    evaluation sees the same pictures.

    Args:
        source: where the data is. The training rows of a stream are an iterable that is read while training; its
            evaluation rows are fetched once and kept, undecoded.
        train_val_split: share of the training rows to set aside, between 0 and 1.
        max_train_samples, max_eval_samples: number of rows to keep, of a table at random, of a stream the first ones;
            None keeps all.
        train_fraction: share of the training rows to keep, the first ones in an order shuffled by ``seed``, one at
            least; None keeps all. ``max_train_samples`` counts from them.
        seed: seed of the random choice of rows.

    Returns:
        training rows and evaluation rows; the former are None where there is only a validation split.

    Raises:
        SegZooError: the data cannot be loaded, has neither split, or is too small to be split, or ``train_fraction``
            is asked of a stream, whose length is not known.
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
    splits = load_source(source)
    train_rows, eval_rows = splits.get("train"), splits.get("validation")
    if train_rows is None and eval_rows is None:
        raise SegZooError(f"{source} has no train and no validation split; it has {', '.join(splits)}")
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
        parts = train_rows.train_test_split(test_size=train_val_split, seed=seed)
        train_rows, eval_rows = parts["train"], parts["test"]
    train_rows = repeated(train_rows)
    counts = [max_train_samples]
    if train_fraction is not None and train_rows is not None:
        counts.append(max(1, int(len(train_rows) * train_fraction)))
    kept = min((count for count in counts if count is not None), default=None)
    return _some(train_rows, kept, seed), _some(eval_rows, max_eval_samples, seed)


def _some(rows: Dataset | None, count: int | None, seed: int) -> Dataset | None:
    if rows is None or count is None:
        return rows
    if count < 1:
        raise SegZooError(f"a part of {count} pictures is asked for; it must be 1 or more")
    return rows.shuffle(seed=seed).select(range(min(count, len(rows))))
