"""PSPNet's head: means of the map over grids of several sizes, fused with the map itself.

From "Pyramid Scene Parsing Network" (Zhao et al., 2017), https://arxiv.org/abs/1612.01105, as mmsegmentation's
``PSPHead`` trains it.
"""

from typing import ClassVar, Self

from torch import Tensor

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers import FusionConv, PyramidPooling


@strict
class PSPHeadConfig(OneMapHeadConfig):
    """Options of ``PSPHead``, besides those of ``OneMapHeadConfig``.

    Args:
        pool_scales: sides of the pooled grids, in cells.
    """

    model_type = "segzoo_psp_head"
    pools_to_points: ClassVar[bool] = True

    channels: int = 512
    pool_scales: Ints = (1, 2, 3, 6)

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, pool_scales=[1, 2, 3], num_labels=5)


class PSPHead(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution."""

    config: PSPHeadConfig

    def __init__(self, config: PSPHeadConfig):
        super().__init__(config)
        channels, width, options = sum(config.in_channels), config.channels, config.block_options
        options["align_corners"] = config.align_corners
        self.pyramid = PyramidPooling(channels, width, config.pool_scales, **options)
        self.context_conv = FusionConv(channels + len(self.pyramid) * width, width, 3, padding=1, **options)
        self.post_init()

    def features(self, x: Tensor) -> Tensor:
        return self.context_conv(self.pyramid(x))


register_head(PSPHeadConfig, PSPHead)
