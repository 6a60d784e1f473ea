"""DeepLabV3+'s head: DeepLabV3's pyramid of separable convolutions, refined with a fine map.

From "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation" (Chen et al., 2018),
https://arxiv.org/abs/1802.02611, as mmsegmentation's ``DepthwiseSeparableASPPHead`` trains it.
"""

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig
from segzoo.layers import AtrousPyramid, SeparableConv, resize


@strict
class SeparableASPPHeadConfig(HeadConfig):
    """Options of ``SeparableASPPHead``, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the map for the pyramid, by default the last one, and of the fine map, by default the
            first one; a single position leaves the fine map out.
        fine_channels: channels to which the fine map is projected.
        dilations: of the pyramid's 3x3 convolutions, made for maps of stride 8; 1 stands for a 1x1 convolution.
            (1, 6, 12, 18) is usual for stride 16.

    Raises:
        SegZooError: the head would read more than two maps, or ``fine_channels`` is not positive.
    """

    model_type = "segzoo_separable_aspp_head"
    pools_to_points: ClassVar[bool] = True

    in_index: Ints | None = (-1, 0)
    channels: int = 512
    fine_channels: int = 48
    dilations: Ints = (1, 12, 24, 36)

    def check(self) -> None:
        """The head reads one map or two, and ``fine_channels`` is positive."""
        super().check()
        maps = self.in_channels or self.in_index
        if maps is None or len(maps) > 2:
            raise SegZooError(
                f"{type(self).__name__} reads one map for the pyramid and one fine map, but in_index={self.in_index} "
                f"and in_channels={self.in_channels}; name two maps, the pyramid's first, or one"
            )
        if self.fine_channels < 1:
            raise SegZooError(
                f"{type(self).__name__}: fine_channels={self.fine_channels} must be positive; to leave the fine map "
                "out, name one map in in_index"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[32, 8], in_index=[2, 0], channels=16, fine_channels=32, dilations=[1, 2, 5], num_labels=5
        )


class SeparableASPPHead(Head):
    """Reads a coarse and a fine map, and returns logits at the resolution of the fine one."""

    config: SeparableASPPHeadConfig

    def __init__(self, config: SeparableASPPHeadConfig):
        super().__init__(config)
        coarse, *fine = config.in_channels
        width, options = config.channels, config.block_options
        self.pyramid = AtrousPyramid(
            coarse, width, config.dilations, separable=True, align_corners=config.align_corners, **options
        )
        self.fine_conv = config.block(fine[0], config.fine_channels, 1) if fine else None
        joined = width + (config.fine_channels if fine else 0)
        self.refinement = nn.Sequential(
            SeparableConv(joined, width, 3, padding=1, **options), SeparableConv(width, width, 3, padding=1, **options)
        )
        self.post_init()

    def features(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        x = self.pyramid(coarse)
        if fine is not None:
            fine = self.fine_conv(fine)
            x = resize(x, fine.shape[-2:], align_corners=self.config.align_corners)
            x = torch.cat([x, fine], dim=1)
        return self.refinement(x)


register_head(SeparableASPPHeadConfig, SeparableASPPHead)
