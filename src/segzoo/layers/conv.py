"""Convolution, norm and activation in one block."""

from typing import Any, ClassVar

from torch import Tensor, nn

from segzoo.layers.norm import BatchNorm2d, GroupNorm

NORMS = {"batch_norm": BatchNorm2d, "group_norm": GroupNorm}
ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}


class ConvNormAct(nn.Module):
    """``activation(norm(conv(x)))``, the block that most segmentation heads are made of.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in ``nn.Conv2d``.
        bias: whether the convolution has a bias; None gives it one only when no norm follows.
        norm: a key of ``NORMS``, or None for no norm.
        norm_eps: epsilon of the norm.
        activation: a key of ``ACTIVATIONS``, or None for no activation.
    """

    conv_class: ClassVar[type[nn.Conv2d]] = nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm: str | None = "batch_norm",
        norm_eps: float = 1e-5,
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
        self.norm = nn.Identity() if norm is None else NORMS[norm](out_channels, eps=norm_eps)
        self.activation = nn.Identity() if activation is None else ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class SeparableConv(nn.Module):
    """A depthwise convolution and a pointwise (1x1) one, each a `ConvNormAct`.

    From "Xception: Deep Learning with Depthwise Separable Convolutions" (Chollet, 2017),
    https://arxiv.org/abs/1610.02357.

    Args:
        in_channels, out_channels, kernel_size: as in ``nn.Conv2d``.
        padding, dilation: of the depthwise convolution.
        options: norm and activation of both, as in `ConvNormAct`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, padding: int, dilation: int = 1, **options: Any
    ) -> None:
        super().__init__()
        spread = {"padding": padding, "dilation": dilation, "groups": in_channels}
        self.depthwise = ConvNormAct(in_channels, in_channels, kernel_size, **spread, **options)
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))
