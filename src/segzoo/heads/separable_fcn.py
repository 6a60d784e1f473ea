"""FCN head of separable convolutions.

"Fast-SCNN: Fast Semantic Segmentation Network" (Poudel et al., 2019), https://arxiv.org/abs/1902.04502, as
mmsegmentation's ``DepthwiseSeparableFCNHead`` (https://github.com/open-mmlab/mmsegmentation).
"""

from torch import nn

from segzoo.auto import register_head
from segzoo.base import Activation, strict
from segzoo.heads.fcn import FCNHead, FCNHeadConfig
from segzoo.layers import SeparableConv


@strict
class SeparableFCNHeadConfig(FCNHeadConfig):
    """Options of ``SeparableFCNHead``, besides those of ``FCNHeadConfig``.

    Args:
        depthwise_activation: activation between the depthwise and the pointwise part of the convolutions.
    """

    model_type = "segzoo_separable_fcn_head"

    depthwise_activation: Activation | None = None


class SeparableFCNHead(FCNHead):
    """As `FCNHead`, with separable convolutions."""

    config: SeparableFCNHeadConfig

    @staticmethod
    def conv(config: SeparableFCNHeadConfig, in_channels: int, *, dilation: int = 1) -> nn.Module:
        depthwise = {"activation": config.depthwise_activation}
        kernel, options = config.kernel_size, config.block_options
        return SeparableConv(
            in_channels,
            config.channels,
            kernel,
            padding=kernel // 2 * dilation,
            dilation=dilation,
            depthwise=depthwise,
            **options,
        )


register_head(SeparableFCNHeadConfig, SeparableFCNHead)
