"""The loss of MaskFormer, whose queries each give a class and a mask.

From "Per-Pixel Classification is Not All You Need for Semantic Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2107.06278, as mmsegmentation 1.x trains with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from segzoo.layers.points import Draw
from segzoo.layers.resize import resize
from segzoo.losses.base import number
from segzoo.losses.focal import focal_terms
from segzoo.losses.matching import focal_costs
from segzoo.losses.queries import QueryLoss, QueryPredictions, dice_losses


@dataclass(frozen=True, kw_only=True)
class FocalMaskClassificationLoss(QueryLoss):
    """Cross-entropy of every query's class, and focal and dice loss of the masks of matched queries.

    Whole masks are compared: resized (bilinear) to the labels for the losses, with labels of the nearest pixels for the
    matching. The focal loss is averaged over a mask's pixels. Ignored pixels belong to no mask.

    Args:
        weight, class_weights, no_object_weight: as in `QueryLoss`.
        class_loss_weight, mask_loss_weight, dice_loss_weight: factors on the three parts of the loss.
        class_cost_weight, mask_cost_weight, dice_cost_weight: factors on the three costs of the matching.
        gamma: how strongly easy pixels fade, 0 to 100; 0 is plain cross-entropy. For the losses alone, not for the
            matching, which has 2.
        alpha: factor on the loss of the pixels that are in a mask, in 0..1; that of the others is 1 - alpha. For the
            losses alone, not for the matching, which has 0.25.

    Raises:
        SegZooError: an option has the wrong type or is out of range.
    """

    name: ClassVar[str] = "focal_mask_classification"

    mask_loss_weight: float = 20.0
    mask_cost_weight: float = 20.0
    gamma: float = 2.0
    alpha: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("gamma", number(self.gamma, f"{self.name}: gamma", at_least=0.0, at_most=100.0))
        self._set("alpha", number(self.alpha, f"{self.name}: alpha", at_least=0.0, at_most=1.0))

    def matched_at(
        self, layer: QueryPredictions, features: Tensor, labels: Tensor, present: Sequence[Tensor], draw: Draw
    ) -> tuple[Tensor, list[Tensor]]:
        masks = layer.mask_embeddings @ features.flatten(2)
        small = resize(labels[:, None].to(features.dtype), features.shape[-2:], mode="nearest").long().flatten(1)
        return masks, [(ids == classes[:, None]).to(masks.dtype) for ids, classes in zip(small, present, strict=True)]

    def mask_costs(self, logits: Tensor, targets: Tensor) -> Tensor:
        return focal_costs(logits, targets)

    def compared(
        self, masks: Tensor, images: Tensor, classes: Tensor, labels: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        logits = resize(masks[:, None], labels.shape[-2:])[:, 0]
        return logits.flatten(1), (labels[images] == classes[:, None, None]).flatten(1).to(logits.dtype)

    def mask_losses(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Focal and dice loss of masks (N, P) with targets 0 or 1, each averaged over a mask and summed over the masks;
        without their weights.
        """
        terms = partial(focal_terms, gamma=self.gamma, alpha=self.alpha)
        # Computed again for the gradients, as the masks are as large as the images.
        options = {"use_reentrant": False, "preserve_rng_state": False}
        focal = checkpoint(lambda scores, true: terms(scores, true > 0.5).sum(), logits, targets, **options)
        return focal / logits.shape[1], checkpoint(dice_losses, logits, targets, **options)
