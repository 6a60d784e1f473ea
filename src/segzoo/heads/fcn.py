"""FCN head: a few convolutions and a classifier.

From "Fully Convolutional Networks for Semantic Segmentation" (Long et al., 2015), https://arxiv.org/abs/1411.4038, in
the form that mmsegmentation (https://github.com/open-mmlab/mmsegmentation, ``FCNHead``) trains, as decode head and as
auxiliary head.
"""

from typing import Self

import torch
from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers import BatchNorm2d


@strict
class FCNHeadConfig(OneMapHeadConfig):
    """Options of ``FCNHead``, besides those of ``OneMapHeadConfig``.

    Args:
        num_convs: number of convolutions before the classifier; 0 leaves the map as it is.
        kernel_size: side of the convolutions' kernels, odd.
        dilation: dilation of the convolutions, except the one after the concatenation.
        concat_input: whether the convolutions' output is concatenated with the input and fused by another convolution.
        with_norm: a batch norm, of PyTorch's epsilon, before the classifier; without convolutions this is the linear
            head that probes frozen features.

    Raises:
        SegZooError: ``num_convs`` or ``kernel_size`` is out of range, or without convolutions ``channels`` is not the
            input's.
    """

    model_type = "segzoo_fcn_head"

    num_convs: int = 2
    kernel_size: int = 3
    dilation: int = 1
    concat_input: bool = True
    with_norm: bool = False

    def check(self) -> None:
        """``kernel_size`` is odd, ``num_convs`` not negative, and if it is 0 ``channels`` is the input's width."""
        super().check()
        if self.num_convs < 0 or self.kernel_size % 2 == 0:
            raise SegZooError(
                f"FCNHeadConfig: num_convs={self.num_convs} must not be negative, kernel_size={self.kernel_size} odd"
            )
        if self.num_convs == 0 and self.in_channels is not None and sum(self.in_channels) != self.channels:
            raise SegZooError(
                f"FCNHeadConfig: without convolutions channels={self.channels} must equal the input's {sum(self.in_channels)}"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, num_labels=5)


class FCNHead(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution."""

    config: FCNHeadConfig

    def __init__(self, config: FCNHeadConfig):
        super().__init__(config)
        in_channels, width = sum(config.in_channels), config.channels
        self.convs = nn.Sequential(
            *(
                self.conv(config, width if i else in_channels, dilation=config.dilation)
                for i in range(config.num_convs)
            )
        )
        self.conv_cat = self.conv(config, in_channels + width) if config.concat_input else None
        self.norm = BatchNorm2d(width, momentum=config.norm_momentum) if config.with_norm else nn.Identity()
        self.post_init()

    @staticmethod
    def conv(config: FCNHeadConfig, in_channels: int, *, dilation: int = 1) -> nn.Module:
        """One of the head's convolutions, from ``in_channels`` to ``config.channels``, which keeps the map's size."""
        padding = config.kernel_size // 2 * dilation
        return config.block(in_channels, config.channels, config.kernel_size, padding=padding, dilation=dilation)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.beside_input(x, self.convs(x)))

    def beside_input(self, x: Tensor, features: Tensor) -> Tensor:
        """Fuse ``features`` with the head's input ``x``, both (B, C, H, W), if ``concat_input`` is set."""
        return features if self.conv_cat is None else self.conv_cat(torch.cat([x, features], dim=1))


register_head(FCNHeadConfig, FCNHead)
