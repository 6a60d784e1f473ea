"""Cross-entropy of boundaries, where both kinds of pixels count as much, and the boundaries of labels.

From "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers" (Xu et al., 2022),
https://arxiv.org/abs/2206.02066, in the form of mmsegmentation's ``BoundaryLoss`` and ``GenerateEdge``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.losses.base import Loss

_ALL, _FIRST, _LAST = slice(None), slice(None, -1), slice(1, None)
# Rows and columns of pixels, and those of the neighbours that they are compared with.
_NEIGHBOURS = (
    ((_LAST, _ALL), (_FIRST, _ALL)),
    ((_ALL, _FIRST), (_ALL, _LAST)),
    ((_FIRST, _FIRST), (_LAST, _LAST)),
    ((_FIRST, _LAST), (_LAST, _FIRST)),
)


@dataclass(frozen=True, kw_only=True)
class BoundaryLoss(Loss):
    """Binary cross-entropy of one channel, the mean over pixels, each weighted by the share of the other kind.

    Labels are 1 on boundaries and otherwise 0. Class weights have no effect.
    """

    name: ClassVar[str] = "boundary"
    per_class: ClassVar[tuple[str, ...]] = ()

    def check_num_labels(self, num_labels: int) -> None:
        """There is one channel.

        Raises:
            SegZooError: there are more, as in the logits of classes.
        """
        if num_labels != 1:
            raise SegZooError(
                f"boundary: the logits have {num_labels} channels and not one; heads such as PIDHead have such a loss of "
                "their own, give them losses of classes"
            )

    def compute(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        valid = labels != ignore_index
        positive, negative = (labels == 1) & valid, (labels == 0) & valid
        count = valid.sum().clamp(min=1)
        weights = (positive * negative.sum() + negative * positive.sum()) / count.to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits[:, 0], positive.to(logits.dtype), reduction="none")
        return (weights * losses).sum() / count


def class_boundaries(labels: Tensor, width: int, ignore_index: int) -> Tensor:
    """Pixels near those whose class differs from a neighbour's, int64 (B, H, W): 1, and elsewhere 0.

    A pixel is compared with the one above it, the one to its right and the two below it diagonally; those that do not
    count make no boundary.

    Args:
        labels: class ids (B, H, W), int64.
        width: side of the square around such a pixel, in pixels, that belongs to the boundary.
        ignore_index: id of the pixels that do not count.
    """
    valid = labels != ignore_index
    found = torch.zeros_like(valid)
    for (rows, columns), (other_rows, other_columns) in _NEIGHBOURS:
        here, there = (slice(None), rows, columns), (slice(None), other_rows, other_columns)
        found[here] |= (labels[here] != labels[there]) & valid[here] & valid[there]
    before = width // 2
    after = width - 1 - before
    padded = F.pad(found.float(), (before, after, before, after))
    return F.max_pool2d(padded, width, stride=1).long()
