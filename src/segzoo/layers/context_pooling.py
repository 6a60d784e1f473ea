"""Pyramid pooling of small maps with large strides, the last layer of networks for street scenes in real time.

From "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes" (Hong et al., 2021),
https://arxiv.org/abs/2101.06085 (a cascade, DAPPM), and "PIDNet: A Real-time Semantic Segmentation Network Inspired by
PID Controllers" (Xu et al., 2022), https://arxiv.org/abs/2206.02066 (in parallel, PAPPM). All norms are batch norms.
"""

import torch
from torch import Tensor, nn

from segzoo.layers.conv import NormActConv
from segzoo.layers.resize import resize

# Side of the windows over which the map is averaged, and their stride; behind them comes the mean of the whole map.
_WINDOWS = ((5, 2), (9, 4), (17, 8))
_SCALES = len(_WINDOWS) + 2


class ContextPooling(nn.Module):
    """The map itself, three averages of it and its mean, fused and added to a projection of it.

    Args:
        in_channels: channels of the map.
        channels: channels of each projection.
        out_channels: channels of the result.
        parallel: the projection of the map itself is added to that of each average, and one grouped convolution fuses
            them; otherwise each average is fused with the result of the one before it.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int, *, parallel: bool):
        super().__init__()
        self.pools = nn.ModuleList(nn.AvgPool2d(side, stride, side // 2) for side, stride in _WINDOWS)
        self.scales = nn.ModuleList(NormActConv(in_channels, channels, 1) for _ in range(_SCALES))
        self.parallel = parallel
        averages = _SCALES - 1
        groups = [averages] if parallel else [1] * averages
        self.fusions = nn.ModuleList(
            NormActConv(count * channels, count * channels, 3, padding=1, groups=count) for count in groups
        )
        self.compression = NormActConv(_SCALES * channels, out_channels, 1)
        self.shortcut = NormActConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        averages = [*(pool(x) for pool in self.pools), x.mean((2, 3), keepdim=True)]
        first, *others = (scale(y) for scale, y in zip(self.scales, (x, *averages), strict=True))
        others = [resize(y, x.shape[-2:]) for y in others]
        found = [first]
        if self.parallel:
            (fusion,) = self.fusions
            found.append(fusion(torch.cat([y + first for y in others], dim=1)))
        else:
            for fusion, y in zip(self.fusions, others, strict=True):
                found.append(fusion(y + found[-1]))
        return self.compression(torch.cat(found, dim=1)) + self.shortcut(x)
