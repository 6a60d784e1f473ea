"""UPerNet's head: pyramid pooling on the coarsest map, then a feature pyramid fused at the finest.

From "Unified Perceptual Parsing for Scene Understanding" (Xiao et al., 2018), https://arxiv.org/abs/1807.10221, as
mmsegmentation's ``UPerHead`` trains it, and MIT's ``UPerNet`` (https://github.com/CSAILVision/semantic-segmentation-pytorch) with
``resize_pooled_first``.
"""

from collections.abc import Sequence

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import Ints
from segzoo.heads.base import Head, HeadConfig, HeadOutput
from segzoo.layers import ConvNormAct, FusionConv, PyramidPooling, resize


@strict
class UPerHeadConfig(HeadConfig):
    """Options of ``UPerHead`` beside those of ``HeadConfig``.

    Args:
        in_index: the maps to read, finest first; None reads all.
        pool_scales: sides of the grids that the coarsest map is pooled to, in cells.
        pool_channels: width of each grid's projection; None: ``channels``.
        resize_pooled_first: resize each grid to the map before its projection, not after it.
    """

    model_type = "segzoo_uper_head"

    channels: int = 512
    pool_scales: Ints = (1, 2, 3, 6)
    pool_channels: int | None = None
    resize_pooled_first: bool = False

    @classmethod
    def tiny(cls):
        return cls(in_channels=[8, 16, 32, 64], channels=16, pool_scales=[1, 2, 3], num_labels=5)


class UPerHead(Head):
    """Reads maps from fine to coarse, returns logits at the resolution of the finest."""

    config: UPerHeadConfig

    def __init__(self, config: UPerHeadConfig):
        super().__init__(config)
        width, eps = config.channels, config.norm_eps
        *fine, coarsest = config.in_channels
        pooled = config.pool_channels or width
        self.pyramid = PyramidPooling(
            coarsest,
            pooled,
            config.pool_scales,
            norm_eps=eps,
            align_corners=config.align_corners,
            resize_first=config.resize_pooled_first,
        )
        fusion = {"padding": 1, "norm_eps": eps, "align_corners": config.align_corners}
        self.context_conv = FusionConv(coarsest + len(config.pool_scales) * pooled, width, 3, **fusion)
        self.lateral_convs = nn.ModuleList(ConvNormAct(channels, width, 1, norm_eps=eps) for channels in fine)
        self.fpn_convs = nn.ModuleList(ConvNormAct(width, width, 3, padding=1, norm_eps=eps) for _ in fine)
        self.fusion_conv = FusionConv(len(config.in_channels) * width, width, 3, **fusion)
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> HeadOutput:
        """Logits of feature maps, each (B, C, H, W); ``previous`` (an earlier head's output) is not read."""
        *fine, coarsest = self.select(feature_maps)
        align = self.config.align_corners
        merged = [self.context_conv(self.pyramid(coarsest))]
        for x, lateral in zip(reversed(fine), reversed(self.lateral_convs), strict=True):
            x = lateral(x)
            merged.insert(0, x + resize(merged[0], x.shape[-2:], align_corners=align))
        maps = [conv(x) for conv, x in zip(self.fpn_convs, merged[:-1], strict=True)] + [merged[-1]]
        return HeadOutput(logits=self.classify(self.fusion_conv(maps)))


register_head(UPerHeadConfig, UPerHead)
