"""The scores of an evaluation so far, kept on the disk, so that an interrupted evaluation goes on where it stopped.

Every process of a run writes a file of its own and never touches those of others; a later run reads them all, whatever
the number of processes was, and adds its own. Counts are integers, so that their sum does not depend on the order.
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

_LOCK_SECONDS = 10.0  # the other processes of a killed run live on for some seconds until they notice


@dataclass(frozen=True)
class ImageRow:
    """The scores of one image.

    Args:
        index: position in the data set.
        name: file of the image.
        mean_iou: mean IoU over the classes that occur in truth or prediction, 0 to 1; NaN if no pixel counts.
        pixel_accuracy: share of correct pixels, 0 to 1; NaN if no pixel counts.
        num_pixels: number of pixels that count.
    """

    index: int
    name: str
    mean_iou: float
    pixel_accuracy: float
    num_pixels: int


class ScoreLog:
    """The scores of one process, added to those of earlier runs in the same folder.

    While the log is open the folder is locked against a second evaluation; the lock ends with the process.

    Args:
        folder: folder of the files; created if necessary.
        identity: what the scores depend on (model, data, protocol), as JSON values; scores of another identity are an
            error.
        num_images: size of the data set.
        num_labels, ignore_index: as in `ConfusionMatrix`.
        process_index: number of this process; process 0 must open the log before the others.
        batch_size: images per batch; batch b has the indices from ``b * batch_size`` on. Scores are kept only once
            their whole batch is scored: the rest of an interrupted batch would form another batch later, and round
            differently.
        seconds: least time between two writes.
        start_anew: remove the files of earlier runs.

    Attributes:
        earlier: rows of earlier runs, by index.
        earlier_confusion: counts of earlier runs.
        unreadable: damaged files of earlier runs, which were left out; their images are scored again.

    Raises:
        SegZooError: the folder holds scores of another identity (the message names the differences), another
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
        self.identity = json.loads(json.dumps(identity))  # in the form that it has when read back from a file
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
        """Add the scores of an image, and save if the last write is more than ``seconds`` ago.

        Args:
            row: the image's scores.
            confusion: the image's counts (num_labels, num_labels).

        Raises:
            OSError: the disk is full or gone; earlier files are unchanged.
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
        """Write the scores added so far; the file on the disk is whole at any time."""
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
        """The rows of all runs and processes, ordered by index; call this after every process has saved its own."""
        rows = dict(self.earlier) | self.rows
        for file in self.folder.glob(f"{self.path.stem[:-5]}_*.json"):
            held = _parse(file)
            if held is not None:
                rows |= {row.index: row for row in held[1]}
        return [rows[index] for index in sorted(rows)]

    def close(self) -> None:
        """Unlock the folder without saving; leaving the context saves first."""
        self._held.close()

    def __enter__(self) -> ScoreLog:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.save()
        finally:
            self.close()


def _parse(file: Path) -> tuple[dict, list[ImageRow], np.ndarray] | None:
    """Identity, rows and counts from a file; None if it is damaged."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        rows = [ImageRow(*row) for row in held["images"]]
        return dict(held["identity"]), rows, np.asarray(held["confusion"], dtype=np.int64)
    except (ValueError, KeyError, TypeError):
        return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two identities, in words: ``flip was false, is true``."""
    keys = [*before, *(key for key in now if key not in before)]
    return [
        f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
