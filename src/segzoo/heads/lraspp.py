"""LR-ASPP: a projection of the last map, weighted by means of large windows, and fused with two finer maps.

From "Searching for MobileNetV3" (Howard et al., 2019), https://arxiv.org/abs/1905.02244, as mmsegmentation's
``LRASPPHead`` (https://github.com/open-mmlab/mmsegmentation) trains it.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig
from segzoo.layers import resize
from segzoo.layers.initial import reset_as_torch


@strict
class LRASPPHeadConfig(HeadConfig):
    """Options of ``LRASPPHead``, besides those of ``HeadConfig``.

    Args:
        branch_channels: channels to which the finer maps, all but the last one that the head reads, are projected.
        pool_size: side of the windows, in pixels of the last map, whose means weight it.
        pool_stride: vertical and horizontal step between windows.

    Raises:
        SegZooError: a number is below 1, or ``branch_channels`` has not one entry for each finer map.
    """

    model_type = "segzoo_lraspp_head"

    channels: int = 128
    branch_channels: Ints = (32, 64)
    pool_size: int = 49
    pool_stride: Ints = (16, 20)

    def check(self) -> None:
        """Counts are positive, and there is a width for each finer map."""
        super().check()
        if len(self.pool_stride) != 2 or not self.branch_channels:
            raise SegZooError(
                f"LRASPPHead: pool_stride={self.pool_stride} must have two numbers, branch_channels={self.branch_channels} one at least"
            )
        if min(self.pool_size, *self.pool_stride, *self.branch_channels) < 1:
            raise SegZooError(
                f"LRASPPHead: pool_size={self.pool_size}, pool_stride={self.pool_stride} and branch_channels={self.branch_channels} "
                "must be 1 at least"
            )
        if self.in_channels is not None and len(self.in_channels) != len(self.branch_channels) + 1:
            raise SegZooError(
                f"LRASPPHead: in_channels={self.in_channels} needs one map more than branch_channels={self.branch_channels}"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[8, 16, 24],
            in_index=[0, 1, 2],
            channels=16,
            branch_channels=[4, 8],
            pool_size=2,
            pool_stride=[1, 2],
            num_labels=5,
        )


class LRASPPHead(Head):
    """Reads several maps, the finest first, and returns logits at the first one's resolution."""

    config: LRASPPHeadConfig

    def __init__(self, config: LRASPPHeadConfig):
        super().__init__(config)
        width, last = config.channels, config.in_channels[-1]
        self.projection = config.block(last, width, 1)
        self.pool_conv = nn.Conv2d(last, width, 1, bias=False)
        self.input_conv = nn.Conv2d(width, width, 1)
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, branch, 1, bias=False)
            for channels, branch in zip(config.in_channels, config.branch_channels, strict=False)
        )
        self.fusions = nn.ModuleList(config.block(width + branch, width, 1) for branch in config.branch_channels)
        self.post_init()

    def features(self, *maps: Tensor) -> Tensor:
        align = self.config.align_corners
        weights = torch.sigmoid(self.pool_conv(self.pool(maps[-1])))
        x = self.projection(maps[-1])
        x = self.input_conv(x * resize(weights, x.shape[-2:], align_corners=align))
        for i in reversed(range(len(self.branches))):
            x = resize(x, maps[i].shape[-2:], align_corners=align)
            x = self.fusions[i](torch.cat([x, self.branches[i](maps[i])], dim=1))
        return x

    def pool(self, x: Tensor) -> Tensor:
        """The means of windows of the last map (B, C, H, W).

        Raises:
            SegZooError: a window is larger than the map.
        """
        side = self.config.pool_size
        if min(x.shape[-2:]) < side:
            raise SegZooError(
                f"LRASPPHead: its windows of {side}x{side} do not fit into the last map, {x.shape[-2]}x{x.shape[-1]}; "
                f"give larger pictures: at stride 8, as MobileNetV3 has it, sides of {8 * (side - 1) + 1} pixels at least"
            )
        return F.avg_pool2d(x, side, self.config.pool_stride)

    def _init_weights(self, module: nn.Module) -> None:
        if module in [self.input_conv, *self.branches]:
            reset_as_torch(module)
        else:
            super()._init_weights(module)


register_head(LRASPPHeadConfig, LRASPPHead)
