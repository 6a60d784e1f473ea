"""3x3 convolutions with fewer products, after Winograd.

"Fast Algorithms for Convolutional Neural Networks" (Lavin & Gray, 2015), https://arxiv.org/abs/1509.09308: F(2x2, 3x3).
Four outputs of a tile take 16 products for each pair of channels, in place of 36. All other factors are 0, 1, -1 and
1/2, so that results are as close to the exact ones as those of the usual way.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

_OF_KERNELS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def winograd_kernels(weight: Tensor) -> Tensor:
    """Kernels (out, in, 3, 3) -> (4, 4, out, in): the factors of a tile's 16 products."""
    factors = torch.tensor(_OF_KERNELS, dtype=weight.dtype, device=weight.device)
    of_products = torch.einsum("ya,xb->yxab", factors, factors).view(16, 9)
    return (of_products @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(4, 4, *weight.shape[:2])


def winograd_share(height: int, width: int, dilation: int) -> float:
    """Number of products of `winograd_conv` in relation to the usual: 9 per pixel, but for rows of a kernel that lie in
    the padding, which oneDNN skips. More than 1 where a dilation splits the map into tiles that are mostly padding.
    """
    rows = 3 * height - 2 * min(dilation, height)
    return 16 * _tiles(height, dilation) * _tiles(width, dilation) * dilation**2 / (3 * width * rows)


def winograd_conv(x: Tensor, kernels: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)``, up to rounding.

    A dilated convolution is an undilated one of every phase, the pixels whose distances are multiples of the dilation.

    Args:
        x: map (B, in, H, W), best in the channels-last format.
        kernels: of `winograd_kernels`, (4, 4, out, in).
        bias: (out,) or None.
        dilation: of both sides; the padding is equal to it.

    Returns:
        (B, out, H, W) in the channels-last format.
    """
    batch, channels, height, width = x.shape
    down, across, out = _tiles(height, dilation), _tiles(width, dilation), kernels.shape[2]
    # Padded to whole tiles, of which each overlaps the next one by two pixels of each phase.
    full_height, full_width = 2 * (down + 1) * dilation, 2 * (across + 1) * dilation
    borders = (0, 0, dilation, full_width - width - dilation, dilation, full_height - height - dilation)
    x = F.pad(x.permute(0, 2, 3, 1), borders).view(batch, down + 1, 2, dilation * full_width * channels)
    result = x.new_empty(batch, down, 2, dilation, across, 2, dilation, out)
    for i, row in enumerate(_of_tiles(x[:, :-1], x[:, 1:])):
        row = row.view(batch, down * dilation, across + 1, 2, dilation * channels)
        products = []
        for part, kernel in zip(_of_tiles(row[:, :, :-1], row[:, :, 1:]), kernels[i], strict=True):
            part = part.reshape(batch, down * dilation, across * dilation, channels).permute(0, 3, 1, 2)
            # Of a 1x1 convolution a dilation changes nothing; with one, PyTorch calls oneDNN also with one thread.
            part = F.conv2d(part, kernel[:, :, None, None], bias if i == len(products) == 1 else None, dilation=2)
            products.append(part.permute(0, 2, 3, 1).reshape(batch, down, dilation, across, dilation, out))
        # Row 1 counts once in each output, so a bias added to its product of column 1 does too.
        left = (products[0] + products[1]).add_(products[2])
        right = products[1].sub_(products[2]).sub_(products[3])
        for column, value in enumerate((left, right)):
            above, below = result[:, :, 0, :, :, column], result[:, :, 1, :, :, column]
            if i == 0:
                above.copy_(value)
            elif i == 1:
                above.add_(value)
                below.copy_(value)
            elif i == 2:
                above.add_(value)
                below.sub_(value)
            else:
                below.sub_(value)
    result = result.view(batch, 2 * down * dilation, 2 * across * dilation, out)
    return result[:, :height, :width].permute(0, 3, 1, 2)


def _tiles(length: int, dilation: int) -> int:
    """Number of tiles, of two outputs each, of every phase of a line."""
    return -(-length // (2 * dilation))


def _of_tiles(own: Tensor, following: Tensor) -> Iterator[Tensor]:
    """The four combinations of a tile's four pixels along one side: its own two (dimension -2), and the next tile's.

    One after another, since together they are larger than the map.
    """
    first, second = own.unbind(-2)
    third, fourth = following.unbind(-2)
    yield first - third
    yield second + third
    yield third - second
    yield second - fourth
