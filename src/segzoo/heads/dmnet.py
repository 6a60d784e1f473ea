"""DMNet's head: depthwise convolutions whose filters follow from the picture, at several scales.

From "Dynamic Multi-Scale Filters for Semantic Segmentation" (He et al., ICCV 2019), as mmsegmentation's ``DMHead``
trains it.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.compat import is_exporting
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers import pool_to_grid
from segzoo.layers.conv import build_norm
from segzoo.layers.initial import reset_as_torch


@strict
class DMHeadConfig(OneMapHeadConfig):
    """Options of ``DMHead``, besides those of ``OneMapHeadConfig``.

    Args:
        filter_sizes: sides of the filters, in pixels; an even one reaches a pixel further up and to the left.
        fusion: whether each scale's result passes one more convolution.
    """

    model_type = "segzoo_dm_head"

    channels: int = 512
    filter_sizes: Ints = (1, 3, 5, 7)
    fusion: bool = False

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, filter_sizes=[1, 2, 3], num_labels=5)


class DynamicConv(nn.Module):
    """A depthwise convolution with filters of each picture's own: its map, pooled to the filters' size and projected.

    Args:
        config: whose ``channels``, ``fusion``, norm and activation the layer has.
        size: side of the filters, in pixels.
    """

    def __init__(self, config: DMHeadConfig, size: int) -> None:
        super().__init__()
        channels, width = sum(config.in_channels), config.channels
        self.size = size
        self.filter_conv = nn.Conv2d(channels, width, kernel_size=1)
        self.reduction = config.block(channels, width, 1)
        self.norm = build_norm(config.norm, width, eps=config.norm_eps, momentum=config.norm_momentum)
        self.activation = config.make_activation()
        self.fusion = config.block(width, width, 1) if config.fusion else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H, W)."""
        filters = self.filter_conv(pool_to_grid(x, self.size))
        x = filter_maps(self.reduction(x), filters)
        return self.fusion(self.activation(self.norm(x)))


def filter_maps(x: Tensor, filters: Tensor) -> Tensor:
    """Correlate each map with its own filter, surrounded by zeros.

    Args:
        x: (B, C, H, W).
        filters: (B, C, K, K); with an even K the pixel is the one right below the filter's centre.

    Returns:
        (B, C, H, W).
    """
    (batch, channels, height, width), size = x.shape, filters.shape[-1]
    before, after = size // 2, (size - 1) // 2
    x = F.pad(x, (before, after, before, after))
    if not is_exporting():
        groups = batch * channels
        x = F.conv2d(x.reshape(1, groups, *x.shape[2:]), filters.reshape(groups, 1, size, size), groups=groups)
        return x.view(batch, channels, height, width)
    # A file's convolutions have a fixed number of groups, and the batch may be of any size: tap by tap.
    taps = [(i, j) for i in range(size) for j in range(size)]
    return sum(x[:, :, i : i + height, j : j + width] * filters[:, :, i, j, None, None] for i, j in taps)


class DMHead(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution."""

    config: DMHeadConfig

    def __init__(self, config: DMHeadConfig):
        super().__init__(config)
        self.contexts = nn.ModuleList(DynamicConv(config, size) for size in config.filter_sizes)
        joined = sum(config.in_channels) + len(self.contexts) * config.channels
        self.context_conv = config.block(joined, config.channels, 3, padding=1)
        self.post_init()

    def features(self, x: Tensor) -> Tensor:
        return self.context_conv(torch.cat([x, *(context(x) for context in self.contexts)], dim=1))

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DynamicConv):  # which comes after its layers
            reset_as_torch(module.filter_conv)


register_head(DMHeadConfig, DMHead)
