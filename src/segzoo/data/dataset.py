"""A table of pictures and masks as a torch data set whose augmentation depends on (seed, epoch, index) alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..errors import SegZooError
from .checks import check_labels
from .decoding import decode_pair


class SegmentationDataset(torch.utils.data.Dataset):
    """Decodes and transforms rows of `load_segmentation_dataset`.

    The random numbers of a sample are those of `numpy.random.default_rng([seed, epoch, index])`, whatever the number
    of workers or processes. The epoch lives in shared memory, so that `set_epoch` reaches persistent workers.

    Args:
        dataset: `datasets.Dataset` with columns `image` and, but for prediction, `label`; or any sequence of mappings.
        transform: Called with (image array, mask array or None, generator), returns a dict of tensors; see
            `build_train_transform`.
        seed: Seed of the augmentation.
        num_labels: Given, the labels that come out are checked (`check_labels`), and the file of a bad id is named.
        ignore_index: Id that never counts, for that check; by default the transform's.

    Each item is the transform's dict with `index` (position in the table) and `name` (the picture's file).
    """

    def __init__(
        self,
        dataset: Any,
        transform: Any,
        *,
        seed: int = 0,
        num_labels: int | None = None,
        ignore_index: int | None = None,
    ):
        columns = getattr(dataset, "column_names", None)
        if columns is not None:
            if "image" not in columns:
                raise SegZooError(f"The data set has no column 'image'; it has {', '.join(columns)}.")
            import datasets

            for column in ("image", "label"):  # decode here, where a broken file can be named
                if isinstance(dataset.features.get(column), datasets.Image):
                    dataset = dataset.cast_column(column, datasets.Image(decode=False))
        if len(dataset) == 0:
            raise SegZooError("The data set is empty.")
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.num_labels = num_labels
        self.ignore_index = getattr(transform, "ignore_index", 255) if ignore_index is None else ignore_index
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that random numbers are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; also seen by workers that run already, from their next sample on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def names(self, index: int) -> tuple[str, str]:
        """What to call the picture and the mask of a row."""
        row = self.dataset[int(index)]
        return self._names(row, int(index))

    @staticmethod
    def _names(row: Any, index: int) -> tuple[str, str]:
        found = []
        for column, what in (("image", "image"), ("label", "mask")):
            value = row.get(column)
            path = row.get(f"{column}_path") or (value.get("path") if isinstance(value, dict) else None)
            found.append(str(path) if path else f"{what} of row {index}")
        return found[0], found[1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        if index < 0:
            index += len(self)
        row = self.dataset[index]
        image_name, label_name = self._names(row, index)
        image, mask = decode_pair(row["image"], row.get("label"), image_name=image_name, label_name=label_name)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        item = dict(self.transform(image, mask, rng))
        if self.num_labels is not None and "labels" in item:
            check_labels(item["labels"], self.num_labels, self.ignore_index, label_name)
        return {**item, "index": index, "name": image_name}
