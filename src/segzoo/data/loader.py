"""Batches from loading processes: the same on a machine without shared memory, and with the errors of one process."""

from __future__ import annotations

import errno
import io
import math
import multiprocessing.queues
import os
import pickle
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from segzoo.data.workers import outlive_stop_signals
from segzoo.errors import SegZooError
from segzoo.memory import keep_freed_memory
from segzoo.progress import say

SHARED_MEMORY = "/dev/shm"
"""Where Linux keeps shared memory: a file system whose size is its limit, in a container of docker 64 MB."""

_RESERVE = 4 * 2**20  # bytes that are left to others, such as semaphores and NCCL
_ALIGNMENT = 64  # bytes
_PREFETCHED = 2  # batches for each process, torch's default
_SHELVED = 2 * _PREFETCHED + 1  # blocks that a process keeps: those on their way, in use, and being filled
_HEADER = 64  # bytes before what a block holds
_FREE, _IN_USE = 0, 1
_NO_SHARED_MEMORY = (errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSYS)


class Loader(DataLoader):
    """A `DataLoader` whose loading processes neither hang nor end where memory or files are scarce.

    Of every batch all tensors travel in one piece of shared memory, so that one file descriptor is enough; it is used again
    once the batch is gone. Where /dev/shm has no room for it, the batch goes through a pipe instead: slower, and told
    once. An error in a loading process is raised here with its own type and message.

    Args:
        dataset: the samples.
        batch_sampler: the indices of each batch.
        collate: makes a batch of a list of samples.
        num_workers: number of loading processes; 0 loads in this process.
        keep_workers: let the processes live from one iteration to the next.
        pin_memory: put tensors into page-locked memory, which is copied to a GPU faster.
    """

    _has_told: ClassVar[bool] = False

    def __init__(
        self,
        dataset: Any,
        batch_sampler: Iterable[Any],
        *,
        collate: Callable[[list[Any]], Any],
        num_workers: int = 0,
        keep_workers: bool = False,
        pin_memory: bool = False,
    ):
        super().__init__(
            _Caught(dataset) if num_workers else dataset,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            persistent_workers=keep_workers and num_workers > 0,
            pin_memory=pin_memory,
            collate_fn=_Packing(collate) if num_workers else collate,
            worker_init_fn=_begin,
            # Without it, starting an iteration draws from the global random numbers.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Any]:
        """The batches.

        Raises:
            SegZooError: loading processes cannot be started without shared memory.
            RuntimeError: a loading process has ended, in the words of torch.
            Exception: the error of a sample.
        """
        if not self.num_workers:
            yield from super().__iter__()
            return
        room = _room()
        try:
            parcels = super().__iter__()
        except OSError as error:
            if error.errno not in _NO_SHARED_MEMORY:
                raise
            raise SegZooError(
                f"{SHARED_MEMORY}: loading processes cannot be started without shared memory ({error.strerror}); give it "
                "room (docker run --shm-size=2g, or remove what other programs left there), or load in the process itself: "
                "--dataloader_num_workers 0 in a training, --num_workers 0 elsewhere"
            ) from error
        yield from map(partial(self._opened, room=room), _arriving(parcels))

    def _opened(self, parcel: _Parcel | _Failure, *, room: int | None) -> Any:
        """The batch in a parcel; an error is raised."""
        if isinstance(parcel, _Failure):
            error = parcel.error
            try:
                raise error
            finally:
                del parcel, error  # in a circle with the traceback they would keep the loading processes alive
        self._tell(parcel, room)
        return parcel.unpacked()

    def _tell(self, parcel: _Parcel, room: int | None) -> None:
        """Warn, once in this process, that batches go through pipes or soon will.

        Args:
            parcel: a batch that has arrived.
            room: bytes that were free in shared memory before the first batch; None: no limit is known.
        """
        wanted = self.num_workers * _PREFETCHED * parcel.size + _RESERVE
        if Loader._has_told or room is None or parcel.size == 0 or (wanted <= room and not parcel.is_piped):
            return
        Loader._has_told = True
        warnings.warn(
            f"{SHARED_MEMORY} has {_megabytes(room)} free, and {self.num_workers} loading processes want "
            f"{_megabytes(wanted)} for batches of {_megabytes(parcel.size)}: what does not fit goes through pipes, which is "
            f"slower. Give it more room (docker run --shm-size={math.ceil(1.5 * wanted / 2**30)}g), or lower the number of "
            "loading processes.",
            stacklevel=4,
        )


def _arriving(parcels: Iterator[_Parcel | _Failure]) -> Iterator[_Parcel | _Failure]:
    """The parcels of loading processes, with the same error whenever one of them ends."""
    try:
        yield from parcels
    except (ConnectionError, EOFError) as error:  # it was killed with a batch on its way
        raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from error


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.3g} MB" if size < 2**20 * 999 else f"{size / 2**30:.3g} GB"


def _room() -> int | None:
    """Bytes that are free in shared memory; None where it has no limit of its own, as on macOS and Windows."""
    if sys.platform != "linux":
        return None
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


# In a loading process


def _begin(worker_id: int) -> None:
    outlive_stop_signals(worker_id)
    keep_freed_memory()  # every batch is as large as the one before it
    # Otherwise a batch that cannot be sent is dropped, and the training waits for it for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_unsent)


def _end_unsent(error: BaseException, _: object) -> None:
    say(f"a loading process cannot hand over its batch: {type(error).__name__}: {error}", stream=sys.stderr)
    os._exit(1)


@dataclass(frozen=True)
class _Failure:
    """The error of a sample, as an item: raised in a loading process, it would become a traceback in a message."""

    error: Exception

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        """A failure that can be sent to another process."""
        if not isinstance(error, SegZooError):
            error.add_note(f"In a loading process:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return cls(RuntimeError(f"{type(error).__name__}: {error}"))
        return cls(error)


@dataclass(frozen=True)
class _Caught(Dataset):
    """A data set whose errors are items."""

    dataset: Any

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except Exception as error:
            return _Failure.of(error)


@dataclass(frozen=True)
class _Packing:
    """Makes a batch and packs it; the first error of a sample takes the batch's place."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> _Parcel | _Failure:
        failure = next((sample for sample in samples if isinstance(sample, _Failure)), None)
        if failure is not None:
            return failure
        try:
            return _Parcel.of(self.collate(samples), _SHELF)
        except Exception as error:
            return _Failure.of(error)


class _Shelf:
    """Shared memory of a loading process, in blocks that are used again once the batches in them are gone.

    The first writing to a block takes many times as long as the next, because the kernel finds and clears its pages.
    A block begins with a header, whose first byte says whether it is in use.
    """

    def __init__(self) -> None:
        self._blocks: list[torch.Tensor] = []

    def take(self, size: int) -> torch.Tensor | None:
        """A block, uint8 (header and at least ``size`` bytes), marked as in use; None if there is no room for one."""
        wanted = _HEADER + size
        for block in [block for block in self._blocks if block[0] == _FREE]:
            if wanted <= len(block) <= 2 * wanted:
                block[0] = _IN_USE
                return block
            # Batches have become larger or smaller.
            self._blocks = [other for other in self._blocks if other is not block]
        fresh = _shared_block(wanted)
        if fresh is not None:
            fresh[0] = _IN_USE
            if len(self._blocks) < _SHELVED:
                self._blocks.append(fresh)
        return fresh


_SHELF = _Shelf()
"""That of this process."""


def _give_back(state: torch.Tensor, process: int) -> None:
    if os.getpid() == process:  # a process that was forked from it has the same objects, and no say
        state.fill_(_FREE)


def _lent(block: torch.Tensor, size: int) -> torch.Tensor:
    """What a block holds, uint8 (size,): once no tensor of it is left in this process, the block is given back."""
    contents = block[_HEADER : _HEADER + size].numpy()
    # Tensors made from an array keep this very object; of tensors that share memory nothing tells when the last one is gone.
    weakref.finalize(contents, _give_back, block[:1], os.getpid()).atexit = False
    return torch.from_numpy(contents)


@dataclass(frozen=True)
class _Parcel:
    """A batch on its way.

    Attributes:
        data: the pickled batch, without the contents of its tensors.
        contents: the contents of all tensors, uint8 (size,).
        is_piped: whether contents had to take the pipe.
        block: in a loading process, the shared memory that they are in.
    """

    data: bytes
    contents: torch.Tensor
    is_piped: bool
    block: torch.Tensor | None = None

    @classmethod
    def of(cls, batch: Any, shelf: _Shelf) -> _Parcel:
        """Pack a batch."""
        with io.BytesIO() as file:
            pickler = _Pickler(file)
            pickler.dump(batch)
            data = file.getvalue()
        size = pickler.size
        block = shelf.take(size) if size else None
        contents = torch.empty(size, dtype=torch.uint8) if block is None else block[_HEADER : _HEADER + size]
        for tensor, place in pickler.tensors:
            place.view(contents).copy_(tensor)
        return cls(data, contents, size > 0 and block is None, block)

    def __reduce__(self) -> tuple[Any, ...]:
        contents = self.contents.numpy() if self.block is None else self.block  # an array goes through the pipe
        return _arrived, (self.data, contents, self.size, self.is_piped)

    @property
    def size(self) -> int:
        """Number of bytes of the tensors."""
        return len(self.contents)

    def unpacked(self) -> Any:
        """The batch; its tensors share the memory of this parcel."""
        return _Unpickler(io.BytesIO(self.data), self.contents).load()

    def pin_memory(self) -> _Parcel:
        """The parcel in page-locked memory; `DataLoader` calls this where memory is to be pinned."""
        return replace(self, contents=self.contents.pin_memory())


def _arrived(data: bytes, contents: torch.Tensor | np.ndarray, size: int, is_piped: bool) -> _Parcel:
    own = torch.from_numpy(contents) if isinstance(contents, np.ndarray) else _lent(contents, size)
    return _Parcel(data, own, is_piped)


def _shared_block(size: int) -> torch.Tensor | None:
    """Shared memory of so many bytes, uint8 (size,); None if there is no room for it."""
    room = _room()
    if size == 0 or (room is not None and room < size + _RESERVE):
        return None
    try:
        storage = torch.UntypedStorage._new_shared(size, device="cpu")
    except RuntimeError:  # another process was faster
        return None
    return torch.empty(0, dtype=torch.uint8).set_(storage)


@dataclass(frozen=True)
class _Place:
    """Where the contents of a tensor are in a block of bytes.

    Attributes:
        start: the first byte.
        dtype, shape, stride: those of the tensor.
    """

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor, start: int) -> _Place:
        """A place for a tensor, whose order in memory is kept if it has no gaps."""
        shape, stride = tuple(tensor.shape), tensor.stride()
        reach = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if reach != tensor.numel():
            stride = torch.empty_like(tensor, device="meta").stride()  # in the same order: rows are copied whole
        return cls(start, tensor.dtype, shape, stride)

    def view(self, block: torch.Tensor) -> torch.Tensor:
        """The tensor at this place of a block, sharing its memory."""
        length = math.prod(self.shape) * self.dtype.itemsize
        values = block[self.start : self.start + length].view(self.dtype)
        return values.as_strided(self.shape, self.stride) if length else values.reshape(self.shape)


class _Pickler(pickle.Pickler):
    """Pickles a batch with a `_Place` for each tensor.

    Attributes:
        tensors: the tensors and their places.
        size: number of bytes of all of them.
    """

    def __init__(self, file: io.BytesIO):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[tuple[torch.Tensor, _Place]] = []
        self.size = 0

    def persistent_id(self, value: Any) -> _Place | None:
        if type(value) is not torch.Tensor or value.layout != torch.strided or value.device.type != "cpu":
            return None
        place = _Place.of(value, self.size)
        self.tensors.append((value.detach(), place))
        self.size += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
        return place


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, block: torch.Tensor):
        super().__init__(file)
        self._block = block

    def persistent_load(self, place: _Place) -> torch.Tensor:
        return place.view(self._block)
