"""APCNet's head: every pixel weighs the cells of pooled grids by itself, at several scales.

From "Adaptive Pyramid Context Network for Semantic Segmentation" (He et al., CVPR 2019), as mmsegmentation's
``APCHead`` trains it.
"""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers import ConvNormAct, pool_to_grid
from segzoo.layers.initial import reset_as_torch


@strict
class APCHeadConfig(OneMapHeadConfig):
    """Options of ``APCHead``, besides those of ``OneMapHeadConfig``.

    Args:
        pool_scales: sides of the pooled grids, in cells.
        fusion: whether each scale's result passes one more convolution.
    """

    model_type = "segzoo_apc_head"
    pools_to_points: ClassVar[bool] = True

    channels: int = 512
    pool_scales: Ints = (1, 2, 3, 6)
    fusion: bool = True

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, pool_scales=[1, 2, 3], num_labels=5)


class AdaptiveContext(nn.Module):
    """The context of one scale: sums over a pooled grid's cells, with weights that pixels choose.

    A pixel's weights follow from itself and the mean of the map, through a sigmoid: they do not sum to 1.

    Args:
        in_channels: channels of the map.
        channels: channels of the result.
        scale: side of the grid, in cells.
        fusion: whether the result passes one more convolution.
        options: norm and activation of all convolutions, as in `ConvNormAct`.
    """

    def __init__(self, in_channels: int, channels: int, scale: int, *, fusion: bool, **options: Any) -> None:
        super().__init__()
        self.scale = scale
        self.reduction = ConvNormAct(in_channels, channels, 1, **options)
        self.cell_conv = ConvNormAct(in_channels, channels, 1, **options)
        self.global_conv = ConvNormAct(channels, channels, 1, **options)
        self.affinity = nn.Conv2d(channels, scale**2, kernel_size=1)
        self.residual_conv = ConvNormAct(channels, channels, 1, **options)
        self.fusion = ConvNormAct(channels, channels, 1, **options) if fusion else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H, W)."""
        cells = self.cell_conv(pool_to_grid(x, self.scale)).flatten(2)
        x = self.reduction(x)
        weights = self.affinity(x + self.global_conv(pool_to_grid(x, 1))).sigmoid()
        context = (cells @ weights.flatten(2)).view_as(x)
        return self.fusion(F.relu(self.residual_conv(context) + x))


class APCHead(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution."""

    config: APCHeadConfig

    def __init__(self, config: APCHeadConfig):
        super().__init__(config)
        channels, width, options = sum(config.in_channels), config.channels, config.block_options
        self.contexts = nn.ModuleList(
            AdaptiveContext(channels, width, scale, fusion=config.fusion, **options) for scale in config.pool_scales
        )
        self.context_conv = config.block(channels + len(self.contexts) * width, width, 3, padding=1)
        self.post_init()

    def features(self, x: Tensor) -> Tensor:
        return self.context_conv(torch.cat([x, *(context(x) for context in self.contexts)], dim=1))

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AdaptiveContext):  # which comes after its layers
            reset_as_torch(module.affinity)


register_head(APCHeadConfig, APCHead)
