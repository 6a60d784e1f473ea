"""DAFormer's head: maps of all resolutions, projected by linear layers, resized to the finest one and fused in context.

From "DAFormer: Improving Network Architectures and Training Strategies for Domain-Adaptive Semantic Segmentation"
(Hoyer et al., CVPR 2022), https://arxiv.org/abs/2111.14887, with the fusions that its ``DAFormerHead``
(https://github.com/lhoyer/DAFormer) was compared with.
"""

from typing import Literal, Self

import torch
from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig
from segzoo.layers import AtrousPyramid, FusionConv, concatenate
from segzoo.layers.conv import Conv2d
from segzoo.layers.interlaced_attention import interlaced_attention, interlaced_relation


@strict
class DAFormerHeadConfig(HeadConfig):
    """Options of ``DAFormerHead``, besides those of ``HeadConfig``; norm and activation are those of the fusion.

    Args:
        projected_channels: widths to which the maps are projected, one for each; None is ``channels`` for all.
        fusion: how the projected maps become one: by a pyramid of dilated convolutions (DAFormer), by one
            convolution (SegFormer), or by a pointwise convolution and attention to far and near pixels in turn.
        dilations: of the pyramid's 3x3 convolutions; 1 stands for a 1x1 convolution.
        separable: the pyramid's 3x3 convolutions are depthwise ones before pointwise ones.
        image_pool: whether the mean of the map is a branch of the pyramid.
        kernel_size: odd side of the one convolution's kernel.
        attention_channels: width of queries and keys of the attention.
        attention_convs: number of convolutions that make queries, and of those that make keys.
        attention_block: (height, width), in pixels, of the blocks of near pixels.
        attention_joins_input: whether what the attention finds is joined with its input and fused once more.

    Raises:
        SegZooError: a map has no width, or a number is out of range.
    """

    model_type = "segzoo_daformer_head"

    projected_channels: Ints | None = None
    fusion: Literal["pyramid", "conv", "attention"] = "pyramid"
    dilations: Ints = (1, 6, 12, 18)
    separable: bool = True
    image_pool: bool = False
    kernel_size: int = 1
    attention_channels: int = 256
    attention_convs: int = 1
    attention_block: Ints = (8, 8)
    attention_joins_input: bool = False

    def check(self) -> None:
        """Each map has a width, the kernel a middle, and a block two sides."""
        super().check()
        maps = self.in_channels or self.in_index
        if self.projected_channels is not None and maps is not None and len(maps) != len(self.projected_channels):
            raise SegZooError(
                f"DAFormerHeadConfig: projected_channels={self.projected_channels} need one entry for each of {len(maps)} maps"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise SegZooError(f"DAFormerHeadConfig: kernel_size={self.kernel_size} must be an odd number")
        if len(self.attention_block) != 2 or min(self.attention_block) < 1 or self.attention_convs < 1:
            raise SegZooError(
                f"DAFormerHeadConfig: attention_block={self.attention_block} must be a height and a width, "
                f"attention_convs={self.attention_convs} 1 at least"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[8, 12, 16], channels=8, dilations=[1, 2], num_labels=5)


class InterlacedFusion(nn.Module):
    """Fuses maps by a pointwise convolution, and lets its pixels attend to far and near ones in turn.

    Args:
        config: the head's config.
        in_channels: channels of all maps together.
    """

    def __init__(self, config: DAFormerHeadConfig, in_channels: int) -> None:
        super().__init__()
        width, self.size = config.channels, tuple(config.attention_block)
        self.in_conv = FusionConv(in_channels, width, 1, align_corners=config.align_corners, **config.block_options)
        self.far, self.near = (
            interlaced_relation(config.block, width, config.attention_channels, convs=config.attention_convs)
            for _ in range(2)
        )
        self.out_conv = config.block(2 * width, width, 1) if config.attention_joins_input else None

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (B, C, H, W) -> (B, channels, H, W) of the first one's size."""
        x = self.in_conv(maps)
        found = interlaced_attention(x, self.far, self.near, self.size)
        return found if self.out_conv is None else self.out_conv(torch.cat([found, x], dim=1))


class DAFormerHead(Head):
    """Reads several maps, the finest first, and returns logits at the first one's resolution."""

    config: DAFormerHeadConfig

    def __init__(self, config: DAFormerHeadConfig):
        super().__init__(config)
        width, options = config.channels, config.block_options
        widths = config.projected_channels or [width] * len(config.in_channels)
        self.projections = nn.ModuleList(
            Conv2d(channels, projected, 1) for channels, projected in zip(config.in_channels, widths, strict=True)
        )
        if config.fusion == "pyramid":
            self.fusion: nn.Module = AtrousPyramid(
                sum(widths),
                width,
                config.dilations,
                image_pool=config.image_pool,
                separable=config.separable,
                align_corners=config.align_corners,
                **options,
            )
        elif config.fusion == "conv":
            size = config.kernel_size
            self.fusion = FusionConv(
                sum(widths), width, size, padding=size // 2, align_corners=config.align_corners, **options
            )
        else:
            self.fusion = InterlacedFusion(config, sum(widths))
        self.post_init()

    def features(self, *maps: Tensor) -> Tensor:
        projected = [project(x) for project, x in zip(self.projections, maps, strict=True)]
        if self.config.fusion == "pyramid":
            return self.fusion(concatenate(projected, self.config.align_corners))
        return self.fusion(projected)


register_head(DAFormerHeadConfig, DAFormerHead)
