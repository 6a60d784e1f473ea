"""Mask2Former's head: queries that each find a class and a mask, which are combined into dense scores.

From "Masked-attention Mask Transformer for Universal Image Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2112.01527, in the form of mmdetection's ``Mask2FormerHead`` that InternImage, ViT-Adapter and
mmsegmentation 1.x train for semantic segmentation. The parts are our own, because transformers' fix what these
checkpoints vary (levels, groups of the norms), make whole masks where a few points will do, and read the deformable
attention's points one level after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast

from segzoo.auto import register_head
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig, HeadOutput
from segzoo.layers import resize, to_tokens
from segzoo.layers.initial import reset_as_torch
from segzoo.layers.masked_attention import MaskedDecoderLayer
from segzoo.layers.pixel_decoder import EncoderOptions, PixelDecoder, sine_positions, table_rows
from segzoo.losses import MaskClassificationLoss, QueryPredictions


@strict
class Mask2FormerHeadConfig(HeadConfig):
    """Options of ``Mask2FormerHead``, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the maps to read, finest first; None reads all.
        channels: width of pixel decoder, queries and attention; a multiple of 4 and of the numbers of heads and
            groups.
        mask_channels: width of mask features and mask embeddings.
        num_queries: number of masks that the head makes, which should exceed the number of classes in any image.
        num_levels: number of coarsest maps that the pixel decoder's attention joins, and that the queries look at in
            turn.
        encoder_layers, encoder_heads, encoder_points, encoder_hidden_channels: numbers of layers and heads of the
            pixel decoder's deformable attention, points that each head reads from each level, and width inside the
            feed-forward nets.
        decoder_layers, decoder_heads, decoder_hidden_channels: numbers of layers and heads of the queries' decoder,
            and width inside its feed-forward nets.
        resize_masks_first: outside training, resize the queries' masks to the images' size before the sum over the
            queries, as mmsegmentation 1.x does, so that the model's logits have that size. False sums at the masks'
            size, as InternImage and ViT-Adapter do, and is faster.
        project_levels: apply a 1x1 convolution to each level before the queries look at it.
        norm: norm of the pixel decoder's convolutions, always "group_norm"; queries have layer norms.
        norm_groups: number of groups of the pixel decoder's group norms.
        norm_eps: epsilon of all norms.
        activation: always "relu".
        dropout: probability of dropping a value of the attention weights and of the residual branches, while training.
        losses: mask classification by default; losses of the dense logits can be added to it.

    Raises:
        SegZooError: a number is out of range, the width cannot be split into heads or groups, or there are too few
            maps.
    """

    model_type = "segzoo_mask2former_head"
    has_queries: ClassVar[bool] = True

    norm: Literal["group_norm"] = "group_norm"
    activation: Literal["relu"] = "relu"
    dropout: float = 0.0
    mask_channels: int = 256
    num_queries: int = 100
    num_levels: int = 3
    encoder_layers: int = 6
    encoder_heads: int = 8
    encoder_points: int = 4
    encoder_hidden_channels: int = 1024
    decoder_layers: int = 9
    decoder_heads: int = 8
    decoder_hidden_channels: int = 2048
    resize_masks_first: bool = False
    project_levels: bool = False
    norm_groups: int = 32
    losses: list | tuple = (MaskClassificationLoss(),)

    def check(self) -> None:
        """Numbers are positive, heads, groups and 4 divide ``channels``, and there is a map for every level."""
        super().check()
        for option in ("num_queries", "num_levels", "decoder_layers", "encoder_points", "mask_channels", "channels"):
            if getattr(self, option) < 1:
                raise SegZooError(f"{type(self).__name__}: {option}={getattr(self, option)} must be 1 at least")
        if self.encoder_layers < 0:
            raise SegZooError(f"{type(self).__name__}: encoder_layers={self.encoder_layers} must not be negative")
        if self.channels % 4:
            raise SegZooError(f"{type(self).__name__}: channels={self.channels} must be a multiple of 4")
        for option in ("norm_groups", "encoder_heads", "decoder_heads"):
            count = getattr(self, option)
            if count < 1 or self.channels % count:
                raise SegZooError(
                    f"{type(self).__name__}: channels={self.channels} cannot be split into {option}={count}; "
                    "choose a number that divides the channels"
                )
        if self.in_channels is not None and len(self.in_channels) < self.num_levels:
            raise SegZooError(
                f"{type(self).__name__}: num_levels={self.num_levels}, but the head reads {len(self.in_channels)} maps; "
                "lower num_levels or give more maps"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[8, 16, 32, 64],
            channels=16,
            mask_channels=16,
            num_queries=8,
            encoder_layers=1,
            encoder_heads=2,
            encoder_hidden_channels=32,
            decoder_layers=3,
            decoder_heads=2,
            decoder_hidden_channels=32,
            norm_groups=4,
            num_labels=5,
        )


@dataclass
class Mask2FormerHeadOutput(HeadOutput):
    """Output of ``Mask2FormerHead``.

    Args:
        logits: for each class the sum over the queries of its probability times the mask's, (B, num_labels, h, w), in
            float32 at least; at the masks' size even with ``resize_masks_first``, see `Head.image_logits`.
        class_queries_logits: class scores of the queries before softmax, "no object" last, (B, num_queries, num_labels
            + 1).
        masks_queries_logits: masks of the queries before the sigmoid, (B, num_queries, h, w).
        auxiliary_predictions: predictions of the queries before the first decoder layer and after each of them,
            including the last.
        mask_features: features whose products with the queries' mask embeddings are the masks, (B, mask_channels, h,
            w).
    """

    class_queries_logits: torch.FloatTensor | None = None
    masks_queries_logits: torch.FloatTensor | None = None
    auxiliary_predictions: tuple[QueryPredictions, ...] | None = None
    mask_features: torch.FloatTensor | None = None


class Mask2FormerHead(Head):
    """Reads maps from fine to coarse, and returns logits at the resolution of the finest."""

    config: Mask2FormerHeadConfig
    _no_split_modules = ["DeformableEncoderLayer", "MaskedDecoderLayer"]

    def __init__(self, config: Mask2FormerHeadConfig):
        super().__init__(config)
        channels = config.channels
        self.pixel_decoder = PixelDecoder(
            config.in_channels,
            channels,
            config.mask_channels,
            EncoderOptions(
                num_layers=config.encoder_layers,
                num_heads=config.encoder_heads,
                num_points=config.encoder_points,
                hidden_channels=config.encoder_hidden_channels,
                dropout=config.dropout,
            ),
            num_levels=config.num_levels,
            norm_groups=config.norm_groups,
            norm_eps=config.norm_eps,
        )
        self.level_convs = None
        if config.project_levels:
            self.level_convs = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(config.num_levels))
        self.layers = nn.ModuleList(
            MaskedDecoderLayer(
                channels,
                num_heads=config.decoder_heads,
                hidden_channels=config.decoder_hidden_channels,
                dropout=config.dropout,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(channels, eps=config.norm_eps)
        self.query_positions = nn.Embedding(config.num_queries, channels)
        self.query_features = nn.Embedding(config.num_queries, channels)
        self.level_embed = nn.Embedding(config.num_levels, channels)
        self.mask_embed = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, config.mask_channels),
        )
        self.post_init()

    def build_classifier(self, config: Mask2FormerHeadConfig) -> nn.Module:
        """The linear classifier of the queries, whose last output is "no object"."""
        return nn.Linear(config.channels, config.num_outputs + 1)

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> Mask2FormerHeadOutput:
        """Find masks and their classes in feature maps.

        Args:
            feature_maps: all maps of the backbone or neck, each (B, C, H, W), of which the head reads those of
                ``in_index``.
            previous: ignored.
        """
        mask_features, levels = self.pixel_decoder(self.select(feature_maps))
        if self.level_convs is not None:
            levels = [conv(x) for conv, x in zip(self.level_convs, levels, strict=True)]
        batch, device, count = mask_features.shape[0], mask_features.device, self.config.num_queries
        queries = table_rows(self.query_features, count, device).expand(batch, -1, -1)
        positions = table_rows(self.query_positions, count, device).expand(batch, -1, -1)
        level_embed = table_rows(self.level_embed, len(levels), device)
        places = [self._keys_and_values(*pair) for pair in zip(levels, level_embed, strict=True)]
        # The masks that guide the attention are made at each level's size: resizing the features first gives the same
        # masks.
        guides = [resize(mask_features, x.shape[-2:]).detach().flatten(2) for x in levels]
        predictions = [self._predict(queries)]
        for i, layer in enumerate(self.layers):
            level = i % len(levels)
            with torch.no_grad():
                visible = predictions[-1].mask_embeddings @ guides[level] >= 0
                visible = visible | ~visible.any(-1, keepdim=True)  # a query with an empty mask may look everywhere
            queries = layer(queries, positions, *places[level], visible)
            predictions.append(self._predict(queries))
        classes = predictions[-1].class_logits
        masks = torch.einsum("bqc,bchw->bqhw", predictions[-1].mask_embeddings, mask_features)
        return Mask2FormerHeadOutput(
            logits=combined_logits(classes, masks),
            class_queries_logits=classes,
            masks_queries_logits=masks,
            auxiliary_predictions=tuple(predictions),
            mask_features=mask_features,
        )

    def image_logits(self, output: Mask2FormerHeadOutput, size: Sequence[int]) -> Tensor:
        """The logits at the images' size (height, width) with ``resize_masks_first``, else the output's own."""
        if self.training or not self.config.resize_masks_first:
            return output.logits
        return combined_logits(output.class_queries_logits, output.masks_queries_logits, size)

    def _keys_and_values(self, level: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        values = to_tokens(level) + embedding
        height, width = level.shape[-2:]
        positions = sine_positions(height, width, level.shape[1], dtype=values.dtype, device=values.device)
        return values + to_tokens(positions), values

    def _predict(self, queries: Tensor) -> QueryPredictions:
        queries = self.norm(queries)
        return QueryPredictions(self.classifier(queries), self.mask_embed(queries))

    def compute_loss(self, output: Mask2FormerHeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
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

    def parameter_depth(self, name: str) -> int | None:
        """Depth 0, the lowest learning rate, for queries, level embeddings, classifier and mask embedding."""
        lowest = ("mask_embed.", "classifier.", "query_positions.", "query_features.", "level_embed.")
        return 0 if name.startswith(lowest) else None

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (PixelDecoder, MaskedDecoderLayer)):
            module.reset()
        elif module is self:  # which comes after all its parts
            for linear in (self.classifier, *self.mask_embed[::2]):
                reset_as_torch(linear)
            for embedding in (self.query_positions, self.query_features, self.level_embed):
                init.normal_(embedding.weight)
            for conv in self.level_convs or ():
                init.kaiming_uniform_(conv.weight, a=1)
                init.zeros_(conv.bias)
        else:
            super()._init_weights(module)


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


register_head(Mask2FormerHeadConfig, Mask2FormerHead)
