"""DeepLabV3's head: convolutions of several dilations beside the mean of the map, fused.

From "Rethinking Atrous Convolution for Semantic Image Segmentation" (Chen et al., 2017),
https://arxiv.org/abs/1706.05587, as mmsegmentation's ``ASPPHead`` trains it.
"""

from typing import ClassVar, Self

from torch import Tensor

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers import AtrousPyramid


@strict
class ASPPHeadConfig(OneMapHeadConfig):
    """Options of ``ASPPHead``, besides those of ``OneMapHeadConfig``.

    Args:
        dilations: of the 3x3 convolutions beside each other, made for maps of stride 8; 1 stands for a 1x1
            convolution. (1, 6, 12, 18) is usual for stride 16.
    """

    model_type = "segzoo_aspp_head"
    pools_to_points: ClassVar[bool] = True

    channels: int = 512
    dilations: Ints = (1, 12, 24, 36)

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, dilations=[1, 2, 5], num_labels=5)


class ASPPHead(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution."""

    config: ASPPHeadConfig

    def __init__(self, config: ASPPHeadConfig):
        super().__init__(config)
        options = {**config.block_options, "align_corners": config.align_corners}
        self.pyramid = AtrousPyramid(sum(config.in_channels), config.channels, config.dilations, **options)
        self.post_init()

    def features(self, x: Tensor) -> Tensor:
        return self.pyramid(x)


register_head(ASPPHeadConfig, ASPPHead)
