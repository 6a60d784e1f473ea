"""A convolution over maps of several resolutions, without bringing them to one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers.conv import ConvNormAct
from segzoo.layers.resize import concatenate


class FusionConv(ConvNormAct):
    """``ConvNormAct`` over the channels of several maps, resized (bilinear) to one size, by default the first one's.

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

    def forward(self, maps: Sequence[Tensor], size: Sequence[int | torch.SymInt] | None = None) -> Tensor:
        """Maps (B, C, H, W) with ``in_channels`` in total -> (B, out_channels, H', W').

        Args:
            maps: one map at least.
            size: (height, width) to which the maps are resized; None is the first map's.
        """
        size = maps[0].shape[-2:] if size is None else size
        if self._short_way(maps, size):
            x = _conv_of_resized(self.conv, maps, size, self.align_corners)
        else:
            x = self.conv(concatenate(maps, self.align_corners, size=size))
        return self.activation(self.norm(x))

    def _short_way(self, maps: Sequence[Tensor], size: Sequence[int | torch.SymInt]) -> bool:
        if torch.compiler.is_exporting() or maps[0].device.type != "cpu" or type(self.conv) is not nn.Conv2d:
            return False
        conv = self.conv
        if conv.stride != (1, 1) or conv.groups != 1:
            return False
        shorter = [_is_shorter(x, size, conv) for x in maps]
        return any(shorter) and not all(shorter)


def _is_shorter(x: Tensor, size: Sequence[int | torch.SymInt], conv: nn.Conv2d) -> bool:
    """Whether taps before the resize are less work; narrow products count twice, as they run at half the speed."""
    rows, columns = conv.kernel_size
    height, width, full_height, full_width = *x.shape[2:], *size
    usual = rows * columns * x.shape[1]
    share = height * width / (full_height * full_width)
    return usual * share + 2 * (rows * height + rows * columns * width * height / full_height) < usual


def _conv_of_resized(
    conv: nn.Conv2d, maps: Sequence[Tensor], size: Sequence[int | torch.SymInt], align_corners: bool
) -> Tensor:
    """``conv`` of the concatenation of ``maps``, each resized to ``size``, one of which at least is not small."""
    weights = conv.weight.split([x.shape[1] for x in maps], dim=1)
    pairs = list(zip(maps, weights, strict=True))
    small = [(x, weight) for x, weight in pairs if _is_shorter(x, size, conv)]
    large = [(x, weight) for x, weight in pairs if not _is_shorter(x, size, conv)]
    x = concatenate([x for x, _ in large], align_corners, size=size)
    weight = torch.cat([weight for _, weight in large], dim=1)
    total = F.conv2d(x, weight, conv.bias, 1, conv.padding, conv.dilation).permute(0, 2, 3, 1)
    batch, height, width, channels = total.shape
    total = total.reshape(batch, height, width * channels)
    (rows, columns), (down, right), (above, left) = conv.kernel_size, conv.dilation, conv.padding
    for x, weight in small:
        # All taps of a pixel beside each other, (B, h, w, columns of the kernel, rows of the kernel, C).
        taps = F.conv2d(x, weight.permute(3, 2, 0, 1).reshape(-1, x.shape[1], 1, 1)).permute(0, 2, 3, 1)
        h, w = x.shape[2:]
        across = _shifted_resize(w, size[1], columns, right, left, align_corners, taps.dtype)
        along = _shifted_resize(h, size[0], rows, down, above, align_corners, taps.dtype).transpose(1, 2)
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
