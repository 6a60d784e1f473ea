"""DeepLabV2's head: the sum of convolutions of several dilations, from a map to the classes.

From "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs"
(Chen et al., 2016), https://arxiv.org/abs/1606.00915, as the ``DLV2Head`` of https://github.com/lhoyer/DAFormer trains
it, without dropout.
"""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn
from transformers import initialization as init

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers.conv import Conv2d


@strict
class DeepLabV2HeadConfig(OneMapHeadConfig):
    """Options of ``DeepLabV2Head``, besides those of ``OneMapHeadConfig``, of which it has no use for ``channels``,
    the norm and the activation.

    Args:
        dilations: of the 3x3 convolutions; 1 stands for a 1x1 convolution.

    Raises:
        SegZooError: there is no dilation.
    """

    model_type = "segzoo_deeplabv2_head"

    dropout: float = 0.0
    dilations: Ints = (6, 12, 18, 24)

    def check(self) -> None:
        """There is a convolution."""
        super().check()
        if not self.dilations:
            raise SegZooError("DeepLabV2HeadConfig: dilations is empty; name one for each convolution")

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[16], in_index=[1], dilations=[1, 2, 3], num_labels=5)


class SumOfConvs(nn.Module):
    """The sum of convolutions with several dilations, whose results have the map's size.

    Args:
        in_channels, out_channels: as in ``nn.Conv2d``.
        dilations: of the 3x3 convolutions; 1 stands for a 1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            Conv2d(in_channels, out_channels, 1)
            if dilation == 1
            else Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
            for dilation in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.branches
        total = first(x)
        for branch in others:
            total = total + branch(x)
        return total


class DeepLabV2Head(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution."""

    config: DeepLabV2HeadConfig

    def __init__(self, config: DeepLabV2HeadConfig):
        super().__init__(config)
        self.post_init()

    def build_classifier(self, config: DeepLabV2HeadConfig) -> nn.Module:
        """The whole head depends on the number of classes."""
        return SumOfConvs(sum(config.in_channels), config.num_outputs, config.dilations)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SumOfConvs):
            for branch in module.branches:
                init.normal_(branch.weight, std=0.01)
                init.zeros_(branch.bias)
        elif module is not self.classifier:
            super()._init_weights(module)

    def features(self, x: Tensor) -> Tensor:
        return x


register_head(DeepLabV2HeadConfig, DeepLabV2Head)
