"""Pyramid pooling, shared by PSPNet and UPerNet."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.compat import is_exporting
from segzoo.layers.conv import ConvNormAct
from segzoo.layers.resize import resize


class PyramidPooling(nn.ModuleList):
    """Pools a map to several grids and projects each; a `FusionConv` resizes them back.

    From "Pyramid Scene Parsing Network" (Zhao et al., 2017), https://arxiv.org/abs/1612.01105.

    Args:
        in_channels: channels of the map.
        channels: channels of each projection.
        pool_scales: sides of the grids, in cells.
        align_corners: whether ``resize_first`` aligns the centres of the corner cells and pixels.
        resize_first: resize each grid to the map before its projection, whose activation then acts on the interpolated
            values.
        options: norm and activation of the projections, as in `ConvNormAct`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        pool_scales: Sequence[int],
        *,
        align_corners: bool,
        resize_first: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(ConvNormAct(in_channels, channels, 1, **options) for _ in pool_scales)
        self.pool_scales = tuple(pool_scales)
        self.align_corners = align_corners
        self.resize_first = resize_first

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> the map, then one (B, channels, scale, scale) per scale; of H x W with ``resize_first``."""
        contexts = [x]
        for project, scale in zip(self, self.pool_scales, strict=True):
            grid = pool_to_grid(x, scale)
            if self.resize_first:
                grid = resize(grid, x.shape[-2:], align_corners=self.align_corners)
            contexts.append(project(grid))
        return contexts


def pool_to_grid(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side): means over cells, which overlap where ``side`` does not divide H or W.

    This is ``F.adaptive_avg_pool2d``, for which exports with free sizes have no operator: they get two products with
    the cells' shares of rows and columns, which give the same numbers up to rounding.
    """
    if not is_exporting():
        return F.adaptive_avg_pool2d(x, side)
    height, width = x.shape[-2:]
    return _cells(height, side, x) @ x @ _cells(width, side, x).mT


def _cells(length: int, side: int, like: Tensor) -> Tensor:
    """(side, length): the share of each position in each cell, which has all positions that i..i+1 of ``side`` meet."""
    cell = torch.arange(side, device=like.device).unsqueeze(1) * length
    position = torch.arange(length, device=like.device) * side
    inside = ((position + side > cell) & (position < cell + length)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)
