"""Atrous spatial pyramid pooling, shared by DeepLabV3, DeepLabV3+ and DAFormer."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from segzoo.layers.conv import ConvNormAct, SeparableConv
from segzoo.layers.fusion_conv import FusionConv


class AtrousPyramid(nn.Module):
    """Convolves a map with several dilations, pools it to its mean, and fuses all of that.

    From "Rethinking Atrous Convolution for Semantic Image Segmentation" (Chen et al., 2017),
    https://arxiv.org/abs/1706.05587.

    Args:
        in_channels: channels of the map.
        channels: channels of each branch, and of the result.
        dilations: of the 3x3 convolutions; 1 stands for a 1x1 convolution.
        image_pool: whether the mean of the map is a branch too.
        separable: make the 3x3 branches of `SeparableConv`.
        align_corners: as in `FusionConv`.
        options: norm and activation of all convolutions, as in `ConvNormAct`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dilations: Sequence[int],
        *,
        image_pool: bool = True,
        separable: bool = False,
        align_corners: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.image_pool = ConvNormAct(in_channels, channels, 1, **options) if image_pool else None
        wide = SeparableConv if separable else ConvNormAct
        self.branches = nn.ModuleList(
            ConvNormAct(in_channels, channels, 1, **options)
            if dilation == 1
            else wide(in_channels, channels, 3, padding=dilation, dilation=dilation, **options)
            for dilation in dilations
        )
        self.fusion = FusionConv(
            (image_pool + len(dilations)) * channels, channels, 3, padding=1, align_corners=align_corners, **options
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H, W)."""
        found = [branch(x) for branch in self.branches]
        if self.image_pool is not None:
            found.insert(0, self.image_pool(x.mean((2, 3), keepdim=True)))
        return self.fusion(found, size=x.shape[-2:])
