"""The check that labels name classes of the model."""

import os

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from segzoo.errors import SegZooError

CHECK_LABELS = "SEGZOO_CHECK_LABELS"
"""Environment variable that turns the check on for labels on accelerators too, unless it is "0" or empty."""


def check_labels(labels: Tensor, num_labels: int, ignore_index: int) -> None:
    """Every label is a class or ``ignore_index``.

    Labels on a CPU are always checked, which takes about two milliseconds per million pixels. On a GPU the answer would have to
    wait for all that was started before, so that the check is made only with the environment variable
    ``SEGZOO_CHECK_LABELS=1``; without it a wrong label there is a device-side assertion. Graphs that are compiled or
    exported have no check.

    Args:
        labels: class ids of any shape.
        num_labels: number of classes.
        ignore_index: label of the pixels that do not count.

    Raises:
        SegZooError: labels are neither in 0..num_labels-1 nor ``ignore_index``; the message lists them with the number
            of their pixels.
    """
    if torch.compiler.is_compiling() or isinstance(labels, FakeTensor) or labels.is_meta or labels.numel() == 0:
        return
    if labels.device.type != "cpu" and os.environ.get(CHECK_LABELS, "0") in ("", "0"):
        return
    low, high = torch.aminmax(labels)
    if low >= 0 and high < num_labels:
        return
    wrong = (labels >= num_labels) & (labels != ignore_index)
    if low < 0:
        wrong |= (labels < 0) & (labels != ignore_index)
    if wrong.any():
        ids, counts = labels[wrong].unique(return_counts=True)
        pairs = zip(ids[:8].tolist(), counts.tolist(), strict=False)
        listed = ", ".join(f"{i} ({n} pixels)" for i, n in pairs) + (", ..." if len(ids) > 8 else "")
        raise SegZooError(
            f"labels hold ids outside 0..{num_labels - 1} (ignored: {ignore_index}): {listed}; is num_labels right, "
            "do the masks need do_reduce_labels, or another ignore_index?"
        )
