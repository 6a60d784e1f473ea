"""Cross-entropy with class weights, an ignored index, and both averages in use."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.errors import SegZooError


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = 255,
    class_weights: Sequence[float] | None = None,
    average: str = "all",
) -> Tensor:
    """Mean pixel cross-entropy of logits (B, C, H, W) against labels (B, H, W).

    Args:
        ignore_index: labels with this value do not contribute; a batch with nothing else gives 0 with finite gradients.
        class_weights: a factor per class on the pixel losses. The weights do not enter the divisor.
        average: "all" divides by the number of all pixels, ignored ones included, as mmsegmentation trains its models;
            "valid" divides by the number of pixels that are not ignored.

    Raises:
        SegZooError: ``class_weights`` has another length than there are classes, or ``average`` is unknown.
    """
    weight = None
    if class_weights is not None:
        if len(class_weights) != logits.shape[1]:
            raise SegZooError(
                f"class_weights has {len(class_weights)} entries for {logits.shape[1]} classes; give one per class"
            )
        weight = torch.tensor(class_weights, dtype=logits.dtype, device=logits.device)
    total = F.cross_entropy(logits, labels, weight=weight, ignore_index=ignore_index, reduction="none").sum()
    if average == "all":
        return total / labels.numel()
    if average == "valid":
        return total / (labels != ignore_index).sum().clamp(min=1)
    raise SegZooError(
        f"average={average!r} is unknown; use 'all' (all pixels) or 'valid' (pixels that are not ignored)"
    )
