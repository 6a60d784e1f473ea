"""What heads share whose queries each find a class and a mask, which are combined into dense scores.

From "Per-Pixel Classification is Not All You Need for Semantic Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2107.06278.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast

from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig, HeadOutput
from segzoo.layers import resize
from segzoo.layers.initial import reset_as_torch
from segzoo.losses import QueryPredictions


@strict
class QueryHeadConfig(HeadConfig):
    """Options of every head with queries, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the maps to read, finest first; None reads all.
        channels: width of pixel decoder, queries and attention; a multiple of 4 and of the numbers of heads and
            groups.
        mask_channels: width of mask features and mask embeddings.
        num_queries: number of masks that the head makes, which should exceed the number of classes in any image.
        encoder_layers, encoder_heads, encoder_hidden_channels: numbers of layers and heads of the pixel decoder's
            attention, and width inside its feed-forward nets.
        decoder_layers, decoder_heads, decoder_hidden_channels: numbers of layers and heads of the queries' decoder,
            and width inside its feed-forward nets.
        resize_masks_first: outside training, resize the queries' masks to the images' size before the sum over the
            queries, as mmsegmentation 1.x does, so that the model's logits have that size. False sums at the masks'
            size, as InternImage and ViT-Adapter do, and is faster.
        norm: norm of the pixel decoder's convolutions, always "group_norm"; queries have layer norms.
        norm_groups: number of groups of the pixel decoder's group norms.
        norm_eps: epsilon of all norms.
        activation: always "relu".
        dropout: probability of dropping a value of the attention weights and of the residual branches, while training.
        losses: mask classification by default; losses of the dense logits can be added to it.

    Raises:
        SegZooError: a number is out of range, or the width cannot be split into heads or groups.
    """

    has_queries: ClassVar[bool] = True

    norm: Literal["group_norm"] = "group_norm"
    activation: Literal["relu"] = "relu"
    mask_channels: int = 256
    num_queries: int = 100
    encoder_layers: int = 6
    encoder_heads: int = 8
    encoder_hidden_channels: int = 1024
    decoder_layers: int = 9
    decoder_heads: int = 8
    decoder_hidden_channels: int = 2048
    resize_masks_first: bool = False
    norm_groups: int = 32

    def check(self) -> None:
        """Numbers are positive, and heads, groups and 4 divide ``channels``."""
        super().check()
        for option in ("num_queries", "decoder_layers", "mask_channels", "channels"):
            if getattr(self, option) < 1:
                raise SegZooError(f"{type(self).__name__}: {option}={getattr(self, option)} must be 1 at least")
        if self.channels % 4:
            raise SegZooError(f"{type(self).__name__}: channels={self.channels} must be a multiple of 4")
        for option in ("norm_groups", "encoder_heads", "decoder_heads"):
            count = getattr(self, option)
            if count < 1 or self.channels % count:
                raise SegZooError(
                    f"{type(self).__name__}: channels={self.channels} cannot be split into {option}={count}; "
                    "choose a number that divides the channels"
                )


@dataclass
class QueryHeadOutput(HeadOutput):
    """Output of the heads with queries.

    Args:
        logits: for each class the sum over the queries of its probability times the mask's, (B, num_labels, h, w), in
            float32 at least; at the masks' size even with ``resize_masks_first``, see `Head.image_logits`.
        class_queries_logits: class scores of the queries before softmax, "no object" last, (B, num_queries, num_labels
            + 1).
        masks_queries_logits: masks of the queries before the sigmoid, (B, num_queries, h, w).
        auxiliary_predictions: predictions of the queries after each decoder layer, the last included; of Mask2Former
            those before the first layer come first.
        mask_features: features whose products with the queries' mask embeddings are the masks, (B, mask_channels, h,
            w).
    """

    class_queries_logits: torch.FloatTensor | None = None
    masks_queries_logits: torch.FloatTensor | None = None
    auxiliary_predictions: tuple[QueryPredictions, ...] | None = None
    mask_features: torch.FloatTensor | None = None


class QueryHead(Head):
    """Base of the heads with queries; a subclass makes the four parts below, and writes ``forward``, which ends with `combine`."""

    config: QueryHeadConfig
    layers: nn.ModuleList
    norm: nn.LayerNorm
    query_positions: nn.Embedding
    mask_embed: nn.Sequential

    def build_classifier(self, config: QueryHeadConfig) -> nn.Module:
        """The linear classifier of the queries, whose last output is "no object"."""
        return nn.Linear(config.channels, config.num_outputs + 1)

    def predict(self, queries: Tensor) -> QueryPredictions:
        """Classes and mask embeddings of queries (B, Q, channels) between decoder layers."""
        queries = self.norm(queries)
        return QueryPredictions(self.classifier(queries), self.mask_embed(queries))

    def combine(self, predictions: Sequence[QueryPredictions], mask_features: Tensor) -> QueryHeadOutput:
        """The output from the predictions of all layers and from the mask features (B, mask_channels, h, w)."""
        classes = predictions[-1].class_logits
        masks = torch.einsum("bqc,bchw->bqhw", predictions[-1].mask_embeddings, mask_features)
        return QueryHeadOutput(
            logits=combined_logits(classes, masks),
            class_queries_logits=classes,
            masks_queries_logits=masks,
            auxiliary_predictions=tuple(predictions),
            mask_features=mask_features,
        )

    def image_logits(self, output: QueryHeadOutput, size: Sequence[int]) -> Tensor:
        """The logits at the images' size (height, width) with ``resize_masks_first``, else the output's own."""
        if self.training or not self.config.resize_masks_first:
            return output.logits
        return combined_logits(output.class_queries_logits, output.masks_queries_logits, size)

    def compute_loss(self, output: QueryHeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """The weighted losses of the head, by name.

        Mask classification gives ``query_class``, ``query_mask`` and ``query_dice`` for the last prediction, and the
        same names with the prefix ``layer_0.``, ``layer_1.`` ... for the earlier ones.

        Args:
            output: what ``forward`` returned.
            labels: class ids (B, H, W), int64, at any resolution.
            ignore_index: id of the pixels that do not count, because they belong to no mask.
        """
        parts = super().compute_loss(output, labels, ignore_index)
        for loss in self.losses:
            if loss.reads_queries:
                found = loss.parts(output.auxiliary_predictions, output.mask_features, labels, ignore_index)
                parts |= {name: parts.get(name, 0) + value for name, value in found.items()}
        return parts

    def _init_weights(self, module: nn.Module) -> None:
        if module is self:  # which comes after all its parts
            for linear in (self.classifier, *self.mask_embed[::2]):
                reset_as_torch(linear)
            init.normal_(self.query_positions.weight)
        else:
            super()._init_weights(module)


def decoder_layers(config: QueryHeadConfig, layer: Callable[..., nn.Module]) -> nn.ModuleList:
    """The layers of the queries' decoder, of the class ``layer``."""
    return nn.ModuleList(
        layer(
            config.channels,
            num_heads=config.decoder_heads,
            hidden_channels=config.decoder_hidden_channels,
            dropout=config.dropout,
            norm_eps=config.norm_eps,
        )
        for _ in range(config.decoder_layers)
    )


def mask_embedding(config: QueryHeadConfig) -> nn.Sequential:
    """Three linear layers that make a mask embedding of a query."""
    channels = config.channels
    return nn.Sequential(
        nn.Linear(channels, channels),
        nn.ReLU(),
        nn.Linear(channels, channels),
        nn.ReLU(),
        nn.Linear(channels, config.mask_channels),
    )


def combined_logits(class_logits: Tensor, mask_logits: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Dense scores (B, K, H, W): for each class the sum over queries of class probability times mask probability.

    Args:
        class_logits: (B, Q, K + 1) before softmax; the last, "no object", gets no score.
        mask_logits: (B, Q, h, w) before the sigmoid.
        size: (H, W) that the masks are resized to (bilinear) before the sigmoid; None keeps theirs.
    """
    precise = torch.promote_types(mask_logits.dtype, torch.float32)
    with maybe_autocast(mask_logits.device.type, enabled=False):  # sums of many small numbers need the precision
        classes = class_logits.to(precise).softmax(-1)[..., :-1]
        if size is None:
            return torch.einsum("bqk,bqhw->bkhw", classes, mask_logits.to(precise).sigmoid())
        # As many masks at a time as there are classes, so that they need little more memory than the result.
        count = max(classes.shape[2], 16)
        scores = classes.new_zeros(classes.shape[0], classes.shape[2], size[0] * size[1])
        for weights, masks in zip(classes.split(count, dim=1), mask_logits.split(count, dim=1), strict=True):
            masks = resize(masks.to(precise), size).sigmoid()
            scores.baddbmm_(weights.transpose(1, 2), masks.flatten(2))
        return scores.unflatten(2, tuple(size))
