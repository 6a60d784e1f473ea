"""The streaming confusion matrix: pixel counts by true and predicted class, image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from segzoo.errors import SegZooError
from segzoo.metrics.scores import metrics_from_confusion

_BYTE = 256


def _tensor(values: Any, what: str, device: torch.device) -> torch.Tensor:
    if not isinstance(values, torch.Tensor):
        array = np.asarray(values)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        # An array of one mirrored row counts as contiguous.
        usable = array.flags.writeable and min(array.strides, default=0) >= 0
        values = torch.from_numpy(np.ascontiguousarray(array) if usable else array.copy())
    if values.is_floating_point() or values.is_complex():
        raise SegZooError(f"{what} holds {values.dtype} values; label maps hold whole numbers. Take the argmax first.")
    if values.dtype in (torch.uint16, torch.uint32, torch.uint64):  # with which torch computes hardly anything
        values = values.to(torch.int64)
    return values.detach().to(device, non_blocking=True)


class ConfusionMatrix:
    """Counts pixels by true and predicted class, image by image, in constant memory.

    Pixels whose label is `ignore_index` do not count, whatever is predicted there. Label rules such as
    `segzoo.data.reduce_labels` must have been applied.

    Args:
        num_labels: number of classes.
        ignore_index: label id that does not count; None counts every id.
        device: device to count on, to which maps on another are moved; None is the CPU.

    Attributes:
        matrix: int64 tensor (num_labels, num_labels); rows are true classes, columns predicted ones.

    Raises:
        SegZooError: `num_labels` is not positive.
    """

    def __init__(self, num_labels: int, ignore_index: int | None = 255, device: torch.device | str | None = None):
        if num_labels < 1:
            raise SegZooError(f"num_labels is the number of classes, at least 1, not {num_labels}.")
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.device = torch.device("cpu" if device is None else device)
        self.matrix = torch.zeros(num_labels, num_labels, dtype=torch.int64, device=self.device)

    def reset(self) -> None:
        """Set all counts to 0."""
        self.matrix.zero_()

    def update(self, prediction: Any, label: Any) -> None:
        """Count one pair of label maps, a batch of equal size, or a list of pairs of any sizes.

        Args:
            prediction: predicted class ids: an integer tensor or array of any shape, or a list of them.
            label: true class ids of the same shape, or a list of as many.

        Raises:
            SegZooError: shapes differ, values are not integers, or ids lie outside 0..num_labels-1; nothing of that
                pair is counted.
        """
        if isinstance(prediction, list | tuple) or isinstance(label, list | tuple):
            if len(prediction) != len(label):
                raise SegZooError(f"{len(prediction)} predictions but {len(label)} labels: they come in pairs.")
            for one_prediction, one_label in zip(prediction, label, strict=True):
                self._add(one_prediction, one_label)
        else:
            self._add(prediction, label)

    def _add(self, prediction: Any, label: Any) -> None:
        prediction = _tensor(prediction, "The prediction", self.device)
        label = _tensor(label, "The label map", self.device)
        if prediction.shape != label.shape:
            raise SegZooError(
                f"Prediction and label map differ in shape: {tuple(prediction.shape)} and {tuple(label.shape)}. Bring "
                "the prediction to the label's size (post_process_semantic_segmentation with target_sizes)."
            )
        if label.numel() == 0:
            return
        if self.num_labels <= _BYTE and _is_byte(prediction) and _is_byte(label):
            self._add_bytes(prediction, label)
        else:
            self._add_wide(prediction, label)

    def _add_bytes(self, prediction: torch.Tensor, label: torch.Tensor) -> None:
        """Count all pairs of bytes at once; ignored and wrong ids are then whole rows and columns of the table."""
        size = self.num_labels
        if self.device.type == "cpu":
            pairs, matrix = _byte_pairs_numpy(prediction, label), self.matrix.numpy()
        else:
            pairs, matrix = _byte_pairs_torch(prediction, label), self.matrix
        if self.ignore_index is not None and 0 <= self.ignore_index < _BYTE:
            pairs[self.ignore_index] = 0
        if int(pairs[size:].sum()) or int(pairs[:size, size:].sum()):
            pairs = torch.as_tensor(pairs)
            self._refuse(pairs.sum(dim=1).nonzero(), pairs[:size].sum(dim=0).nonzero(), prediction, label)
        matrix += pairs[:size, :size]

    def _add_wide(self, prediction: torch.Tensor, label: torch.Tensor) -> None:
        size = self.num_labels
        # Of 8 bits, -100 would equal 156, and 65535 would equal 255.
        prediction, label = prediction.long(), label.long()
        if self.ignore_index is not None:
            valid = label != self.ignore_index
            prediction, label = prediction[valid], label[valid]
        if label.numel() == 0:
            return
        for ids in (prediction, label):
            low, high = torch.aminmax(ids)
            if low < 0 or high >= size:
                self._refuse(label.unique(), prediction.unique(), prediction, label)
        self.matrix += torch.bincount((label * size + prediction).ravel(), minlength=size * size).view(size, size)

    def _refuse(
        self, label_ids: torch.Tensor, predicted_ids: torch.Tensor, prediction: torch.Tensor, label: torch.Tensor
    ) -> None:
        def outside(ids: torch.Tensor) -> list[int]:
            return [i for i in ids.flatten().tolist() if not 0 <= i < self.num_labels]

        bad = outside(label_ids)
        prediction, label = prediction.long(), label.long()
        what, maps, bad = ("label map", label, bad) if bad else ("prediction", prediction, outside(predicted_ids))
        if what == "prediction" and self.ignore_index is not None:
            maps = maps[label != self.ignore_index]
        listed = ", ".join(f"{i} ({int((maps == i).sum())} pixels)" for i in bad[:8]) + (
            ", ..." if len(bad) > 8 else ""
        )
        fix = (
            "Is num_labels right, does the data need do_reduce_labels, or another ignore_index?"
            if what == "label map"
            else "Predictions are classes of the model: was a label rule or padding applied to them?"
        )
        raise SegZooError(
            f"The {what} holds ids outside 0..{self.num_labels - 1} (ignored: {self.ignore_index}): {listed}. {fix}"
        )

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add the counts of another matrix to this one, which is returned.

        Raises:
            SegZooError: the other matrix has a different number of classes.
        """
        if other.num_labels != self.num_labels:
            raise SegZooError(f"Matrices of {self.num_labels} and {other.num_labels} classes cannot be added.")
        self.matrix += other.matrix.to(self.device)
        return self

    def reduce_across_processes(self, accelerator: Any) -> ConfusionMatrix:
        """Sum the counts of all processes into a new matrix, which every process gets; this one keeps its own counts.

        An evaluation loader that fills up its last batches (accelerate's default, `even_batches=True`) repeats
        samples, which would count twice here. Prepare it with
        `Accelerator(dataloader_config=DataLoaderConfiguration(even_batches=False))`, or hand each process its own part
        of the data set (`accelerator.split_between_processes`), and call the unwrapped model, so that no process waits
        for another inside it.

        Args:
            accelerator: an `accelerate.Accelerator`.
        """
        total = ConfusionMatrix(self.num_labels, self.ignore_index, self.device)
        matrix = self.matrix.to(accelerator.device)  # the process group may not serve the counting device
        total.matrix = accelerator.reduce(matrix, reduction="sum").to(self.device).clone()
        return total

    def compute(self, *, beta: float = 1.0) -> dict[str, Any]:
        """Scores of everything counted so far.

        Args:
            beta: weight of recall over precision in the F-score.

        Returns:
            the scores that `metrics_from_confusion` lists.
        """
        return metrics_from_confusion(self.matrix, beta=beta)

    def __repr__(self) -> str:
        pixels = int(self.matrix.sum())
        return f"ConfusionMatrix(num_labels={self.num_labels}, ignore_index={self.ignore_index}, pixels={pixels})"


def _byte_pairs_numpy(prediction: torch.Tensor, label: torch.Tensor) -> np.ndarray:
    """How often each (label, prediction) of ids 0..255 occurs, (256, 256) int64.

    NumPy uses one thread: further threads of torch gain little here, and wait whenever the cores are busy.
    """
    index = label.numpy().astype(np.uint16)
    index <<= 8
    index |= prediction.numpy().astype(np.uint16)
    return np.bincount(index.ravel(), minlength=_BYTE * _BYTE).reshape(_BYTE, _BYTE)


def _byte_pairs_torch(prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """`_byte_pairs_numpy` on any device."""
    index = label.to(torch.int32) * _BYTE + prediction
    return torch.bincount(index.ravel(), minlength=_BYTE * _BYTE).view(_BYTE, _BYTE)


def _is_byte(values: torch.Tensor) -> bool:
    if values.dtype in (torch.uint8, torch.bool):
        return True
    if values.device.type == "cpu":
        array = values.numpy()
        return bool(array.min() >= 0) and bool(array.max() < _BYTE)
    low, high = torch.aminmax(values)
    return bool(low >= 0) and bool(high < _BYTE)
