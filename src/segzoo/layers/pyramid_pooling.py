"""Pyramid pooling, shared by PSPNet and UPerNet."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers.conv import ConvNormAct
from segzoo.layers.resize import resize


class PyramidPooling(nn.ModuleList):
    """Pools a map to several grids, projects each and resizes them back.

    From "Pyramid Scene Parsing Network" (Zhao et al., 2017), https://arxiv.org/abs/1612.01105.
    """

    def __init__(
        self, in_channels: int, channels: int, pool_scales: Sequence[int], *, norm_eps: float, align_corners: bool
    ):
        super().__init__(ConvNormAct(in_channels, channels, 1, norm_eps=norm_eps) for _ in pool_scales)
        self.pool_scales = tuple(pool_scales)
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + len(pool_scales) * channels, H, W): the map itself and its context."""
        pooled = [conv(F.adaptive_avg_pool2d(x, scale)) for conv, scale in zip(self, self.pool_scales, strict=True)]
        return torch.cat([x, *(resize(p, x.shape[-2:], align_corners=self.align_corners) for p in pooled)], dim=1)
