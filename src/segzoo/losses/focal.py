"""Focal loss: sigmoid cross-entropy in which easy pixels count less.

From "Focal Loss for Dense Object Detection" (Lin et al., 2017), https://arxiv.org/abs/1708.02002, in the form of
mmsegmentation's ``FocalLoss``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from segzoo.losses.base import Loss, number, numbers


@dataclass(frozen=True, kw_only=True)
class FocalLoss(Loss):
    """alpha (1 - p)^gamma times the sigmoid cross-entropy of each class, averaged over pixels and classes.

    p is the probability that the sigmoid gives to the truth. The average runs over all pixels, of which ignored ones
    give 0.

    Args:
        class_weights: factors on the classes' losses.
        gamma: how strongly easy pixels fade, 0 to 100; 0 is plain cross-entropy.
        alpha: factor on a class's loss where it is the true one, in 0..1; elsewhere the factor is 1 - alpha. One
            number for all classes, or a list with one for each.
    """

    name: ClassVar[str] = "focal"
    per_class: ClassVar[tuple[str, ...]] = ("class_weights", "alpha")

    gamma: float = 2.0
    alpha: float | tuple[float, ...] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("gamma", number(self.gamma, "focal: gamma", at_least=0.0, at_most=100.0))
        check = numbers if isinstance(self.alpha, (list, tuple)) else number
        self._set("alpha", check(self.alpha, "focal: alpha", at_least=0.0, at_most=1.0))

    def compute(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        classes = logits.shape[1]
        valid = labels != ignore_index
        alphas = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,) * classes
        weights = self.class_weights or (1.0,) * classes
        total = logits.new_zeros(())
        # Class by class, each recomputed for its gradients, so that intermediate results take the memory of one class.
        for i, scores in enumerate(logits.unbind(1)):
            part = checkpoint(
                self._of_class, scores, labels == i, valid, alphas[i], use_reentrant=False, preserve_rng_state=False
            )
            total = total + weights[i] * part
        return total / logits.numel()

    def _of_class(self, scores: Tensor, true: Tensor, valid: Tensor, alpha: float) -> Tensor:
        return torch.where(valid, focal_terms(scores, true, gamma=self.gamma, alpha=alpha), 0).sum()


def focal_terms(scores: Tensor, true: Tensor, *, gamma: float, alpha: float) -> Tensor:
    """The focal loss of each score; ``scores`` are before the sigmoid, ``true`` holds booleans of the same shape."""
    wrong = torch.where(true, -scores, scores)  # sigmoid(wrong) is 1 - p
    losses = (gamma * F.logsigmoid(wrong)).exp() * F.softplus(wrong, threshold=40)
    return torch.where(true, alpha * losses, (1 - alpha) * losses)
