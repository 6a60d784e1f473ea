"""The order of the training data, which depends on seed and position only: training resumes where it stopped."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from segzoo.data import SegmentationDataset, collate_training
from segzoo.data.dataset import Draw
from segzoo.data.loader import Loader
from segzoo.data.row_counts import RowCounts
from segzoo.errors import SegZooError


def batch_sizes(
    per_device: int | None, accumulation: int | None, total: int | None, num_processes: int, default: int = 8
) -> tuple[int, int]:
    """Divide a recipe's batch over processes and passes.

    Args:
        per_device: pictures per process and pass that the user asks for, or None.
        accumulation: passes per optimizer step that the user asks for, or None. If both are given, they win over
            ``total``.
        total: pictures per optimizer step, over all processes and passes; None: it follows from the others.
        num_processes: number of processes that train together.
        default: ``per_device`` if neither the user nor ``total`` decides it.

    Returns:
        Pictures per process and pass, and passes per optimizer step.

    Raises:
        SegZooError: the total cannot be divided in this way.
    """
    if total is None or (per_device is not None and accumulation is not None):
        return per_device or default, accumulation or 1
    given = num_processes * (per_device or accumulation or 1)
    if total % given:
        parts = [f"{num_processes} processes"] if num_processes > 1 else []
        parts += [f"--per_device_train_batch_size {per_device}"] if per_device else []
        parts += [f"--gradient_accumulation_steps {accumulation}"] if accumulation else []
        raise SegZooError(
            f"a batch of {total} pictures cannot be divided by {' and '.join(parts)}; change them, or --total_train_batch_size"
        )
    if per_device is not None:
        return per_device, total // given
    return total // given, accumulation or 1


def too_few_pictures(num_samples: int, batch_size: int, num_processes: int) -> SegZooError:
    """The error of a training on fewer pictures than all processes together take at a time."""
    processes = f" in {num_processes} processes" if num_processes > 1 else ""
    return SegZooError(
        f"the train split has {num_samples} pictures, fewer than one batch of {batch_size}{processes}; "
        "lower --per_device_train_batch_size"
    )


class EpochBatches(Sampler):
    """Batches of indices of one epoch, for one of several processes.

    Every epoch is a permutation that depends on seed and epoch only. All processes together take ``batch_size *
    num_processes`` samples at a time, a round; the last incomplete round is left out, so that every batch is full and
    no sample comes twice in an epoch.

    Args:
        num_samples: size of the data set.
        batch_size: samples per batch and process.
        seed: seed of the permutations.
        process_index, num_processes: they decide which part of each round this process gets.

    Raises:
        SegZooError: the data set has fewer samples than one round.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, seed: int = 0, process_index: int = 0, num_processes: int = 1
    ):
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.process_index, self.num_processes = process_index, num_processes
        self.round_size = batch_size * num_processes
        self.batches_per_epoch = num_samples // self.round_size
        if self.batches_per_epoch == 0:
            raise too_few_pictures(num_samples, batch_size, num_processes)
        self.epoch = self.first = 0

    def set_position(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch and the first batch of the next iteration."""
        self.epoch, self.first = epoch, first

    def indices(self, batch: int) -> list[int]:
        """Indices of the samples of one batch of the current epoch, for this process."""
        start = batch * self.round_size + self.process_index * self.batch_size
        return self._permutation()[start : start + self.batch_size]

    def _permutation(self) -> list[Any]:
        """The samples of the current epoch in order."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.num_samples).tolist()

    def __iter__(self) -> Iterator[list[Any]]:
        order = self._permutation()
        for batch in range(self.first, self.batches_per_epoch):
            start = batch * self.round_size + self.process_index * self.batch_size
            yield order[start : start + self.batch_size]

    def __len__(self) -> int:
        return self.batches_per_epoch - self.first


PICTURE_SHARE = 3000 / (1052 * 1914)
"""Share of a picture from which on it shows a class well: DAFormer's 3000 pixels, of the pictures of GTA V."""


class BalancedBatches(EpochBatches):
    """Batches of an epoch in which rare classes come first, as in DAFormer (https://arxiv.org/abs/2111.14887, 3.2).

    For each sample a class is drawn with a chance in proportion to exp((1 - f) / temperature), where f is the class's
    share of the pixels, and then one of the pictures that show it well: on `PICTURE_SHARE` of their pixels, or on as many
    pixels as the better half of those that show it at all. An epoch is as many draws as there are pictures, and depends
    on seed and epoch only. Items are a `Draw` each: a picture that is drawn again in an epoch is augmented anew, and
    `RandomCrop` looks for the class.

    Args:
        counts: the classes of every picture.
        batch_size, seed, process_index, num_processes: see `EpochBatches`.
        temperature: the smaller, the rarer the classes that are drawn.

    Raises:
        SegZooError: there are fewer pictures than one round, or none of them shows any class.
    """

    def __init__(
        self,
        counts: RowCounts,
        batch_size: int,
        *,
        temperature: float = 0.01,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
    ):
        super().__init__(
            len(counts.pixels), batch_size, seed=seed, process_index=process_index, num_processes=num_processes
        )
        share = counts.summed().share
        self.classes = np.flatnonzero(share)
        if len(self.classes) == 0:
            raise SegZooError("balanced sampling: no pixel of the training pictures belongs to a class")
        rarity = (1 - share[self.classes]) / temperature
        chances = np.exp(rarity - rarity.max())
        self.chances = chances / chances.sum()
        well = PICTURE_SHARE * (counts.pixels.sum(axis=1, dtype=np.int64) + counts.ignored)
        self.pictures = []
        for found in self.classes:
            shown = counts.pixels[:, found]
            least = np.minimum(well, np.median(shown[shown > 0]))
            self.pictures.append(np.flatnonzero((shown > 0) & (shown >= least)))

    def indices(self, batch: int) -> list[int]:
        """Indices of the samples of one batch of the current epoch, for this process."""
        return [item.index for item in super().indices(batch)]

    def _permutation(self) -> list[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        classes = rng.choice(len(self.classes), size=self.num_samples, p=self.chances)
        places = rng.random(self.num_samples)
        seen: Counter[int] = Counter()
        order: list[Draw] = []
        for found, place in zip(classes, places, strict=True):
            pictures = self.pictures[found]
            index = int(pictures[int(place * len(pictures))])
            order.append(Draw(index, seen[index], int(self.classes[found])))
            seen[index] += 1
        return order


def training_batches(
    dataset: SegmentationDataset,
    order: EpochBatches,
    *,
    first_batch: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    collate: Callable = collate_training,
) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches, one epoch after the other.

    Args:
        dataset: the training data; its epoch is set.
        order: the order of the samples.
        first_batch: how many batches, counted over all epochs, have been used already; they are not loaded again.
        num_workers: number of data-loading processes, which live as long as the iterator; 0 loads in this process.
        pin_memory: put batches into pinned memory, for faster copies to a GPU.
        collate: makes a batch from a list of samples.
    """
    loader = Loader(dataset, order, collate=collate, num_workers=num_workers, keep_workers=True, pin_memory=pin_memory)
    epoch, first = divmod(first_batch, order.batches_per_epoch)
    while True:
        dataset.set_epoch(epoch)
        order.set_position(epoch, first)
        yield from loader
        epoch, first = epoch + 1, 0
