"""The loss of heads whose queries each give a class and a mask.

From "Masked-attention Mask Transformer for Universal Image Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2112.01527, as the Mask2Former heads of InternImage and ViT-Adapter train with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from transformers.utils.generic import maybe_autocast

from segzoo.errors import SegZooError
from segzoo.layers.points import MAX_POINTS, Draw, random_numbers, sample_maps, uncertain_points
from segzoo.losses.base import Loss, count, factor, number
from segzoo.losses.matching import cheapest_pairs, matching_costs, sample_label_masks


@dataclass(frozen=True)
class QueryPredictions:
    """Predictions of the queries after one decoder layer.

    A query's mask is the product of its embedding with the head's mask features; the loss makes the masks of only
    those queries that answer for a class.

    Args:
        class_logits: (B, Q, K + 1) before softmax, "no object" last.
        mask_embeddings: (B, Q, C), with as many channels as the mask features.
    """

    class_logits: Tensor
    mask_embeddings: Tensor


@dataclass(frozen=True, kw_only=True)
class MaskClassificationLoss(Loss):
    """Cross-entropy of every query's class, and binary cross-entropy and dice of the masks of matched queries.

    Each class of an image is matched with one query, at the least total cost, and the other queries learn to say "no
    object". Masks are compared at random points. Every decoder layer has such a loss, with its own matching and
    points.

    Args:
        weight: factor on all parts.
        class_weights: factors on the queries' cross-entropy by class; the sum is divided by the factors of all
            queries.
        no_object_weight: factor on the cross-entropy of queries whose true class is "no object".
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
    reads_queries: ClassVar[bool] = True

    no_object_weight: float = 0.1
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
        for option in (field.name for field in fields(self) if field.name.endswith("_weight")):
            self._set(option, factor(getattr(self, option), f"{self.name}: {option}"))
        oversample = number(self.oversample_ratio, f"{self.name}: oversample_ratio", at_least=1.0, at_most=100.0)
        self._set("oversample_ratio", oversample)
        ratio = number(self.importance_ratio, f"{self.name}: importance_ratio", at_least=0.0, at_most=1.0)
        self._set("importance_ratio", ratio)
        count(self.num_points, f"{self.name}: num_points", at_most=MAX_POINTS)

    def compute(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        """Always raise an error, because dense logits hold no queries; `parts` computes the loss.

        Raises:
            SegZooError: always.
        """
        raise SegZooError(
            f"{self.name} needs a head with queries, such as Mask2FormerHead; it cannot read dense logits"
        )

    def parts(
        self,
        predictions: Sequence[QueryPredictions],
        mask_features: Tensor,
        labels: Tensor,
        ignore_index: int = 255,
        draw: Draw | None = None,
    ) -> dict[str, Tensor]:
        """The weighted parts of the loss, in float32 at least.

        In a distributed training the losses of masks are divided by the mean number of masks over the processes, as in
        the original, so that with gradients all processes must compute the loss together.

        Args:
            predictions: predictions before the first decoder layer and after each of them, in this order.
            mask_features: features whose products with the mask embeddings are the masks, (B, C, H, W).
            labels: class ids (B, H', W'), int64, each in 0..K-1 or ``ignore_index``, at any resolution. Ignored pixels
                belong to no mask; an image of nothing else only teaches its queries to say "no object".
            ignore_index: label of the pixels that do not count.
            draw: source of random numbers; None uses torch's, which ``torch.manual_seed`` makes repeatable.

        Returns:
            scalars ``query_class``, ``query_mask`` and ``query_dice`` for the last prediction, and the same names with
            the prefix ``layer_0.``, ``layer_1.`` ... for the earlier ones.

        Raises:
            SegZooError: there are not as many ``class_weights`` as classes.
        """
        self.check_num_labels(predictions[0].class_logits.shape[2] - 1)
        with maybe_autocast(mask_features.device.type, enabled=False):
            features = _precise(mask_features)
            layers = [
                QueryPredictions(_precise(layer.class_logits), _precise(layer.mask_embeddings))
                for layer in predictions
            ]
            if draw is None:
                draw = random_numbers(features.device)
            present = _present_classes(labels, layers[0].class_logits.shape[2] - 1, ignore_index)
            matched = [min(len(classes), layers[0].class_logits.shape[1]) for classes in present]
            num_masks = _mean_over_processes(features.new_tensor(float(sum(matched)))).clamp(min=1)
            found = {}
            for i, layer in enumerate(layers):
                prefix = "" if i == len(layers) - 1 else f"layer_{i}."
                for name, value in self._layer(layer, features, labels, present, num_masks, draw).items():
                    found[prefix + name] = self.weight * value
        return found

    def match(
        self, layer: QueryPredictions, features: Tensor, labels: Tensor, present: Sequence[Tensor], draw: Draw
    ) -> list[tuple[Tensor, Tensor]]:
        """Match the classes of each image with queries.

        Args:
            layer: predictions after one decoder layer.
            features: mask features (B, C, H, W).
            labels: class ids (B, H', W').
            present: for each image the ids of its classes, (M,).
            draw: source of random numbers.

        Returns:
            for each image the matched queries, ascending, and the positions in ``present`` of their classes.
        """
        points = torch.cat([draw((1, self.num_points, 2)) for _ in present]).to(features.dtype)
        # Sampling and the product with the embeddings may be swapped, so that no whole mask is needed here.
        masks = layer.mask_embeddings @ sample_maps(features, points)
        costs = []
        for i, classes in enumerate(present):
            image = torch.full((1,), i, device=labels.device)
            targets = sample_label_masks(labels, image, points[i : i + 1], classes[None])[0]
            costs.append(
                matching_costs(
                    layer.class_logits[i],
                    masks[i],
                    classes,
                    targets,
                    class_weight=self.class_cost_weight,
                    mask_weight=self.mask_cost_weight,
                    dice_weight=self.dice_cost_weight,
                )
            )
        return cheapest_pairs(costs)

    def _layer(
        self,
        layer: QueryPredictions,
        features: Tensor,
        labels: Tensor,
        present: Sequence[Tensor],
        num_masks: Tensor,
        draw: Draw,
    ) -> dict[str, Tensor]:
        device, no_object = features.device, layer.class_logits.shape[2] - 1
        with torch.no_grad():
            pairs = self.match(layer, features, labels, present, draw)
        wanted = torch.full(layer.class_logits.shape[:2], no_object, device=device)
        masks, classes = [], []
        for i, (queries, positions) in enumerate(pairs):
            queries = queries.to(device)
            classes.append(present[i][positions.to(device)])
            wanted[i, queries] = classes[i]
            masks.append(torch.einsum("qc,chw->qhw", layer.mask_embeddings[i, queries], features[i]))
        masks, classes = torch.cat(masks), torch.cat(classes)
        class_loss = self.query_class_loss(layer.class_logits.flatten(0, 1), wanted.flatten())

        with torch.no_grad():
            points = uncertain_points(
                masks[:, None],
                self.num_points,
                certainty=lambda logits: logits[:, 0].abs(),
                oversample_ratio=self.oversample_ratio,
                importance_ratio=self.importance_ratio,
                draw=draw,
            )
            images = torch.repeat_interleave(torch.tensor([len(queries) for queries, _ in pairs])).to(device)
            targets = sample_label_masks(labels, images, points, classes[:, None])[:, 0]
        mask_loss, dice_loss = self.mask_losses(sample_maps(masks[:, None], points)[:, 0], targets)
        return {
            "query_class": self.class_loss_weight * class_loss,
            "query_mask": self.mask_loss_weight * mask_loss / num_masks,
            "query_dice": self.dice_loss_weight * dice_loss / num_masks,
        }

    def query_class_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Cross-entropy of queries (N, K + 1) with true classes ``wanted`` (N,), K for "no object"; unweighted."""
        weights = logits.new_ones(logits.shape[1])
        if self.class_weights is not None:
            weights[:-1] = weights.new_tensor(self.class_weights)
        weights[-1] = self.no_object_weight
        total = F.cross_entropy(logits, wanted, weights, reduction="sum")
        return total / weights[wanted].sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def mask_losses(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy and dice of masks at points (N, P) with targets in 0..1, each averaged over the points
        and summed over the masks; without their weights.
        """
        cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / logits.shape[1]
        positive = logits.sigmoid()
        dice = 1 - (2 * (positive * targets).sum(1) + 1) / (positive.sum(1) + targets.sum(1) + 1)
        return cross_entropy, dice.sum()


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _present_classes(labels: Tensor, num_labels: int, ignore_index: int) -> list[Tensor]:
    """The ids of the classes in each image, ascending, without ``ignore_index``."""
    ids = labels.flatten(1)
    ids = torch.where(ids == ignore_index, num_labels, ids)
    seen = torch.zeros(ids.shape[0], num_labels + 1, dtype=torch.bool, device=ids.device).scatter_(1, ids, True)
    where = seen[:, :-1].nonzero()
    counts = torch.bincount(where[:, 0], minlength=ids.shape[0])
    return list(where[:, 1].split(counts.tolist()))


def _mean_over_processes(value: Tensor) -> Tensor:
    """The mean over all processes in training; in evaluation, where they may have different batches, ``value``."""
    if not (torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
