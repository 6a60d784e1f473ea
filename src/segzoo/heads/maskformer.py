"""MaskFormer's head: queries that each find a class and a mask, from the coarsest map and from a feature pyramid.

From "Per-Pixel Classification is Not All You Need for Semantic Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2107.06278, in the form of mmdetection's ``MaskFormerHead`` that mmsegmentation 1.x trains.
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
from segzoo.layers import to_tokens
from segzoo.layers.detr import DetrDecoderLayer, DetrEncoderLayer
from segzoo.layers.mask_pyramid import MaskPyramid
from segzoo.layers.pixel_decoder import sine_positions, table_rows
from segzoo.losses import FocalMaskClassificationLoss


@strict
class MaskFormerHeadConfig(QueryHeadConfig):
    """Options of ``MaskFormerHead``, besides those of ``QueryHeadConfig``.

    Args:
        encoder_layers: number of layers that refine the coarsest map before the queries and the feature pyramid read
            it; 0, which all released models have, lets them read it as it is.
        project_always: apply a 1x1 convolution to the coarsest map before the queries look at it, also where it has
            their width already. Where an encoder made it, there is never one.

    Raises:
        SegZooError: a number is out of range.
    """

    model_type = "segzoo_maskformer_head"

    encoder_layers: int = 0
    decoder_layers: int = 6
    encoder_hidden_channels: int = 2048
    project_always: bool = False
    losses: list | tuple = (FocalMaskClassificationLoss(),)

    def check(self) -> None:
        """There are two maps at least, of which the finer ones form the pyramid."""
        super().check()
        if self.in_channels is not None and len(self.in_channels) < 2:
            raise SegZooError(
                f"{type(self).__name__}: the head reads {len(self.in_channels)} map, and needs 2 at least; name more in in_index"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[8, 16, 32],
            channels=16,
            mask_channels=16,
            num_queries=8,
            encoder_layers=1,
            encoder_heads=2,
            encoder_hidden_channels=32,
            decoder_layers=2,
            decoder_heads=2,
            decoder_hidden_channels=32,
            norm_groups=4,
            num_labels=5,
        )


class MaskFormerHead(QueryHead):
    """Reads maps from fine to coarse, and returns logits at the resolution of the finest."""

    config: MaskFormerHeadConfig
    _no_split_modules = ["DetrEncoderLayer", "DetrDecoderLayer"]

    def __init__(self, config: MaskFormerHeadConfig):
        super().__init__(config)
        channels = config.channels
        self.pixel_decoder = MaskPyramid(
            config.in_channels,
            channels,
            config.mask_channels,
            encoder=lambda: DetrEncoderLayer(
                channels,
                num_heads=config.encoder_heads,
                hidden_channels=config.encoder_hidden_channels,
                dropout=config.dropout,
                norm_eps=config.norm_eps,
            ),
            encoder_layers=config.encoder_layers,
            norm_groups=config.norm_groups,
            norm_eps=config.norm_eps,
        )
        self.projection = None
        if not config.encoder_layers and (config.project_always or config.in_channels[-1] != channels):
            self.projection = nn.Conv2d(config.in_channels[-1], channels, 1)
        self.layers = decoder_layers(config, DetrDecoderLayer)
        self.norm = nn.LayerNorm(channels, eps=config.norm_eps)
        self.query_positions = nn.Embedding(config.num_queries, channels)
        self.mask_embed = mask_embedding(config)
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> QueryHeadOutput:
        """Find masks and their classes in feature maps.

        Args:
            feature_maps: all maps of the backbone or neck, each (B, C, H, W), of which the head reads those of
                ``in_index``.
            previous: ignored.
        """
        mask_features, memory = self.pixel_decoder(self.select(feature_maps))
        if self.projection is not None:
            memory = self.projection(memory)
        values = to_tokens(memory)
        height, width = memory.shape[-2:]
        positions = sine_positions(height, width, memory.shape[1], dtype=values.dtype, device=values.device)
        keys = values + to_tokens(positions)
        places = table_rows(self.query_positions, self.config.num_queries, values.device)
        places = places.expand(values.shape[0], -1, -1)
        queries, predictions = torch.zeros_like(places), []
        for layer in self.layers:
            queries = layer(queries, places, keys, values)
            predictions.append(self.predict(queries))
        return self.combine(predictions, mask_features)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (MaskPyramid, DetrDecoderLayer)):
            module.reset()
            return
        super()._init_weights(module)
        if module is self and self.projection is not None:
            init.kaiming_uniform_(self.projection.weight, a=1)  # what Caffe2 calls Xavier
            init.zeros_(self.projection.bias)


register_head(MaskFormerHeadConfig, MaskFormerHead)
