"""Models with one output channel, a sigmoid and a threshold, as models of two classes.

Of a score z the original says class 1 where ``sigmoid(z) > threshold``, which is where ``z - logit(threshold) > 0``. So
two channels ``[0, z - logit(threshold)]`` have the same label maps; their softmax is the sigmoid of the shifted score.
Resizing and the mean over sliding windows are linear, and keep this. The mean over augmented views does not:
mmsegmentation compares the mean of ``sigmoid(z)`` with the threshold (1.x of the sigmoid of that), two channels the
mean of ``sigmoid(z - logit(threshold))`` with 0.5, which is the same with a threshold of 0.5 only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segzoo.conversion.keys import KeyRule, TensorChange
from segzoo.losses import CrossEntropyLoss, Loss

DEFAULT_THRESHOLD = 0.3  # mmsegmentation's, where a head names none


@dataclass(frozen=True)
class SecondChannel(TensorChange):
    """Puts a channel of zeros before the only one, from which ``shift`` is subtracted.

    Args:
        shift: number that is subtracted from the original's channel.
    """

    shift: float = 0.0

    def to_native(self, tensor: Tensor) -> Tensor:
        """(1, ...) -> (2, ...); a scalar stays as it is, for the check of shapes to find."""
        if not tensor.ndim:
            return tensor
        return torch.cat([torch.zeros_like(tensor), (tensor.double() - self.shift).to(tensor.dtype)])

    def to_original(self, tensor: Tensor) -> Tensor:
        """(2, ...) -> (1, ...): of the two channels the difference, which decides even after further training."""
        values = tensor.double()
        return (values[1:] - values[:1] + self.shift).to(tensor.dtype)


def classifier_keys(threshold: float) -> tuple[KeyRule, ...]:
    """The key rules of a classifier ``conv_seg`` with one channel, of which values above ``threshold`` are class 1."""
    shift = math.log(threshold / (1 - threshold))
    return (
        KeyRule("conv_seg.weight", "classifier.weight", change=SecondChannel()),
        KeyRule("conv_seg.bias", "classifier.bias", change=SecondChannel(shift)),
    )


def two_class_losses(losses: Sequence[Loss]) -> list[Loss]:
    """The losses of one channel as losses of two: cross-entropy by softmax, and class weights only where two are."""
    changed = []
    for loss in losses:
        if loss.class_weights is not None and len(loss.class_weights) != 2:
            loss = replace(loss, class_weights=None)
        changed.append(replace(loss, sigmoid=False) if isinstance(loss, CrossEntropyLoss) else loss)
    return changed
