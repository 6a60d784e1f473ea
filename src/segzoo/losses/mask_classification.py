"""The loss of heads whose queries each give a class and a mask.

From "Masked-attention Mask Transformer for Universal Image Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2112.01527, as the Mask2Former heads of InternImage and ViT-Adapter train with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.layers.points import MAX_POINTS, Draw, sample_maps, uncertain_points
from segzoo.losses.base import count, number
from segzoo.losses.matching import cross_entropy_costs, sample_label_masks
from segzoo.losses.queries import QueryLoss, QueryPredictions, dice_losses


@dataclass(frozen=True, kw_only=True)
class MaskClassificationLoss(QueryLoss):
    """Cross-entropy of every query's class, and binary cross-entropy and dice of the masks of matched queries.

    Masks are compared at random points, other ones for each decoder layer and for its matching.

    Args:
        weight, class_weights, no_object_weight: as in `QueryLoss`.
        class_loss_weight, mask_loss_weight, dice_loss_weight: factors on the three parts of the loss.
        class_cost_weight, mask_cost_weight, dice_cost_weight: factors on the three costs of the matching.
        num_points: number of points at which each mask is compared, in costs and losses; 2**20 at most.
        oversample_ratio: number of random points from which uncertain ones are chosen, relative to ``num_points``; 1
            to 100.
        importance_ratio: share of the points, 0..1, that lie where the mask is least certain; the others are random.

    Raises:
        SegZooError: an option has the wrong type or is out of range.
    """

    name: ClassVar[str] = "mask_classification"

    class_loss_weight: float = 2.0
    mask_loss_weight: float = 5.0
    dice_loss_weight: float = 5.0
    class_cost_weight: float = 2.0
    mask_cost_weight: float = 5.0
    dice_cost_weight: float = 5.0
    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        oversample = number(self.oversample_ratio, f"{self.name}: oversample_ratio", at_least=1.0, at_most=100.0)
        self._set("oversample_ratio", oversample)
        ratio = number(self.importance_ratio, f"{self.name}: importance_ratio", at_least=0.0, at_most=1.0)
        self._set("importance_ratio", ratio)
        count(self.num_points, f"{self.name}: num_points", at_most=MAX_POINTS)

    def matched_at(
        self, layer: QueryPredictions, features: Tensor, labels: Tensor, present: Sequence[Tensor], draw: Draw
    ) -> tuple[Tensor, list[Tensor]]:
        points = torch.cat([draw((1, self.num_points, 2)) for _ in present]).to(features.dtype)
        # Sampling and the product with the embeddings may be swapped, so that no whole mask is needed here.
        masks = layer.mask_embeddings @ sample_maps(features, points)
        images = torch.arange(len(present), device=labels.device)
        targets = [
            sample_label_masks(labels, images[i : i + 1], points[i : i + 1], classes[None])[0]
            for i, classes in enumerate(present)
        ]
        return masks, targets

    def mask_costs(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy_costs(logits, targets)

    @torch.no_grad()
    def _points_and_targets(
        self, masks: Tensor, images: Tensor, classes: Tensor, labels: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        points = uncertain_points(
            masks[:, None],
            self.num_points,
            certainty=lambda logits: logits[:, 0].abs(),
            oversample_ratio=self.oversample_ratio,
            importance_ratio=self.importance_ratio,
            draw=draw,
        )
        return points, sample_label_masks(labels, images, points, classes[:, None])[:, 0]

    def compared(
        self, masks: Tensor, images: Tensor, classes: Tensor, labels: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        points, targets = self._points_and_targets(masks, images, classes, labels, draw)
        return sample_maps(masks[:, None], points)[:, 0], targets

    def mask_losses(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy and dice of masks at points (N, P) with targets in 0..1, each averaged over the points
        and summed over the masks; without their weights.
        """
        cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / logits.shape[1]
        return cross_entropy, dice_losses(logits, targets)
