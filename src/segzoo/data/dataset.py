"""A table of pictures and masks as a torch data set whose augmentation depends on (seed, epoch, index) alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from segzoo.data.checks.first_batch import check_labels
from segzoo.data.decoding import CorruptImageError, decode_grey_png, decode_jpeg, decode_pair
from segzoo.data.levels import LevelsTransform
from segzoo.data.rows import row_names, undecoded
from segzoo.data.transforms import JointTransform
from segzoo.errors import SegZooError


def make_sample(
    row: Mapping[str, Any],
    index: int,
    transform: Any,
    rng: np.random.Generator,
    *,
    num_labels: int | None,
    ignore_index: int,
    num_channels: int = 3,
    on_note: Callable[[str], object] | None = None,
    wanted: int | None = None,
) -> dict[str, Any]:
    """Decode, transform and check one row of a table or stream.

    Args:
        row: an undecoded row (`segzoo.data.rows.undecoded`).
        index: position of the row.
        transform, num_labels, ignore_index, num_channels: see `SegmentationDataset`.
        rng: the transform's source of random numbers.
        on_note: called with a note about the mask, see `decode_pair`; None warns.
        wanted: id of the class that a random crop shall show, see `RandomCrop`; None: of any.

    Returns:
        The transform's dict with `index` and `name`, the picture's file.

    Raises:
        CorruptImageError: a file of the row cannot be read, or its column `label` is empty.
        SegZooError: picture and mask do not fit together, or a label is no class.
    """
    image_name, label_name = row_names(row, index)
    label = row.get("label")
    if "label" in row and label is None:
        raise CorruptImageError(f"{image_name}: there is no mask for it.")
    encoding = row.get("label_encoding")
    joint = transform.joint if isinstance(transform, LevelsTransform) else transform
    joint = joint if isinstance(joint, JointTransform) else None
    image, mask = decode_pair(
        row["image"],
        label,
        image_name=image_name,
        label_name=label_name,
        encoding=encoding,
        num_channels=num_channels,
        on_note=on_note,
        wanted=joint.wanted_size(rng) if joint is not None and joint.reduced_decoding and label is not None else None,
        decoder=None if joint is None else decode_jpeg,  # what a model is tested on, Pillow decodes everywhere
        label_decoder=None if joint is None else decode_grey_png,
    )
    item = dict(transform(image, mask, rng) if joint is None else transform(image, mask, rng, wanted))
    if num_labels is not None and "labels" in item:
        check_labels(item["labels"], num_labels, ignore_index, label_name)
    return {**item, "index": index, "name": image_name.removesuffix(f" (row {index})")}


class Draw(NamedTuple):
    """What `SegmentationDataset` takes beside an index: a draw of a row in an epoch.

    Attributes:
        index: of the row.
        turn: number of earlier draws of the row in the epoch; each has random numbers of its own.
        wanted: id of the class that it was drawn for, and that a random crop shall show; None: of any.
    """

    index: int
    turn: int = 0
    wanted: int | None = None


class NoteOnce:
    """Warns of the first of many similar notes; all loading processes together tell one."""

    def __init__(self) -> None:
        self._told = torch.zeros((), dtype=torch.bool).share_memory_()

    def __call__(self, text: str) -> None:
        """Warn, unless a note was told before."""
        if not self._told:
            self._told.fill_(True)
            warnings.warn(f"{text} (told once for this data set)", stacklevel=2)


def too_many_corrupt(error: CorruptImageError, max_corrupt: int) -> CorruptImageError:
    """The error for a broken sample when ``max_corrupt`` others have been passed over already."""
    return CorruptImageError(
        f"{error} {max_corrupt} broken sample(s) were passed over before, as many as max_corrupt allows."
    )


def warn_of_corrupt(error: CorruptImageError, number: int, max_corrupt: int) -> None:
    """Warn that a broken sample, the ``number``-th so far, is passed over."""
    warnings.warn(
        f"{error} Another one takes its place (broken sample {number} of at most {max_corrupt}).", stacklevel=4
    )


class SegmentationDataset(torch.utils.data.Dataset):
    """Decodes and transforms rows of `load_segmentation_dataset`.

    The random numbers of a sample are those of `numpy.random.default_rng([seed, epoch, index])`, whatever the number
    of workers or processes. The epoch lives in shared memory, so that `set_epoch` reaches persistent workers.

    Args:
        dataset: `datasets.Dataset` with the column `image` and, except for prediction, `label`; or any sequence of
            such mappings.
        transform: function of an image array, a mask array or None, and a `numpy.random.Generator` that returns a dict
            of tensors; see `build_train_transform`.
        seed: seed of the augmentation.
        num_labels: number of classes; the transformed labels are then checked with `check_labels`, whose error names
            the file. None: no check.
        ignore_index: id that never counts, for that check; None: the transform's, or 255 if it has none.
        max_corrupt: largest number of samples whose picture or mask cannot be read and that are replaced, each with
            one warning that names it. The next readable row takes the place, with the random numbers of the requested
            position. All workers of a loader count together; each process of a distributed training counts for itself.
        num_channels: number of channels that the model takes; None: the transform's, or 3 if it has none.

    Each item is the transform's dict with `index` (the requested position) and `name` (the picture's file). Reading an
    item raises `CorruptImageError` for the first corrupt file beyond `max_corrupt`.

    Raises:
        SegZooError: the data set is empty.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Any,
        *,
        seed: int = 0,
        num_labels: int | None = None,
        ignore_index: int | None = None,
        max_corrupt: int = 0,
        num_channels: int | None = None,
    ):
        self.dataset = undecoded(dataset)  # decoding happens here, where a broken file can be named
        if len(self.dataset) == 0:
            raise SegZooError("The data set is empty.")
        self.transform = transform
        self.seed = seed
        self.num_labels = num_labels
        self.ignore_index = getattr(transform, "ignore_index", 255) if ignore_index is None else ignore_index
        self.max_corrupt = max_corrupt
        self.num_channels = getattr(transform, "num_channels", 3) if num_channels is None else num_channels
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._note = NoteOnce()
        self._corrupt = torch.zeros(len(self.dataset) if max_corrupt else 0, dtype=torch.bool).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that determines the random numbers, with the seed and the index."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, also for running workers, from their next sample on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def names(self, index: int) -> tuple[str, str]:
        """Names of the picture and the mask of a row, for messages."""
        return row_names(self.dataset[int(index)], int(index))

    def __getitem__(self, index: int | Draw) -> dict[str, Any]:
        """The sample of a row's first draw in an epoch, or of a further one."""
        index, turn, wanted = Draw(*index) if isinstance(index, tuple) else Draw(int(index))
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        epoch = self.epoch
        for step in range(len(self)):
            place = (index + step) % len(self)
            rng = np.random.default_rng([self.seed, epoch, index, *([turn] if turn else [])])
            settings = {
                "num_labels": self.num_labels,
                "ignore_index": self.ignore_index,
                "num_channels": self.num_channels,
                "on_note": self._note,
                "wanted": wanted,
            }
            try:
                return {**make_sample(self.dataset[place], place, self.transform, rng, **settings), "index": index}
            except CorruptImageError as error:
                self._pass_over(place, error)
        raise CorruptImageError("No picture of the data set can be read.")

    def _pass_over(self, place: int, error: CorruptImageError) -> None:
        """Count a broken row; raise the error if there are more than `max_corrupt`."""
        if not self.max_corrupt:
            raise error
        is_new = not self._corrupt[place]
        self._corrupt[place] = True
        number = int(self._corrupt.sum())
        if number > self.max_corrupt:
            raise too_many_corrupt(error, self.max_corrupt) from error
        if is_new:
            warn_of_corrupt(error, number, self.max_corrupt)
