"""PSPNet's head: context from pyramid pooling.

From "Pyramid Scene Parsing Network" (Zhao et al., 2017), https://arxiv.org/abs/1612.01105, as mmsegmentation's ``PSPHead`` trains it.
"""

from collections.abc import Sequence

from huggingface_hub.dataclasses import strict
from torch import Tensor

from segzoo.auto import register_head
from segzoo.base import Ints
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig, HeadOutput
from segzoo.layers import FusionConv, PyramidPooling, concatenate


@strict
class PSPHeadConfig(HeadConfig):
    """Options of ``PSPHead`` beside those of ``HeadConfig``.

    Args:
        pool_scales: sides of the pooled grids, in cells.
        resize_concat: resize all maps to the first one's size and concatenate them, instead of reading one map.
    """

    model_type = "segzoo_psp_head"

    in_index: Ints | None = (-1,)
    channels: int = 512
    pool_scales: Ints = (1, 2, 3, 6)
    resize_concat: bool = False

    def check(self):
        """Refuse more than one input map without ``resize_concat``."""
        super().check()
        if not self.resize_concat and (self.in_index is None or len(self.in_index) != 1):
            raise SegZooError(
                f"PSPHeadConfig reads one feature map, but in_index={self.in_index}; name one, or set resize_concat=True"
            )

    @classmethod
    def tiny(cls):
        return cls(in_channels=[32], in_index=[2], channels=16, pool_scales=[1, 2, 3], num_labels=5)


class PSPHead(Head):
    """Reads one map (or the concatenation of several), returns logits at its resolution."""

    config: PSPHeadConfig

    def __init__(self, config: PSPHeadConfig):
        super().__init__(config)
        in_channels, width = sum(config.in_channels), config.channels
        self.pyramid = PyramidPooling(
            in_channels, width, config.pool_scales, norm_eps=config.norm_eps, align_corners=config.align_corners
        )
        self.context_conv = FusionConv(
            in_channels + len(config.pool_scales) * width,
            width,
            3,
            padding=1,
            norm_eps=config.norm_eps,
            align_corners=config.align_corners,
        )
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> HeadOutput:
        """Logits of feature maps, each (B, C, H, W); ``previous`` (an earlier head's output) is not read."""
        x = concatenate(self.select(feature_maps), align_corners=self.config.align_corners)
        return HeadOutput(logits=self.classify(self.context_conv(self.pyramid(x))))


register_head(PSPHeadConfig, PSPHead)
