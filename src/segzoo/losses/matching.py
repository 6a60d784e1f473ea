"""Which query answers for which class of an image, and the masks of classes at points.

From "Masked-attention Mask Transformer for Universal Image Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2112.01527.
"""

from collections.abc import Callable, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F


def sample_label_masks(labels: Tensor, images: Tensor, points: Tensor, classes: Tensor) -> Tensor:
    """Values of the classes' masks at points, as `segzoo.layers.points.sample_maps` of the masks would give them, without making masks.

    Args:
        labels: class ids (B, H, W).
        images: (G,), the position in the batch of the image that each group of points lies in.
        points: (G, P, 2), (x, y) in 0..1 from edge to edge.
        classes: (G, M), ids of the classes to look for in each group.

    Returns:
        (G, M, P) in 0..1, in the points' dtype: the sum of the weights of those of the four nearest pixels that are of
        the class.
    """
    height, width = labels.shape[-2:]
    x, y = (points * points.new_tensor([width, height]) - 0.5).unbind(-1)
    left, top = x.floor(), y.floor()
    total = points.new_zeros(*classes.shape, points.shape[1])
    for column in (left, left + 1):
        for row in (top, top + 1):
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            at = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            found = labels.flatten(1)[images[:, None], at]
            total += (found[:, None] == classes[:, :, None]) * (weight * inside)[:, None]
    return total


def cross_entropy_costs(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each mask with each target, averaged over the points: (Q, P) and (M, P) -> (Q, M)."""
    # x's binary cross-entropy is softplus(x) - x where the target is 1, and softplus(x) where it is 0
    return (F.softplus(logits, threshold=40).sum(1, keepdim=True) - logits @ targets.T) / logits.shape[1]


def focal_costs(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Focal loss of each mask with each target, averaged over the pixels: (Q, P) and (M, P) -> (Q, M).

    Other than that of the losses it is bounded: probabilities are 1e-12 at least, as in the original's matching.
    """
    positive = logits.sigmoid()
    inside = -(positive + 1e-12).log() * alpha * (1 - positive) ** gamma
    outside = -(1 - positive + 1e-12).log() * (1 - alpha) * positive**gamma
    return (outside.sum(1, keepdim=True) + (inside - outside) @ targets.T) / logits.shape[1]


def matching_costs(
    class_logits: Tensor,
    mask_logits: Tensor,
    classes: Tensor,
    targets: Tensor,
    *,
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
    mask_costs: Callable[[Tensor, Tensor], Tensor] = cross_entropy_costs,
) -> Tensor:
    """The cost of letting each query answer for each class, for one image.

    Args:
        class_logits: (Q, K + 1) before softmax, "no object" last.
        mask_logits: the queries' masks at points, before the sigmoid, (Q, P).
        classes: ids of the classes, (M,).
        targets: the classes' masks at the points, in 0..1, (M, P).
        class_weight, mask_weight, dice_weight: factors on minus the class's probability, the costs of ``mask_costs``,
            and the dice loss.
        mask_costs: makes costs (Q, M) of ``mask_logits`` and ``targets``.

    Returns:
        costs (Q, M).
    """
    class_cost = -class_logits.softmax(-1)[:, classes]
    positive = mask_logits.sigmoid()
    overlap = 2 * positive @ targets.T
    dice_cost = 1 - (overlap + 1) / (positive.sum(1, keepdim=True) + targets.sum(1) + 1)
    return class_weight * class_cost + mask_weight * mask_costs(mask_logits, targets) + dice_weight * dice_cost


def cheapest_pairs(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The assignment of least cost for each image.

    Args:
        costs: (Q, M) for each image; M may differ, and be 0.

    Returns:
        for each image, on the CPU, the indices of the queries, ascending, and of the classes that they answer for. NaN
        and infinite costs are replaced by very large ones, so that a training whose loss is NaN fails at the loss, not
        here.
    """
    sizes = [cost.shape[1] for cost in costs]
    together = torch.cat(list(costs), dim=1).nan_to_num(1e10, 1e10, -1e10).cpu()  # one copy for all images
    pairs = []
    for cost in together.split(sizes, dim=1):
        queries, classes = linear_sum_assignment(cost.numpy())
        pairs.append((torch.from_numpy(queries), torch.from_numpy(classes)))
    return pairs
