"""A convolution over maps of several resolutions, without bringing them to one."""

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.compat import is_exporting
from segzoo.layers.conv import Conv2d, ConvNormAct
from segzoo.layers.pointwise import is_plain
from segzoo.layers.resize import concatenate, resize


class ConvOfMaps(Conv2d):
    """``nn.Conv2d`` of one map, or of several that are resized (bilinear) to one size and concatenated.

    Each tap of a kernel is a 1x1 convolution, which may as well come before the resize, on a fraction of the pixels;
    resizing and shifting by a tap are then products with narrow matrices along rows and columns. On a CPU that saves
    most of the work (three fifths in UPerNet's last fusion) and gives the same numbers up to rounding. On other
    devices and in exports maps are resized, concatenated and convolved. A 1x1 convolution comes before the resize
    everywhere.
    """

    def forward(
        self,
        maps: Tensor | Sequence[Tensor],
        size: Sequence[int | torch.SymInt] | None = None,
        align_corners: bool = False,
    ) -> Tensor:
        """One map (B, in_channels, H, W), or several (B, C, H, W) with ``in_channels`` in total, to a map.

        Args:
            maps: the map, or the maps.
            size: (height, width) to which several maps are resized; None is the first map's.
            align_corners: whether resizing aligns the centres of the corner pixels.
        """
        if isinstance(maps, Tensor):
            return super().forward(maps)
        size = maps[0].shape[-2:] if size is None else size
        if self._is_pointwise(maps):
            return self._of_projected(maps, size, align_corners)
        if self._short_way(maps, size):
            return self._of_resized(maps, size, align_corners)
        return super().forward(concatenate(maps, align_corners, size=size))

    def _is_pointwise(self, maps: Sequence[Tensor]) -> bool:
        """Whether this is a 1x1 convolution of maps that differ in size; of an exported graph's, all are taken to."""
        if self.kernel_size != (1, 1) or self.stride != (1, 1) or self.padding != (0, 0) or self.groups != 1:
            return False
        return len(maps) > 1 and is_plain(self.weight) and (is_exporting() or len({x.shape[-2:] for x in maps}) > 1)

    def _of_projected(self, maps: Sequence[Tensor], size: Sequence[int | torch.SymInt], align_corners: bool) -> Tensor:
        weights = self.weight.split([x.shape[1] for x in maps], dim=1)
        return sum_of_projected(maps, weights, self.bias, size, align_corners)

    def _short_way(self, maps: Sequence[Tensor], size: Sequence[int | torch.SymInt]) -> bool:
        if is_exporting() or maps[0].device.type != "cpu" or not is_plain(self.weight):
            return False
        if self.stride != (1, 1) or self.groups != 1:
            return False
        shorter = [self._is_shorter(x, size) for x in maps]
        return any(shorter) and not all(shorter)

    def _is_shorter(self, x: Tensor, size: Sequence[int | torch.SymInt]) -> bool:
        """Whether taps before the resize are less work; narrow products count twice, as they run at half the speed."""
        rows, columns = self.kernel_size
        height, width, full_height, full_width = *x.shape[2:], *size
        usual = rows * columns * x.shape[1]
        share = height * width / (full_height * full_width)
        return usual * share + 2 * (rows * height + rows * columns * width * height / full_height) < usual

    def _of_resized(self, maps: Sequence[Tensor], size: Sequence[int | torch.SymInt], align_corners: bool) -> Tensor:
        """The short way; one of the maps at least is not small."""
        channels = [x.shape[1] for x in maps]
        shorter = [self._is_shorter(x, size) for x in maps]
        small = list(compress(zip(maps, self.weight.split(channels, dim=1), strict=True), shorter))
        large = [not short for short in shorter]
        x = concatenate(list(compress(maps, large)), align_corners, size=size)
        weight = torch.cat(list(compress(self.weight.split(channels, dim=1), large)), dim=1)
        total = self.convolve(x, weight).permute(0, 2, 3, 1)
        batch, height, width, channels = total.shape
        total = total.reshape(batch, height, width * channels)
        (rows, columns), (down, right), (above, left) = self.kernel_size, self.dilation, self.padding
        for x, weight in small:
            # All taps of a pixel beside each other, (B, h, w, columns of the kernel, rows of the kernel, C).
            taps = F.conv2d(x, weight.permute(3, 2, 0, 1).reshape(-1, x.shape[1], 1, 1), dilation=2).permute(
                0, 2, 3, 1
            )
            h, w = x.shape[2:]
            across = _shifted_resize(w, size[1], columns, right, left, align_corners, taps.dtype)
            along = _shifted_resize(h, size[0], rows, down, above, align_corners, taps.dtype).transpose(1, 2)
            # (B, h, W', rows * C)
            taps = across.reshape(width, -1) @ taps.reshape(batch, h, w * columns, rows * channels)
            taps = (
                taps.view(batch, h, width, rows, channels)
                .permute(0, 3, 1, 2, 4)
                .reshape(batch, rows * h, width * channels)
            )
            total = torch.baddbmm(total, along.reshape(1, height, -1).expand(batch, -1, -1), taps)
        return total.view(batch, height, width, channels).permute(0, 3, 1, 2)


def sum_of_projected(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor | None,
    size: Sequence[int | torch.SymInt],
    align_corners: bool,
) -> Tensor:
    """The sum of 1x1 convolutions of several maps, each resized (bilinear) after its convolution.

    Args:
        maps: each (B, C, H, W), with the C of its weight.
        weights: (out_channels, C, 1, 1), one for each map.
        bias: of the sum, (out_channels,), or None.
        size: (height, width) of the result.
        align_corners: whether resizing aligns the centres of the corner pixels.
    """
    total = None
    for x, weight in zip(maps, weights, strict=True):
        x = resize(F.conv2d(x, weight, bias if total is None else None), size, align_corners=align_corners)
        total = x if total is None else total.add_(x)  # nobody else has it, and no gradient needs it
    return total


class FusionConv(ConvNormAct):
    """``ConvNormAct`` over the channels of several maps, resized (bilinear) to one size, by default the first one's.

    Args:
        in_channels: channels of all maps together.
        out_channels, kernel_size: as in ``nn.Conv2d``.
        align_corners: whether resizing aligns the centres of the corner pixels, as in ``F.interpolate``.
        options: further keyword arguments of `ConvNormAct`.
    """

    conv_class = ConvOfMaps

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
        if isinstance(self.conv, ConvOfMaps):
            x = self.conv(maps, size, self.align_corners)
        else:  # an adapter or a quantiser has replaced it
            x = self.conv(concatenate(maps, self.align_corners, size=size))
        return self.activation(self.norm(x))


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
