"""Many pictures: reading and writing in threads while the model runs, going on after an end, errors of one picture."""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.errors import SegZooError, cause_of
from segzoo.files import remove_abandoned
from segzoo.images.reading import Header, Picture, open_picture, read_header
from segzoo.inference.streams import in_streams
from segzoo.prediction.inputs import Input
from segzoo.prediction.labeller import Labeller, Prediction
from segzoo.prediction.results import Results
from segzoo.shortages import shortage_of

QUICK_PIXELS = 4_000_000
"""Up to this number of pixels speed matters more than memory: several pictures are held at once."""
_AHEAD, _BEHIND = 2, 4  # batches that are read before the model asks for them; pictures that wait for being written
# What is wrong with the folder of the results, and not with one picture's.
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
FETCHERS = 4  # pictures that are fetched at once; twice as many are ahead of the work


@dataclass
class Task:
    """A picture whose file has been looked at.

    Args:
        picture: the picture.
        header: what its file says.
        opened: the picture itself, if it has been read already.
        is_copy: its file was fetched, and goes once the results are there.
    """

    picture: Input
    header: Header
    opened: Picture | None = field(default=None, repr=False)
    is_copy: bool = False

    @classmethod
    def of(cls, picture: Input, *, whole: bool = False) -> Task:
        """A picture on this machine.

        Args:
            picture: the picture.
            whole: read it whole already.

        Raises:
            SegZooError: it cannot be read.
        """
        opened = open_picture(picture.path, name=picture.name) if whole else None
        return cls(picture, read_header(picture.path, name=picture.name), opened)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return self.header.upright_size[::-1]

    @property
    def is_large(self) -> bool:
        """Whether it is labelled alone, so that memory holds no other picture."""
        return self.size[0] * self.size[1] > QUICK_PIXELS


@dataclass(frozen=True)
class _Read:
    """A picture that was read, or why it could not be; and the seconds that it took."""

    task: Task
    image: np.ndarray | Exception
    seconds: float


@dataclass(frozen=True)
class _Labelled:
    """What was found for a picture, or why nothing was; and the seconds that it took to read and label it."""

    task: Task
    found: Prediction | Exception
    seconds: float


@dataclass(frozen=True)
class Written:
    """A picture whose results are there.

    Args:
        picture: the picture.
        areas: as `Prediction.areas`.
        seconds: spent on reading, labelling and writing it.
    """

    picture: Input
    areas: list[dict[str, Any]]
    seconds: float


@dataclass
class Failures:
    """Pictures that could not be labelled.

    Args:
        skip: note the errors of single pictures and go on; False raises the first one.
        found: (name, error) of each picture.
    """

    skip: bool = False
    found: list[tuple[str, str]] = field(default_factory=list)

    def note(self, name: str, error: Exception) -> None:
        """Note the error of a picture, or raise it.

        Raises:
            Exception: the error, if it is to end the run, or is a fault of segzoo.
        """
        line = shortage_of(error) or (cause_of(error) if isinstance(error, SegZooError | OSError) else None)
        if not self.skip or line is None:
            raise error
        self.found.append((name, line.removeprefix(f"{name}: ")))


def looked_at(pictures: Sequence[Input], failures: Failures) -> list[Task]:
    """Read the headers of pictures on this machine, so that what is no picture is found before the work.

    The first picture is read whole, and not read again.

    Args:
        pictures: the pictures.
        failures: where those that cannot be read are noted.
    """
    tasks: list[Task] = []
    for picture in pictures:
        try:
            tasks.append(Task.of(picture, whole=not tasks))
        except Exception as error:
            failures.note(picture.name, error)
    return tasks


class Downloads:
    """Pictures on the web that are fetched in threads, some ahead of the work; a context that ends the threads.

    Args:
        pictures: the pictures.
        folder: where they are kept until their results are there.
        failures: where those that cannot be fetched, or are no pictures, are noted.
    """

    def __init__(self, pictures: Sequence[Input], folder: Path, failures: Failures):
        self.pictures, self.failures = list(pictures), failures
        self._folder = folder
        self._waiting = deque(self.pictures)
        self._begun: deque[tuple[Input, Future[Task]]] = deque()
        self._first: Task | None = None
        self._threads = ThreadPoolExecutor(FETCHERS)

    def first(self) -> Task | None:
        """The first picture that can be used, which stays among the others; None if there is none."""
        self._first = self._first or self._next()
        return self._first

    def take(self, most: int) -> list[Task]:
        """The next pictures, at most some; none if there are no more. It waits for them."""
        tasks = [] if self._first is None else [self._first]
        self._first = None
        while len(tasks) < most and (task := self._next()) is not None:
            tasks.append(task)
        return tasks

    def __enter__(self) -> Downloads:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _next(self) -> Task | None:
        while self._begun or self._waiting:
            while self._waiting and len(self._begun) < 2 * FETCHERS:
                picture = self._waiting.popleft()
                self._begun.append((picture, self._threads.submit(self._fetch, picture)))
            picture, future = self._begun.popleft()
            try:
                return future.result()
            except Exception as error:
                self.failures.note(picture.name, error)
        return None

    def _fetch(self, picture: Input) -> Task:
        fetched = picture.fetched(self._folder)
        try:
            return replace(Task.of(fetched), is_copy=True)
        except Exception:
            fetched.path.unlink(missing_ok=True)
            raise


def batches_of(tasks: Sequence[Task], batch_size: int) -> list[list[Task]]:
    """Lists of at most ``batch_size`` pictures of one size; large pictures are alone.

    They are in the order of their first pictures.
    """
    if batch_size == 1:
        return [[task] for task in tasks]
    batches: list[list[Task]] = []
    open_batches: dict[tuple[int, int], list[Task]] = {}
    for task in tasks:
        batch = open_batches.get(task.size)
        if task.is_large or batch is None or len(batch) == batch_size:
            batch = []
            batches.append(batch)
            open_batches[task.size] = batch
        batch.append(task)
    return batches


def label_pictures(
    labeller: Labeller,
    tasks: Sequence[Task],
    results: Results,
    output: Path,
    failures: Failures,
    *,
    batch_size: int = 1,
    downloads: Downloads | None = None,
) -> Iterator[Written]:
    """Label pictures and write their results; each is handed over once its results are there.

    The next pictures are read, and earlier results written, in threads, and small batches are labelled several at a
    time; at most some small pictures, or one large one, are held at once.

    Args:
        labeller: the model.
        tasks: the pictures.
        results: what is written.
        output: the folder for it.
        failures: where errors of single pictures are noted.
        batch_size: how many pictures of one size go through the model together.
        downloads: pictures that come after them.

    Returns:
        One entry for each picture that has been written, in the order of `batches_of`.
    """
    pictures = [task.picture for task in tasks] + ([] if downloads is None else downloads.pictures)
    for folder in {output, *((output / name).parent for picture in pictures for name in results.names(picture))}:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
    results.begin(output, labeller)
    written: deque[tuple[str, float, Future[Written]]] = deque()

    def finished(most: int) -> Iterator[Written]:
        while len(written) > most:
            name, seconds, future = written.popleft()
            try:
                done = future.result()
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _NO_PLACE:
                    raise
                failures.note(name, error)
            else:
                yield replace(done, seconds=done.seconds + seconds)

    def begin_writing(one: _Labelled) -> None:
        if isinstance(one.found, Exception):
            failures.note(one.task.picture.name, one.found)
        else:
            future = _begin(writer, one.task, _write, results, output, one.task, one.found)
            written.append((one.task.picture.name, one.seconds, future))

    def is_small(batch: Sequence[_Read]) -> bool:
        images = [one.image for one in batch if not isinstance(one.image, Exception)]
        return not batch[0].task.is_large and labeller.is_small(images)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(2) as writer:
        read = _read_ahead(reader, _all_batches(tasks, downloads, batch_size), labeller.num_channels)
        label = partial(_labelled, labeller)
        with closing(in_streams(label, read, count=labeller.num_streams, is_small=is_small)) as batches:
            for batch in batches:
                is_large = batch[0].task.is_large
                while batch:
                    begin_writing(batch.pop(0))
                yield from finished(0 if is_large else _BEHIND)
        yield from finished(0)


def _all_batches(tasks: Sequence[Task], downloads: Downloads | None, batch_size: int) -> Iterator[list[Task]]:
    """The batches of pictures on this machine, then those of each few that have been fetched."""
    yield from batches_of(tasks, batch_size)
    while downloads is not None and (fetched := downloads.take(batch_size)):
        yield from batches_of(fetched, batch_size)


def _read_ahead(reader: ThreadPoolExecutor, batches: Iterator[list[Task]], num_channels: int) -> Iterator[list[_Read]]:
    """The pictures of the batches, of which the next ones are being read; nothing is read beside a large picture."""
    begun: deque[tuple[bool, list[Future[_Read]]]] = deque()  # whether they are large
    upcoming = next(batches, None)
    while begun or upcoming is not None:
        while upcoming is not None and len(begun) <= _AHEAD:
            is_large = upcoming[0].is_large
            if begun and (is_large or begun[0][0]):
                break
            begun.append((is_large, [_begin(reader, task, _read, task, num_channels) for task in upcoming]))
            upcoming = next(batches, None)
        yield [future.result() for future in begun.popleft()[1]]


def _begin(pool: ThreadPoolExecutor, task: Task, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Call a function in a thread; for a large picture here and now, because each thread keeps memory of its own."""
    if not task.is_large:
        return pool.submit(function, *arguments)
    future: Future[Any] = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


def _read(task: Task, num_channels: int) -> _Read:
    start = time.perf_counter()
    opened, task.opened = task.opened, None
    try:
        if opened is None:
            opened = open_picture(task.picture.path, name=task.picture.name)
        return _Read(task, opened.grey_levels(num_channels), time.perf_counter() - start)
    except Exception as error:
        return _Read(task, error, time.perf_counter() - start)


def _labelled(labeller: Labeller, batch: Sequence[_Read]) -> list[_Labelled]:
    """What was found for each picture of a batch; after an error each is tried alone."""
    images = [one.image for one in batch if not isinstance(one.image, Exception)]
    start = time.perf_counter()
    try:
        found = iter(labeller.label(images) if images else [])
    except Exception as error:
        if len(images) > 1:
            return [labelled for one in batch for labelled in _labelled(labeller, [one])]
        found = iter([error])
    share = (time.perf_counter() - start) / max(1, len(images))
    return [
        _Labelled(one.task, one.image, one.seconds)
        if isinstance(one.image, Exception)
        else _Labelled(one.task, next(found), one.seconds + share)
        for one in batch
    ]


def _write(results: Results, output: Path, task: Task, found: Prediction) -> Written:
    start = time.perf_counter()
    results.write(output, task.picture, task.header, found)
    if task.is_copy:
        task.picture.path.unlink(missing_ok=True)
    return Written(task.picture, found.areas, time.perf_counter() - start)
