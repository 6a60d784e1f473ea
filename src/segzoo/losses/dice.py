"""Dice loss: the overlap of probabilities and labels, class by class.

From "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation" (Milletari et al., 2016),
https://arxiv.org/abs/1606.04797, in the form of mmsegmentation 0.x's ``DiceLoss``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segzoo.errors import SegZooError
from segzoo.losses.base import Loss, factor, number


@dataclass(frozen=True, kw_only=True)
class DiceLoss(Loss):
    """1 - (2 |P Y| + smooth) / (|P^exponent| + |Y| + smooth), averaged over images and classes; P are softmax
    probabilities, Y the one-hot labels, and |.| is a sum over pixels.

    As in the original, ignored pixels are left out of the numerator alone: in the denominator their probabilities
    count, and their labels count for the class nearest to the ignored label (the last one for 255).

    Args:
        class_weights: factors on the classes' losses; the mean still divides by the number of classes.
        smooth: added to numerator and denominator, not negative; keeps absent classes from being 0 / 0.
        exponent: exponent of the probabilities in the denominator, 1 to 100.
        ignore_index: a label that this loss ignores in place of the head's ignored one; that of a class leaves the class
            out of the sum, as a background that need not overlap. None is the head's.

    Raises:
        SegZooError: an option has the wrong type or is out of range.
    """

    name: ClassVar[str] = "dice"

    smooth: float = 1.0
    exponent: float = 2.0
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("smooth", factor(self.smooth, "dice: smooth"))
        self._set("exponent", number(self.exponent, "dice: exponent", at_least=1.0, at_most=100.0))
        if self.ignore_index is not None and type(self.ignore_index) is not int:
            raise SegZooError(f"dice: ignore_index={self.ignore_index!r:.60} must be a label, a whole number")

    def compute(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        classes = logits.shape[1]
        any_counts = (labels != ignore_index).any()
        ignore_index = ignore_index if self.ignore_index is None else self.ignore_index
        valid = labels != ignore_index
        nearest = labels.clamp(0, classes - 1)
        probabilities = logits.softmax(1)
        # Each pixel adds to one class of the numerator, so that no one-hot tensor is needed. That is done row by row, as
        # what is added one by one to a large sum loses its digits.
        true = probabilities.gather(1, nearest[:, None])[:, 0] * valid
        sums = logits.new_zeros(*labels.shape[:2], classes)
        overlap = sums.scatter_add(2, nearest, true).sum(1)
        pixels = sums.scatter_add(2, nearest, torch.ones_like(true)).sum(1)
        mass = probabilities if self.exponent == 1 else probabilities.pow(self.exponent)
        mass = mass.sum((2, 3))
        losses = (1 - (2 * overlap + self.smooth) / (mass + pixels + self.smooth)).mean(0)
        if self.class_weights is not None:
            losses = losses * logits.new_tensor(self.class_weights)
        if 0 <= ignore_index < classes:
            losses = torch.cat([losses[:ignore_index], losses[ignore_index + 1 :]])
        return losses.sum() / classes * any_counts
