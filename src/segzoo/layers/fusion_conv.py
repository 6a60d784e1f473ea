"""A convolution over maps of several resolutions, without bringing them to one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.compat import is_exporting
from segzoo.layers.conv import ConvNormAct
from segzoo.layers.resize import concatenate


class FusionConv(ConvNormAct):
    """``ConvNormAct`` over the channels of several maps, all but the first resized (bilinear) to the first one's size.

    Each tap of a kernel is a 1x1 convolution, which may as well come before the resize, on a fraction of the pixels;
    resizing and shifting by a tap are then products with narrow matrices along rows and columns. On a CPU that saves
    most of the work (three fifths in UPerNet's last fusion) and gives the same numbers up to rounding. On other
    devices, in exports, and where an adapter or a quantiser has replaced the convolution, maps are resized,
    concatenated and convolved.

    Args:
        in_channels: channels of all maps together.
        out_channels, kernel_size: as in ``nn.Conv2d``.
        align_corners: whether resizing aligns the centres of the corner pixels, as in ``F.interpolate``.
        options: further keyword arguments of `ConvNormAct`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, align_corners: bool = False, **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.align_corners = align_corners

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, H, W) with ``in_channels`` in total -> (B, out_channels, H', W')."""
        if self._short_way(maps):
            x = _conv_of_resized(self.conv, maps, self.align_corners)
        else:
            x = self.conv(concatenate(maps, align_corners=self.align_corners))
        return self.activation(self.norm(x))

    def _short_way(self, maps: Sequence[Tensor]) -> bool:
        if is_exporting() or maps[0].device.type != "cpu" or type(self.conv) is not nn.Conv2d:
            return False
        conv = self.conv
        return conv.stride == (1, 1) and conv.groups == 1 and any(_is_shorter(x, maps[0], conv) for x in maps[1:])


def _is_shorter(x: Tensor, first: Tensor, conv: nn.Conv2d) -> bool:
    """Whether taps before the resize are less work; narrow products count twice, as they run at half the speed."""
    rows, columns = conv.kernel_size
    height, width, full_height, full_width = *x.shape[2:], *first.shape[2:]
    usual = rows * columns * x.shape[1]
    share = height * width / (full_height * full_width)
    return usual * share + 2 * (rows * height + rows * columns * width * height / full_height) < usual


def _conv_of_resized(conv: nn.Conv2d, maps: Sequence[Tensor], align_corners: bool) -> Tensor:
    """``conv`` of the concatenation of ``maps``, each resized to the first one's size."""
    first = maps[0]
    weights = conv.weight.split([x.shape[1] for x in maps], dim=1)
    others = list(zip(maps[1:], weights[1:], strict=True))
    small = [(x, weight) for x, weight in others if _is_shorter(x, first, conv)]
    large = [(first, weights[0]), *(pair for pair in others if not _is_shorter(pair[0], first, conv))]
    x = concatenate([x for x, _ in large], align_corners=align_corners)
    weight = torch.cat([weight for _, weight in large], dim=1)
    total = F.conv2d(x, weight, conv.bias, 1, conv.padding, conv.dilation).permute(0, 2, 3, 1)
    batch, height, width, channels = total.shape
    total = total.reshape(batch, height, width * channels)
    (rows, columns), (down, right), (above, left) = conv.kernel_size, conv.dilation, conv.padding
    for x, weight in small:
        # All taps of a pixel beside each other, (B, h, w, columns of the kernel, rows of the kernel, C).
        taps = F.conv2d(x, weight.permute(3, 2, 0, 1).reshape(-1, x.shape[1], 1, 1)).permute(0, 2, 3, 1)
        h, w = x.shape[2:]
        across = _shifted_resize(w, first.shape[3], columns, right, left, align_corners, taps.dtype)
        along = _shifted_resize(h, first.shape[2], rows, down, above, align_corners, taps.dtype).transpose(1, 2)
        taps = across.reshape(width, -1) @ taps.reshape(batch, h, w * columns, rows * channels)  # (B, h, W', rows * C)
        taps = taps.view(batch, h, width, rows, channels).permute(0, 3, 1, 2, 4).reshape(batch, rows * h, -1)
        total = torch.baddbmm(total, along.reshape(1, height, -1).expand(batch, -1, -1), taps)
    return total.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _shifted_resize(
    length: int, resized: int, taps: int, dilation: int, padding: int, align_corners: bool, dtype: torch.dtype
) -> Tensor:
    """(output positions, length, taps): how much each position of a line counts in each output of a convolution over
    the line resized, for each tap of its kernel.
    """
    line = torch.eye(length, dtype=torch.promote_types(dtype, torch.float32))
    line = F.interpolate(line[None], size=resized, mode="linear", align_corners=align_corners)[0]
    line = F.pad(line, (padding, padding))
    outputs = resized + 2 * padding - dilation * (taps - 1)
    shifted = [line[:, k * dilation : k * dilation + outputs] for k in range(taps)]
    return torch.stack(shifted, dim=-1).transpose(0, 1).to(dtype)
