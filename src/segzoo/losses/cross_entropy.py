"""Cross-entropy over softmax or sigmoid, with class weights, several averages, and hard example mining."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.losses.base import Loss, flag
from segzoo.losses.ohem import Ohem
from segzoo.losses.resized import resized_cross_entropy

_AVERAGES = {
    "all": "all pixels, ignored ones included",
    "valid": "the pixels that are not ignored",
    "weighted": "the class weights of the pixels that are not ignored",
    "kept": "the pixels that ohem keeps",
    "sum": "no average",
}


@dataclass(frozen=True, kw_only=True)
class CrossEntropyLoss(Loss):
    """Cross-entropy of every pixel, as in mmsegmentation's ``CrossEntropyLoss``.

    Args:
        class_weights: factors on the pixel losses by true class; with ``sigmoid`` on a class's loss where it is the
            true class.
        average: what the sum of the pixel losses is divided by: "all", the number of all pixels, including ignored
            ones, as mmsegmentation trains its models; "valid", the number of pixels that are not ignored; "weighted",
            the sum of these pixels' class weights, which is PyTorch's average; "kept", the number of pixels that
            ``ohem`` keeps; "sum", 1. Except with "kept", pixels that ``ohem`` leaves out still count.
        sigmoid: give each class a sigmoid against all others, and average over pixels and classes; with one channel,
            label 1 against label 0.
        ohem: count only the pixels that the model finds hard: an ``Ohem`` or its dict; None for all pixels.

    Raises:
        SegZooError: an option has the wrong type, is out of range, or does not fit another.
    """

    name: ClassVar[str] = "cross_entropy"

    average: str = "all"
    sigmoid: bool = False
    ohem: Ohem | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        flag(self.sigmoid, "cross_entropy: sigmoid")
        if self.average not in _AVERAGES:
            known = ", ".join(f"{name!r} ({over})" for name, over in _AVERAGES.items())
            raise SegZooError(f"cross_entropy: average={self.average!r} is unknown; use {known}")
        if self.average == "weighted" and self.sigmoid:
            raise SegZooError("cross_entropy: average='weighted' needs softmax; use 'all' or 'valid' with sigmoid")
        if self.average == "kept" and self.ohem is None:
            raise SegZooError("cross_entropy: average='kept' needs ohem, which keeps pixels; use 'valid' without it")
        if isinstance(self.ohem, Mapping):
            try:
                self._set("ohem", Ohem(**self.ohem))
            except TypeError:
                raise SegZooError(
                    f"cross_entropy: ohem has the keys {', '.join(map(repr, self.ohem))}; it takes 'threshold' and 'min_kept', "
                    "and 'per_batch'"
                ) from None
        elif self.ohem is not None and not isinstance(self.ohem, Ohem):
            raise SegZooError(
                f"cross_entropy: ohem={self.ohem!r} must be a dict such as {{'threshold': 0.7, 'min_kept': 100000}}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As of every loss; ``per_batch`` of ``ohem`` is written where it is set."""
        plain = super().to_dict()
        if self.ohem is not None and not self.ohem.per_batch:
            del plain["ohem"]["per_batch"]
        return plain

    def compute(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        if self.sigmoid:
            return self._average_over_sigmoid(logits, labels, ignore_index)
        # Ignored pixels are 0 here.
        losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
        return self._average_over_softmax(losses, labels, ignore_index)

    def compute_resized(self, logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool) -> Tensor:
        if self.sigmoid:
            return super().compute_resized(logits, labels, ignore_index, align_corners)
        losses = resized_cross_entropy(logits, labels, ignore_index, align_corners=align_corners)
        return self._average_over_softmax(losses, labels, ignore_index)

    def _average_over_softmax(self, negative_log: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        valid, _, factors = self._factors(negative_log, labels, ignore_index)
        probabilities = negative_log.detach().neg().exp() if self.ohem else None
        losses = negative_log if factors is None else negative_log * factors
        return self._average(losses, probabilities, valid, factors, 1)

    def _average_over_sigmoid(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        valid, present, factors = self._factors(logits, labels, ignore_index)
        losses, probabilities = self._over_sigmoid(logits, labels, present, valid, factors)
        return self._average(losses, probabilities, valid, factors, logits.shape[1])

    def _factors(self, like: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Which pixels count, the labels with any class elsewhere, and factors by true class, all (B, H, W)."""
        valid = labels != ignore_index
        present = torch.where(valid, labels, 0)
        factors = None
        if self.class_weights is not None:
            factors = like.new_tensor(self.class_weights)
            factors = factors[present] if len(factors) > 1 else factors.expand(labels.shape)
        return valid, present, factors

    def _average(
        self, losses: Tensor, probabilities: Tensor | None, valid: Tensor, factors: Tensor | None, divisor: int
    ) -> Tensor:
        """The average of the pixels' losses, each a sum over ``divisor`` classes."""
        kept = valid
        if self.ohem is not None:
            kept = self.ohem.keep(losses, probabilities, valid)
            losses = torch.where(kept, losses, 0)
        if self.average == "all":
            return losses.sum() / (divisor * valid.numel())
        if self.average == "sum":
            return losses.sum()
        counted = kept if self.average == "kept" else valid
        if self.average == "weighted" and factors is not None:
            counted = factors * valid
        counted = counted.sum()
        return losses.sum() / (divisor * torch.where(counted > 0, counted, 1))

    def _over_sigmoid(
        self, logits: Tensor, labels: Tensor, present: Tensor, valid: Tensor, factors: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Losses of the pixels, summed over the classes, and with ``ohem`` probabilities, both (B, H, W).

        The loss of one class is softplus(x) - x y, so that one softplus is the only tensor of the logits' size.
        """
        if logits.shape[1] == 1:
            true = logits[:, 0]
            target = (labels == 1).to(logits.dtype)
        else:
            true = logits.gather(1, present[:, None])[:, 0]
            target = 1.0
        # From the threshold on, softplus(x) is taken for x; at 40 they agree to float64's precision.
        losses = F.softplus(logits, threshold=40).sum(1) - true * target
        if factors is not None:
            losses = losses + (factors - 1) * target * F.softplus(-true, threshold=40)
        probabilities = None
        if self.ohem is not None:
            with torch.no_grad():
                if logits.shape[1] == 1:
                    probabilities = torch.where(labels == 1, true, -true).sigmoid()
                else:
                    probabilities = F.cross_entropy(logits, present, reduction="none").neg().exp()
        return torch.where(valid, losses, 0), probabilities
