"""What an evaluation has scored so far, kept on the disk, so that an interrupted one goes on where it stopped.

Every process of a run writes one file of its own and never touches another's; a later run reads them all, whatever the
number of processes was, and adds its own. Counts are whole numbers, so that their sum does not depend on the order.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segzoo.errors import SegZooError
from segzoo.files import FolderInUse, lock, write_whole
from segzoo.metrics.confusion import ConfusionMatrix

_LOCK_SECONDS = 10.0  # other processes of a run that was killed live until they notice, after some seconds


@dataclass(frozen=True)
class ImageRow:
    """The scores of one image.

    Args:
        index: position in the data set.
        name: its file.
        mean_iou: mean IoU over the classes that occur in it, 0 to 1; NaN where no pixel counts.
        pixel_accuracy: share of right pixels, 0 to 1; NaN where no pixel counts.
        num_pixels: pixels that count.
    """

    index: int
    name: str
    mean_iou: float
    pixel_accuracy: float
    num_pixels: int


class ScoreLog:
    """The scores of one process, added to those of earlier runs in the same folder.

    While it is open the folder is locked: a second evaluation there is refused, and the lock of a process that dies
    goes with it.

    Args:
        folder: where the files lie; made if need be.
        identity: what the scores depend on (model, data, protocol) as JSON values; files of another one are refused.
        num_images: size of the data set.
        num_labels, ignore_index: of the confusion matrix.
        process_index: of this process; process 0 opens the log first, the others afterwards.
        batch_size: images of one batch, which are those of the indices ``b * batch_size`` and after. A batch is kept
            when all of it is scored: a batch that is broken off would be composed otherwise later, and round otherwise.
        seconds: least time between two writes.
        start_anew: remove what earlier runs left.

    Attributes:
        earlier: rows of earlier runs by index.
        earlier_confusion: their counts.
        unreadable: files of earlier runs that were left out because they are damaged; their images are scored again.

    Raises:
        SegZooError: the folder holds scores of another identity (the message names what differs), or another
            evaluation is running there, or it cannot be written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        identity: Mapping[str, Any],
        *,
        num_images: int,
        num_labels: int,
        ignore_index: int | None = 255,
        process_index: int = 0,
        batch_size: int = 1,
        seconds: float = 5.0,
        start_anew: bool = False,
    ):
        self.folder = Path(folder)
        self.identity = json.loads(json.dumps(identity))  # as a file gives it back
        self.num_images = num_images
        self.batch_size = batch_size
        self.seconds = seconds
        self.rows: dict[int, ImageRow] = {}
        self.confusion = ConfusionMatrix(num_labels, ignore_index)
        self.earlier: dict[int, ImageRow] = {}
        self.earlier_confusion = ConfusionMatrix(num_labels, ignore_index)
        self.unreadable: list[Path] = []
        self._pending: dict[int, list] = {}
        self._changed = False
        self._last_write = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SegZooError(f"{self.folder}: cannot be made ({error.strerror}); choose another folder") from error
        self._held = contextlib.ExitStack()
        try:
            self._held.enter_context(lock(self.folder, shared=True, joining=process_index > 0, wait=_LOCK_SECONDS))
        except FolderInUse as error:
            raise SegZooError(
                f"{self.folder.parent}: another evaluation is running there (process {error.holder}); wait for it, end it, or "
                "choose another folder"
            ) from None
        except OSError as error:
            raise SegZooError(
                f"{self.folder}: cannot be written to ({error.strerror}); choose another folder"
            ) from error
        try:
            files = sorted(self.folder.glob("scores_*.json"))
            if start_anew:
                for file in files if process_index == 0 else []:
                    file.unlink()
                files = []
            for file in files:
                self._read(file)
            run = 1 + max((int(file.stem.split("_")[1]) for file in files), default=0)
        except BaseException:
            self.close()
            raise
        self.path = self.folder / f"scores_{run:04d}_{process_index:04d}.json"

    def _read(self, file: Path) -> None:
        held = _parse(file)
        if held is None:
            self.unreadable.append(file)
            return
        identity, rows, matrix = held
        changed = differences(identity, self.identity)
        if changed:
            raise SegZooError(
                f"{self.folder.parent} holds an evaluation with other settings: {'; '.join(changed)}; choose another "
                "folder, or add --overwrite to start anew there"
            )
        if matrix.shape != tuple(self.confusion.matrix.shape) or self.earlier.keys() & {row.index for row in rows}:
            self.unreadable.append(file)
            return
        self.earlier |= {row.index: row for row in rows}
        self.earlier_confusion.matrix += torch.from_numpy(matrix)

    @property
    def done(self) -> Collection[int]:
        """Indices that earlier runs have scored."""
        return self.earlier.keys()

    def add(self, row: ImageRow, confusion: Any) -> None:
        """Take the scores of an image; now and then everything is written.

        Args:
            row: its scores.
            confusion: its (num_labels, num_labels) counts.

        Raises:
            OSError: the disk is full or gone; what was written before stays.
        """
        batch = row.index // self.batch_size
        pending = self._pending.setdefault(batch, [])
        pending.append((row, confusion))
        first = batch * self.batch_size
        indices = range(first, min(first + self.batch_size, self.num_images))
        if len(pending) < sum(index not in self.earlier for index in indices):
            return
        for row, counts in self._pending.pop(batch):
            self.rows[row.index] = row
            self.confusion.matrix += torch.as_tensor(counts)
        self._changed = True
        if time.monotonic() - self._last_write >= self.seconds:
            self.save()

    def save(self) -> None:
        """Write what has been added; the file is whole at any time."""
        if not self._changed:
            return
        values = {
            "identity": self.identity,
            "confusion": self.confusion.matrix.tolist(),
            "images": [astuple(row) for row in self.rows.values()],
        }
        write_whole(self.path, json.dumps(values))  # NaN stays NaN here: only this class reads it
        self._changed = False
        self._last_write = time.monotonic()

    def collect(self) -> list[ImageRow]:
        """The rows of all runs and processes in the order of their indices; for when every process has saved its own."""
        rows = dict(self.earlier) | self.rows
        for file in self.folder.glob(f"{self.path.stem[:-5]}_*.json"):
            held = _parse(file)
            if held is not None:
                rows |= {row.index: row for row in held[1]}
        return [rows[index] for index in sorted(rows)]

    def close(self) -> None:
        """Give the folder free for others."""
        self._held.close()

    def __enter__(self) -> ScoreLog:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.save()
        finally:
            self.close()


def _parse(file: Path) -> tuple[dict, list[ImageRow], np.ndarray] | None:
    """Identity, rows and counts of a file; None when it is damaged."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        rows = [ImageRow(*row) for row in held["images"]]
        return dict(held["identity"]), rows, np.asarray(held["confusion"], dtype=np.int64)
    except (ValueError, KeyError, TypeError):
        return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, in words: ``flip was false, is true``."""
    keys = [*before, *(key for key in now if key not in before)]
    return [
        f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
