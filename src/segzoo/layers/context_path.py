"""The context path of bilateral networks, and the fusion of its map with one of details.

From "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation" (Yu et al., 2018),
https://arxiv.org/abs/1808.00897, in the form of mmsegmentation's ``BiSeNetV1`` and ``STDCContextPathNet``
(https://github.com/open-mmlab/mmsegmentation). All norms are batch norms.
"""

import torch
from torch import Tensor, nn

from segzoo.layers.conv import ConvNormAct
from segzoo.layers.resize import resize


def mean_of_map(x: Tensor) -> Tensor:
    """The mean (B, C, 1, 1) over the pixels of a map (B, C, H, W)."""
    return x.mean((2, 3), keepdim=True)


class AttentionRefinement(nn.Module):
    """A 3x3 convolution whose channels are weighted by a sigmoid of their means over the map."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv = ConvNormAct(in_channels, channels, 3, padding=1)
        self.attention = ConvNormAct(channels, channels, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.attention(mean_of_map(x)).sigmoid()


class ContextPath(nn.Module):
    """Refines the two coarsest maps of an encoder, and adds what is coarser to each before it grows.

    Args:
        middle_channels, coarse_channels: channels of the last map but one and of the last map.
        channels: width of the path.
        upsampling: how maps grow: "nearest", "bilinear" or "bicubic".
        align_corners: whether bilinear and bicubic upsampling align the centres of the corner pixels.
    """

    def __init__(
        self,
        middle_channels: int,
        coarse_channels: int,
        channels: int,
        *,
        upsampling: str = "nearest",
        align_corners: bool = False,
    ):
        super().__init__()
        self.upsampling, self.align_corners = upsampling, align_corners
        self.pooled = ConvNormAct(coarse_channels, channels, 1)
        self.refinements = nn.ModuleList(AttentionRefinement(n, channels) for n in (coarse_channels, middle_channels))
        self.convs = nn.ModuleList(ConvNormAct(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Three maps of an encoder, of which only the size of the first counts -> maps of the fine and middle size."""
        context = self.pooled(mean_of_map(coarse))
        grown = []
        for i, (x, finer) in enumerate(((coarse, middle), (middle, fine))):
            context = self.refinements[i](x) + context
            context = resize(context, finer.shape[-2:], mode=self.upsampling, align_corners=self.align_corners)
            context = self.convs[i](context)
            grown.append(context)
        return grown[1], grown[0]


class FeatureFusion(nn.Module):
    """Joins two maps of one size, and adds the joint map once more, weighted by a sigmoid for each channel.

    Args:
        in_channels: channels of both maps together.
        channels: channels of the joint map.
        attention: makes the weights, before the sigmoid, from the joint map's means (B, channels, 1, 1).
    """

    def __init__(self, in_channels: int, channels: int, attention: nn.Module):
        super().__init__()
        self.conv = ConvNormAct(in_channels, channels, 1)
        self.attention = attention

    def forward(self, details: Tensor, context: Tensor) -> Tensor:
        x = self.conv(torch.cat([details, context], dim=1))
        return x + x * self.attention(mean_of_map(x)).sigmoid()
