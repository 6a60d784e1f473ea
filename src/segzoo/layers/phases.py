"""Dilated convolutions as undilated ones of the phases of a map."""

from torch import Tensor
from torch.nn import functional as F


def depthwise_conv_of_phases(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=channels)`` of 3x3 kernels.

    A phase is the pixels whose distances are multiples of the dilation. The phases become pictures of a batch, whose
    convolution is the same sums of the same products.

    Args:
        x: map (B, C, H, W), best in the channels-last format.
        weight: (out, 1, 3, 3), ``out`` a multiple of C.
        bias: (out,) or None.
        dilation: of both sides; the padding is equal to it.

    Returns:
        (B, out, H, W) in the channels-last format.
    """
    batch, channels, height, width = x.shape
    down, across = -(-height // dilation), -(-width // dilation)
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, across * dilation - width, 0, down * dilation - height))
    x = x.view(batch, down, dilation, across, dilation, channels).permute(0, 2, 4, 1, 3, 5)
    x = x.reshape(batch * dilation**2, down, across, channels).permute(0, 3, 1, 2)
    y = F.conv2d(x, weight, bias, padding=1, groups=channels).permute(0, 2, 3, 1)
    y = y.reshape(batch, dilation, dilation, down, across, -1).permute(0, 3, 1, 4, 2, 5)
    y = y.reshape(batch, down * dilation, across * dilation, -1)
    return y[:, :height, :width].permute(0, 3, 1, 2)
