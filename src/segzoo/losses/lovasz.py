"""Lovász losses: convex surrogates of 1 - IoU.

From "The Lovász-Softmax loss: A tractable surrogate for the optimization of the intersection-over-union measure in
neural networks" (Berman et al., 2018), https://arxiv.org/abs/1705.08790, in the form of mmsegmentation's
``LovaszLoss``.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from segzoo.errors import SegZooError
from segzoo.losses.base import Loss, flag


@dataclass(frozen=True, kw_only=True)
class LovaszLoss(Loss):
    """Lovász-Softmax, or the Lovász hinge for one channel.

    Args:
        class_weights: factors on the classes' losses; the mean still divides by the number of classes. The hinge
            ignores them.
        binary: take the hinge on the only channel, label 1 against label 0, instead of softmax.
        classes: the classes that the mean runs over: those "present" in the labels, "all", or a list of ids.
        per_image: take the mean of the images' losses, instead of one loss over the pixels of all images.
    """

    name: ClassVar[str] = "lovasz"

    binary: bool = False
    classes: Literal["present", "all"] | tuple[int, ...] = "present"
    per_image: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        flag(self.binary, "lovasz: binary")
        flag(self.per_image, "lovasz: per_image")
        if isinstance(self.classes, (list, tuple)):
            self._set("classes", tuple(self.classes))
            usable = self.classes and all(type(i) is int and i >= 0 for i in self.classes)
            usable = usable and len(set(self.classes)) == len(self.classes)
        else:
            usable = self.classes in ("present", "all")
        if not usable:
            raise SegZooError(
                f"lovasz: classes={self.classes!r} must be 'present', 'all' or a list of different class ids"
            )

    def check_num_labels(self, num_labels: int) -> None:
        if self.binary != (num_labels == 1):
            raise SegZooError(
                f"lovasz: binary={self.binary} does not fit {num_labels} channels; "
                "the hinge (binary=True) takes one, softmax takes several"
            )
        if isinstance(self.classes, tuple) and max(self.classes) >= num_labels:
            raise SegZooError(f"lovasz: classes names class {max(self.classes)}, but there are {num_labels}")
        super().check_num_labels(num_labels)

    def compute(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        valid = labels != ignore_index
        groups = [slice(i, i + 1) for i in range(len(labels))] if self.per_image else [slice(None)]
        if self.binary:
            losses = [_hinge(logits[group, 0][valid[group]], labels[group][valid[group]] == 1) for group in groups]
        else:
            probabilities = logits.softmax(1)
            losses = [self._softmax(probabilities[group], labels[group], valid[group]) for group in groups]
        return sum(losses) / len(groups)

    def _softmax(self, probabilities: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The loss of probabilities (B, C, H, W), labels (B, H, W) and pixels that count (B, H, W).

        As long as the order of the errors does not change, the loss is linear in the probabilities. So one tensor of
        slopes, filled class by class, is all that the gradients need.
        """
        labels = labels[valid]
        chosen = self.classes
        if chosen == "present":
            chosen = labels.unique().tolist()
        elif chosen == "all":
            chosen = range(probabilities.shape[1])
        slopes = torch.zeros_like(probabilities)
        offset = probabilities.new_zeros(())
        with torch.no_grad():
            for i in chosen if labels.numel() else ():
                true = labels == i
                scores = probabilities[:, i][valid]
                steps = _jaccard_steps(torch.where(true, 1 - scores, scores), true)
                scale = (1.0 if self.class_weights is None else self.class_weights[i]) / len(chosen)
                slopes[:, i][valid] = scale * torch.where(true, -steps, steps)
                offset += scale * torch.where(true, steps, 0).sum()
        return (probabilities * slopes).sum() + offset


def _hinge(scores: Tensor, true: Tensor) -> Tensor:
    """The Lovász hinge of the scores (P,) of pixels, of which ``true`` (P,) belong to the class; 0 for no pixels."""
    errors = 1 - torch.where(true, scores, -scores)
    if errors.numel() == 0:
        return errors.sum()
    return (errors.relu() * _jaccard_steps(errors.detach(), true)).sum()


def _jaccard_steps(errors: Tensor, true: Tensor) -> Tensor:
    """By how much 1 - IoU grows with each pixel (P,) when pixels turn wrong in descending order of their errors.

    With n pixels of the class (``true``), after k wrong ones of which m are of the class, IoU is (n - m) / (n + k -
    m). The differences are computed in closed form, because subtracting neighbours would leave little but rounding.
    """
    order = errors.argsort(descending=True)
    sorted_true = true[order]
    wrong = sorted_true.cumsum(0)
    total = wrong[-1]
    union = total + torch.arange(1, len(order) + 1, device=order.device) - wrong
    rest = (total - wrong).to(errors.dtype) / (union * (union - 1).clamp(min=1)).to(errors.dtype)
    steps = torch.where(sorted_true, 1 / union.to(errors.dtype), rest)
    steps[0] += total == 0  # the first wrong pixel of an absent class takes its IoU from 1 to 0
    return torch.empty_like(steps).scatter_(0, order, steps)
