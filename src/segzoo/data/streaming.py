"""A stream of pictures and masks whose batches depend on (seed, epoch, position) alone, starting at any position."""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from segzoo.data.collate import collate_training
from segzoo.data.dataset import NoteOnce, make_sample, too_many_corrupt, warn_of_corrupt
from segzoo.data.decoding import CorruptImageError
from segzoo.data.loader import Loader
from segzoo.data.rows import undecoded
from segzoo.errors import SegZooError, first_line


@dataclass(frozen=True)
class _Place:
    """A row, undecoded, and its position in the order of an epoch."""

    epoch: int
    index: int
    row: dict[str, Any]


@dataclass(frozen=True)
class _Failure:
    """The item of a place whose row cannot be used.

    An item passes from a worker to the main process with its one-line error; raised in the worker, it would become a
    traceback.
    """

    place: _Place
    error: SegZooError


class SegmentationStream:
    """Decodes and transforms the rows of a stream of `load_segmentation_dataset(..., streaming=True)`.

    Every epoch goes through the rows in an order that depends on (seed, epoch): `datasets.IterableDataset.shuffle`
    puts the parts of the data in random order, and shuffles within a buffer. The random numbers of a sample are those
    of `numpy.random.default_rng([seed, epoch, index])`, where `index` is its position in that order. So batches do not
    depend on the number of workers, and those of several processes are, taken together, those of one.

    Each process reads all rows, undecoded, and decodes its own: decoding is divided among processes, reading is not.

    Args:
        rows: `datasets.IterableDataset` with the column `image` and, except for prediction, `label`.
        transform: function of an image array, a mask array or None, and a `numpy.random.Generator` that returns a dict
            of tensors; see `build_train_transform`.
        seed: seed of order and augmentation.
        num_labels, ignore_index, num_channels: see `SegmentationDataset`.
        max_corrupt: largest number of different samples whose files cannot be read and that are passed over, each with
            a warning that names the file. In a batch, the next readable row in the order of training takes the place,
            with the random numbers of that place. Each process counts its own.
        shuffle_buffer: number of undecoded rows that are kept to draw from; 0 or 1 keeps the order of the data.
        process_index, num_processes: number of this process, from 0, and number of all; they divide each round of
            batches.

    A training reads `batches`. Iterating gives the samples of one epoch: the transform's dict with `index` and
    `name` (the picture's file); of n processes, each gets every n-th.

    Raises:
        SegZooError: there is no column `image`. While reading: the source broke off, or a sample is faulty in a way
            that items of `SegmentationDataset` raise for.
    """

    def __init__(
        self,
        rows: Any,
        transform: Any,
        *,
        seed: int = 0,
        num_labels: int | None = None,
        ignore_index: int | None = None,
        max_corrupt: int = 0,
        shuffle_buffer: int = 1000,
        process_index: int = 0,
        num_processes: int = 1,
        num_channels: int | None = None,
    ):
        rows = undecoded(rows)
        self.rows = rows.shuffle(seed=seed, buffer_size=shuffle_buffer) if shuffle_buffer > 1 else rows
        self.transform = transform
        self.max_corrupt = max_corrupt
        self.process_index, self.num_processes = process_index, num_processes
        self.epoch = 0
        if ignore_index is None:
            ignore_index = getattr(transform, "ignore_index", 255)
        self.num_channels = getattr(transform, "num_channels", 3) if num_channels is None else num_channels
        self._decoder = _Decoder(transform, seed, num_labels, ignore_index, self.num_channels, NoteOnce())
        self._corrupt: set[int] = set()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; `batches` counts epochs itself."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for place in islice(self._places(self.epoch), self.process_index, None, self.num_processes):
            sample = self._decoder[place]
            if isinstance(sample, _Failure):
                self._pass_over(sample)
            else:
                yield sample

    def batches(
        self,
        batch_size: int,
        *,
        first_batch: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        collate: Callable[[list[dict[str, Any]]], dict[str, Any]] = collate_training,
    ) -> Iterator[dict[str, Any]]:
        """Endless batches of this process, one epoch after the other.

        All processes together take ``batch_size * num_processes`` rows of an epoch at a time. An incomplete last round
        is left out, so that every batch is full and no row comes twice in an epoch.

        Args:
            batch_size: number of samples in a batch of one process.
            first_batch: number of batches, counted over all epochs, to skip because they have been used already. Their
                rows are read but not decoded: at most one whole epoch, to learn its length, and the beginning of the
                current one.
            num_workers: number of processes that decode and transform. The calling process reads the rows and hands
                them over, up to two batches for each worker in advance. 0 decodes in the calling process.
            pin_memory: put batches into page-locked memory, which is copied to a GPU faster.
            collate: function that makes a batch of a list of samples.

        Raises:
            SegZooError: the data have fewer rows than one round, cannot be read, or have too many broken samples.
        """
        rounds = _Rounds(
            self._rounds(batch_size * self.num_processes, first_batch),
            part=slice(self.process_index * batch_size, (self.process_index + 1) * batch_size),
        )
        loader = Loader(
            self._decoder,
            rounds,  # rows instead of indices
            collate=_CollateWhole(collate),
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        for batch in loader:
            if isinstance(batch, list):
                batch = collate([self._replaced(s, rounds) if isinstance(s, _Failure) else s for s in batch])
            rounds.under_way.popleft()
            yield batch

    def _places(self, epoch: int) -> Iterator[_Place]:
        """The rows of an epoch in order."""
        self.rows.set_epoch(epoch)
        rows, index = iter(self.rows), 0
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:  # of files, networks and formats, each library's own
                raise SegZooError(
                    f"The data broke off after {index} rows of epoch {epoch}: {first_line(error)}. Go on from the last checkpoint."
                ) from error
            yield _Place(epoch, index, row)
            index += 1

    def _rounds(self, size: int, first: int) -> Iterator[list[_Place]]:
        """Endless complete rounds of ``size`` rows, beginning with round number ``first``, which counts from 0."""
        epoch = 0
        while True:
            places, number = self._places(epoch), 0
            while len(places_of_round := list(islice(places, size))) == size:
                if number >= first:
                    yield places_of_round
                number += 1
            if number == 0:
                raise SegZooError(
                    f"The train split has {len(places_of_round)} pictures, fewer than the {size} of one batch on "
                    f"{self.num_processes} process(es); lower --per_device_train_batch_size"
                )
            # All epochs have as many rounds, so those before the first one that counts need not be read.
            epoch += max(1, first // number)
            first = first % number if first >= number else 0

    def _pass_over(self, failure: _Failure) -> None:
        """Count a sample that cannot be read; raise if there are more than `max_corrupt`, or for any other failure."""
        if not self.max_corrupt or not isinstance(failure.error, CorruptImageError):
            raise failure.error
        files = _fingerprint(failure.place.row)
        if files not in self._corrupt:
            if len(self._corrupt) == self.max_corrupt:
                raise too_many_corrupt(failure.error, self.max_corrupt)
            self._corrupt.add(files)
            warn_of_corrupt(failure.error, len(self._corrupt), self.max_corrupt)

    def _replaced(self, failure: _Failure, rounds: _Rounds) -> dict[str, Any]:
        """The sample that takes the place of a broken one."""
        self._pass_over(failure)
        others = rounds.after(failure.place)
        while True:
            other = next(others)
            sample = self._decoder.decode(other.row, failure.place)
            if not isinstance(sample, _Failure):
                return sample
            self._pass_over(_Failure(other, sample.error))


class _Rounds:
    """Yields this process's part of every round, and keeps the rounds that are under way.

    Args:
        source: endless rounds, in order.
        part: the part of each round that is yielded.
    """

    def __init__(self, source: Iterator[list[_Place]], part: slice):
        self.source, self.part = source, part
        self.under_way: deque[list[_Place]] = deque()
        self.read_ahead: deque[list[_Place]] = deque()

    def __iter__(self) -> Iterator[list[_Place]]:
        while True:
            places = self.read_ahead.popleft() if self.read_ahead else next(self.source)
            self.under_way.append(places)
            yield places[self.part]

    def after(self, place: _Place) -> Iterator[_Place]:
        """The rows after ``place``, which is in the oldest round under way, in the order of training."""
        oldest = self.under_way[0]
        yield from oldest[place.index - oldest[0].index + 1 :]
        for places in [*list(self.under_way)[1:], *self.read_ahead]:
            yield from places
        while True:
            self.read_ahead.append(next(self.source))
            yield from self.read_ahead[-1]


@dataclass(frozen=True)
class _Decoder(torch.utils.data.Dataset):
    """Samples of places; a data set to a `DataLoader`, whose workers get rows instead of indices."""

    transform: Any
    seed: int
    num_labels: int | None
    ignore_index: int
    num_channels: int
    note: NoteOnce

    def __getitem__(self, place: _Place) -> dict[str, Any] | _Failure:
        return self.decode(place.row, place)

    def decode(self, row: dict[str, Any], place: _Place) -> dict[str, Any] | _Failure:
        """The sample of a row at a place, which gives the random numbers."""
        rng = np.random.default_rng([self.seed, place.epoch, place.index])
        settings = {
            "num_labels": self.num_labels,
            "ignore_index": self.ignore_index,
            "num_channels": self.num_channels,
            "on_note": self.note,
        }
        try:
            return make_sample(row, place.index, self.transform, rng, **settings)
        except SegZooError as error:
            return _Failure(place, error)


@dataclass(frozen=True)
class _CollateWhole:
    """Makes a batch of samples, unless one has failed: then the list is passed on for the main process to repair."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, samples: list[Any]) -> Any:
        return samples if any(isinstance(sample, _Failure) for sample in samples) else self.collate(samples)


def _fingerprint(row: dict[str, Any]) -> int:
    """A checksum of a row's files, by which broken rows are recognised in the orders of other epochs."""
    digest = 0
    for value in (row["image"], row.get("label")):
        value = value if isinstance(value, dict) else {}
        data = value.get("bytes") or os.fsencode(str(value.get("path")))
        digest = zlib.crc32(data, digest)
    return digest
