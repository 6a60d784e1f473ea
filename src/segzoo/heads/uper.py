"""UPerNet's head: pyramid pooling on the coarsest map, then a feature pyramid fused at the finest.

From "Unified Perceptual Parsing for Scene Understanding" (Xiao et al., 2018), https://arxiv.org/abs/1807.10221, as
mmsegmentation's ``UPerHead`` trains it, and MIT's ``UPerNet``
(https://github.com/CSAILVision/semantic-segmentation-pytorch) with ``resize_pooled_first``.
"""

from typing import ClassVar, Self

from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.heads.base import Head, HeadConfig
from segzoo.layers import FusionConv, PyramidPooling, resize


@strict
class UPerHeadConfig(HeadConfig):
    """Options of ``UPerHead``, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the maps to read, finest first; None reads all.
        pool_scales: sides of the grids that the coarsest map is pooled to, in cells.
        pool_channels: width of each grid's projection; None is ``channels``.
        resize_pooled_first: resize each grid to the map before its projection, not after it.
    """

    model_type = "segzoo_uper_head"
    pools_to_points: ClassVar[bool] = True

    channels: int = 512
    pool_scales: Ints = (1, 2, 3, 6)
    pool_channels: int | None = None
    resize_pooled_first: bool = False

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[8, 16, 32, 64], channels=16, pool_scales=[1, 2, 3], num_labels=5)


class UPerHead(Head):
    """Reads maps from fine to coarse, and returns logits at the resolution of the finest."""

    config: UPerHeadConfig

    def __init__(self, config: UPerHeadConfig):
        super().__init__(config)
        width, options = config.channels, {**config.block_options, "align_corners": config.align_corners}
        *fine, coarsest = config.in_channels
        pooled, first = config.pool_channels or width, config.resize_pooled_first
        self.pyramid = PyramidPooling(coarsest, pooled, config.pool_scales, resize_first=first, **options)
        self.context_conv = FusionConv(coarsest + len(self.pyramid) * pooled, width, 3, padding=1, **options)
        self.lateral_convs = nn.ModuleList(config.block(channels, width, 1) for channels in fine)
        self.fpn_convs = nn.ModuleList(config.block(width, width, 3, padding=1) for _ in fine)
        self.fusion_conv = FusionConv(len(config.in_channels) * width, width, 3, padding=1, **options)
        self.post_init()

    def features(self, *maps: Tensor) -> Tensor:
        *fine, coarsest = maps
        align = self.config.align_corners
        merged = [self.context_conv(self.pyramid(coarsest))]
        for x, lateral in zip(reversed(fine), reversed(self.lateral_convs), strict=True):
            x = lateral(x)
            merged.insert(0, x + resize(merged[0], x.shape[-2:], align_corners=align))
        merged = [conv(x) for conv, x in zip(self.fpn_convs, merged[:-1], strict=True)] + [merged[-1]]
        return self.fusion_conv(merged)


register_head(UPerHeadConfig, UPerHead)
