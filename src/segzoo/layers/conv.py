"""Convolution, norm and activation in one block."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.compat import is_followed
from segzoo.layers.norm import BatchNorm2d, ChannelNorm, GroupNorm
from segzoo.layers.phases import depthwise_conv_of_phases
from segzoo.layers.pointwise import TWO_LIBRARIES, is_plain
from segzoo.layers.winograd import (
    TrainedWinograd,
    winograd_conv,
    winograd_rows_conv,
    winograd_rows_share,
    winograd_share,
)

NORMS = {"batch_norm": BatchNorm2d, "group_norm": GroupNorm, "layer_norm": ChannelNorm}
# In place where the gradient follows from the result: what comes before them in a block is nobody else's.
ACTIVATIONS = {
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}
_IN_PLACE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU)

# Up to what share of the usual time, as estimated, a convolution takes Winograd's way: less gain is not worth it.
_WINOGRAD_SHARE = 0.8

# Whether the processor multiplies bfloat16 in its vector units, and has none for matrices: with those the products take
# less time than what comes before and after them.
_VECTORS_OF_BFLOAT16 = (
    TWO_LIBRARIES and torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
)

# Of fewer channels oneDNN (to 3.12 at least) writes the gradient of a strided 1x1 convolution beyond its memory: on
# AVX-512, in channels-last.
_ONEDNN_BLOCK = 16

# From this dilation oneDNN's depthwise convolutions of channels-last maps are several times slower than undilated ones.
_PHASES_DILATION = 9


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` that is faster on CPUs, with the same numbers up to rounding.

    A wide 3x3 convolution of a large map runs as `winograd_conv` in float32, in training too. In inference alone it runs
    in bfloat16, undilated, as `winograd_rows_conv`; a 1x1 convolution in float32 in oneDNN also with one thread, where
    PyTorch would call another library; a depthwise one that is dilated far as an undilated one of every phase.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution with some of the input's channels.

        Args:
            x: (B, C, H, W).
            weight: (out_channels, C, ...), all of the layer's weight or that of the channels.
        """
        if self.padding_mode != "zeros":
            return self._conv_forward(x, weight, self.bias)
        stride, dilation = self.stride, self.dilation
        if torch.is_grad_enabled() and self._gradient_overruns(x, weight):
            x, stride = x[..., :: stride[0], :: stride[1]], (1, 1)
        if not (TWO_LIBRARIES and x.device.type == "cpu" and is_plain(self.weight)) or is_followed():
            return F.conv2d(x, weight, self.bias, stride, self.padding, dilation, self.groups)
        if self._is_same_size and self.groups == 1 and _winograd_is_faster(x, weight, dilation[0]):
            conv = TrainedWinograd.apply if torch.is_grad_enabled() else winograd_conv
            return conv(x, weight, self.bias, dilation[0])
        if not torch.is_grad_enabled():
            if self._is_same_size and self.groups == dilation[0] == 1 and _rows_are_faster(x, weight):
                with torch.autocast("cpu", enabled=False):
                    return winograd_rows_conv(x.to(torch.bfloat16), weight, self.bias)
            if self.kernel_size == (1, 1) and self.padding == (0, 0) and x.dtype == torch.float32:
                dilation = (2, 2)  # changes nothing but PyTorch's choice of the library
            elif self._is_same_size and self.groups == self.in_channels > 1 and dilation[0] >= _PHASES_DILATION:
                return depthwise_conv_of_phases(x, weight, self.bias, dilation[0])
        return F.conv2d(x, weight, self.bias, stride, self.padding, dilation, self.groups)

    def _gradient_overruns(self, x: Tensor, weight: Tensor) -> bool:
        """Whether oneDNN might write the gradient of the input beyond its memory."""
        strided_pointwise = self.kernel_size == (1, 1) and self.padding == (0, 0) and self.stride != (1, 1)
        few = self.groups == 1 and weight.shape[1] < _ONEDNN_BLOCK
        return strided_pointwise and few and x.device.type == "cpu"

    @property
    def _is_same_size(self) -> bool:
        """Whether this is a 3x3 convolution with one dilation, whose result is as large as its input."""
        square = self.kernel_size == (3, 3) and self.stride == (1, 1) and self.dilation[0] == self.dilation[1]
        return square and self.padding == self.dilation


def _winograd_is_faster(x: Tensor, weight: Tensor, dilation: int) -> bool:
    if torch.is_autocast_enabled("cpu") or not x.dtype == weight.dtype == torch.float32:
        return False
    return winograd_share(x.shape, weight.shape, dilation) < _WINOGRAD_SHARE


def _rows_are_faster(x: Tensor, weight: Tensor) -> bool:
    if torch.is_autocast_enabled("cpu"):
        if torch.get_autocast_dtype("cpu") != torch.bfloat16 or torch.float64 in (x.dtype, weight.dtype):
            return False
    elif not x.dtype == weight.dtype == torch.bfloat16:
        return False
    return _VECTORS_OF_BFLOAT16 and winograd_rows_share(x.shape, weight.shape) < _WINOGRAD_SHARE


def build_norm(norm: str | None, channels: int, *, eps: float, momentum: float, groups: int = 32) -> nn.Module:
    """The norm of a block; ``momentum`` is of batch norms, ``groups`` of group norms.

    Args:
        norm: a key of ``NORMS``, or None for no norm.
        channels: of the map.
        eps: epsilon of the norm.
        momentum: share of the new batch in the running statistics.
        groups: number of groups.
    """
    if norm is None:
        return nn.Identity()
    if norm == "group_norm":
        return GroupNorm(channels, eps=eps, groups=groups)
    layer = NORMS[norm](channels, eps=eps)
    if isinstance(layer, BatchNorm2d):
        layer.momentum = momentum
    return layer


class ConvNormAct(nn.Module):
    """``activation(norm(conv(x)))``, the block that most segmentation heads are made of.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in ``nn.Conv2d``.
        bias: whether the convolution has a bias; None gives it one only when no norm follows.
        norm: a key of ``NORMS``, or None for no norm.
        norm_eps: epsilon of the norm.
        norm_momentum: share of the new batch in the running statistics of a batch norm.
        norm_groups: number of groups of a group norm.
        activation: a key of ``ACTIVATIONS``, or None for no activation.
    """

    conv_class: ClassVar[type[Conv2d]] = Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm: str | None = "batch_norm",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        norm_groups: int = 32,
        activation: str | None = "relu",
    ):
        super().__init__()
        self.conv = self.conv_class(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=norm is None if bias is None else bias,
        )
        self.norm = build_norm(norm, out_channels, eps=norm_eps, momentum=norm_momentum, groups=norm_groups)
        self.activation = nn.Identity() if activation is None else ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class NormActConv(nn.Module):
    """``conv(activation(norm(x)))``, the block of networks that activate before they convolve.

    Args:
        in_channels, out_channels, kernel_size, padding, groups: as in ``nn.Conv2d``; it has a bias only without a norm.
        norm, norm_eps, norm_momentum, activation: as in `ConvNormAct`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        padding: int = 0,
        groups: int = 1,
        norm: str | None = "batch_norm",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        activation: str | None = "relu",
    ):
        super().__init__()
        self.norm = build_norm(norm, in_channels, eps=norm_eps, momentum=norm_momentum)
        # Without a norm the input is somebody else's, and must not be activated in place.
        layer = nn.Identity() if activation is None else ACTIVATIONS[activation]()
        if norm is None and isinstance(layer, _IN_PLACE):
            layer.inplace = False
        self.activation = layer
        self.conv = Conv2d(in_channels, out_channels, kernel_size, padding=padding, groups=groups, bias=norm is None)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.activation(self.norm(x)))


class SeparableConv(nn.Module):
    """A depthwise convolution and a pointwise (1x1) one, each a `ConvNormAct`.

    From "Xception: Deep Learning with Depthwise Separable Convolutions" (Chollet, 2017),
    https://arxiv.org/abs/1610.02357.

    Args:
        in_channels, out_channels, kernel_size: as in ``nn.Conv2d``.
        padding, dilation: of the depthwise convolution.
        depthwise: further options of the depthwise convolution alone, such as its stride or another activation.
        options: norm and activation of both, as in `ConvNormAct`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        padding: int,
        dilation: int = 1,
        depthwise: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        spread = {"padding": padding, "dilation": dilation, "groups": in_channels}
        self.depthwise = ConvNormAct(
            in_channels, in_channels, kernel_size, **spread, **options | dict(depthwise or {})
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))
