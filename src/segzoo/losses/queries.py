"""What losses of heads share whose queries each give a class and a mask: matching with the classes, and the class's loss.

From "Per-Pixel Classification is Not All You Need for Semantic Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2107.06278.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from transformers.utils.generic import maybe_autocast

from segzoo.errors import SegZooError
from segzoo.layers.points import Draw, random_numbers
from segzoo.losses.base import Loss, factor
from segzoo.losses.matching import cheapest_pairs, matching_costs


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
class QueryLoss(Loss):
    """Cross-entropy of every query's class, and two losses of the masks of matched queries.

    Each class of an image is matched with one query, at the least total cost, and the other queries learn to say "no
    object". Every decoder layer has such a loss, with its own matching. A subclass says where masks are compared, and how:
    `matched_at` and `mask_costs` for the matching, `compared` and `mask_losses` for the losses.

    Args:
        weight: factor on all parts.
        class_weights: factors on the queries' cross-entropy by class; the sum is divided by the factors of all
            queries.
        no_object_weight: factor on the cross-entropy of queries whose true class is "no object".
        class_loss_weight, mask_loss_weight, dice_loss_weight: factors on the three parts of the loss.
        class_cost_weight, mask_cost_weight, dice_cost_weight: factors on the three costs of the matching.

    Raises:
        SegZooError: an option has the wrong type or is out of range.
    """

    reads_queries: ClassVar[bool] = True

    no_object_weight: float = 0.1
    class_loss_weight: float = 1.0
    mask_loss_weight: float = 1.0
    dice_loss_weight: float = 1.0
    class_cost_weight: float = 1.0
    mask_cost_weight: float = 1.0
    dice_cost_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in (field.name for field in fields(self) if field.name.endswith("_weight")):
            self._set(option, factor(getattr(self, option), f"{self.name}: {option}"))

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
            predictions: predictions after each decoder layer, and perhaps before the first, in this order.
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
        masks, targets = self.matched_at(layer, features, labels, present, draw)
        costs = [
            matching_costs(
                layer.class_logits[i],
                masks[i],
                classes,
                targets[i],
                class_weight=self.class_cost_weight,
                mask_weight=self.mask_cost_weight,
                dice_weight=self.dice_cost_weight,
                mask_costs=self.mask_costs,
            )
            for i, classes in enumerate(present)
        ]
        return cheapest_pairs(costs)

    @abstractmethod
    def matched_at(
        self, layer: QueryPredictions, features: Tensor, labels: Tensor, present: Sequence[Tensor], draw: Draw
    ) -> tuple[Tensor, list[Tensor]]:
        """What the matching compares at P places: all masks' logits (B, Q, P), and for each image its classes' masks in
        0..1, (M, P). The arguments are those of `match`.
        """

    @abstractmethod
    def mask_costs(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The masks' part of the matching's costs, (Q, M), unweighted, from logits (Q, P) and targets (M, P)."""

    @abstractmethod
    def compared(
        self, masks: Tensor, images: Tensor, classes: Tensor, labels: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """Logits of matched masks and their targets in 0..1, both (N, P), at P places of each.

        Args:
            masks: the masks before the sigmoid, (N, H, W).
            images: position in the batch of the image of each, (N,).
            classes: the class of each, (N,).
            labels: class ids (B, H', W').
            draw: source of random numbers.
        """

    @abstractmethod
    def mask_losses(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The two losses of what `compared` returned, averaged over the places and summed over the masks, unweighted."""

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
        images = torch.repeat_interleave(torch.tensor([len(queries) for queries, _ in pairs])).to(device)
        mask_loss, dice_loss = self.mask_losses(*self.compared(masks, images, classes, labels, draw))
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


def dice_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over the masks of their dice losses, from logits (N, P) and targets in 0..1, (N, P)."""
    positive = logits.sigmoid()
    return (1 - (2 * (positive * targets).sum(1) + 1) / (positive.sum(1) + targets.sum(1) + 1)).sum()


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
