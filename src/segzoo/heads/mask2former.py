"""Mask2Former's head: queries that each find a class and a mask, which are combined into dense scores.

From "Masked-attention Mask Transformer for Universal Image Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2112.01527, in the form of mmdetection's ``Mask2FormerHead`` that InternImage, ViT-Adapter and
mmsegmentation 1.x train for semantic segmentation. The parts are our own, because transformers' fix what these
checkpoints vary (levels, groups of the norms), make whole masks where a few points will do, and read the deformable
attention's points one level after the other.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from transformers import initialization as init

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.base import HeadOutput
from segzoo.heads.queries import QueryHead, QueryHeadConfig, QueryHeadOutput, decoder_layers, mask_embedding
from segzoo.layers import resize, to_tokens
from segzoo.layers.masked_attention import MaskedDecoderLayer
from segzoo.layers.pixel_decoder import EncoderOptions, PixelDecoder, sine_positions, table_rows
from segzoo.losses import MaskClassificationLoss


@strict
class Mask2FormerHeadConfig(QueryHeadConfig):
    """Options of ``Mask2FormerHead``, besides those of ``QueryHeadConfig``.

    Args:
        num_levels: number of coarsest maps that the pixel decoder's attention joins, and that the queries look at in
            turn.
        encoder_points: points that each head of the pixel decoder's deformable attention reads from each level.
        project_levels: apply a 1x1 convolution to each level before the queries look at it.

    Raises:
        SegZooError: a number is out of range, or there are too few maps.
    """

    model_type = "segzoo_mask2former_head"

    dropout: float = 0.0
    num_levels: int = 3
    encoder_points: int = 4
    project_levels: bool = False
    losses: list | tuple = (MaskClassificationLoss(),)

    def check(self) -> None:
        """The numbers of levels and points are positive, and there is a map for every level."""
        super().check()
        for option in ("num_levels", "encoder_points"):
            if getattr(self, option) < 1:
                raise SegZooError(f"{type(self).__name__}: {option}={getattr(self, option)} must be 1 at least")
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


Mask2FormerHeadOutput = QueryHeadOutput
"""The name of the output before other heads had the same."""


class Mask2FormerHead(QueryHead):
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
        self.layers = decoder_layers(config, MaskedDecoderLayer)
        self.norm = nn.LayerNorm(channels, eps=config.norm_eps)
        self.query_positions = nn.Embedding(config.num_queries, channels)
        self.query_features = nn.Embedding(config.num_queries, channels)
        self.level_embed = nn.Embedding(config.num_levels, channels)
        self.mask_embed = mask_embedding(config)
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> QueryHeadOutput:
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
        predictions = [self.predict(queries)]
        for i, layer in enumerate(self.layers):
            level = i % len(levels)
            with torch.no_grad():
                visible = predictions[-1].mask_embeddings @ guides[level] >= 0
                visible = visible | ~visible.any(-1, keepdim=True)  # a query with an empty mask may look everywhere
            queries = layer(queries, positions, *places[level], visible)
            predictions.append(self.predict(queries))
        return self.combine(predictions, mask_features)

    def _keys_and_values(self, level: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        values = to_tokens(level) + embedding
        height, width = level.shape[-2:]
        positions = sine_positions(height, width, level.shape[1], dtype=values.dtype, device=values.device)
        return values + to_tokens(positions), values

    def parameter_depth(self, name: str) -> int | None:
        """Depth 0, the lowest learning rate, for queries, level embeddings, classifier and mask embedding."""
        lowest = ("mask_embed.", "classifier.", "query_positions.", "query_features.", "level_embed.")
        return 0 if name.startswith(lowest) else None

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (PixelDecoder, MaskedDecoderLayer)):
            module.reset()
        elif module is self:  # which comes after all its parts
            super()._init_weights(module)
            for embedding in (self.query_features, self.level_embed):
                init.normal_(embedding.weight)
            for conv in self.level_convs or ():
                init.kaiming_uniform_(conv.weight, a=1)
                init.zeros_(conv.bias)
        else:
            super()._init_weights(module)


register_head(Mask2FormerHeadConfig, Mask2FormerHead)
