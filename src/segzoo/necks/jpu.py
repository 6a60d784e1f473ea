"""Joint pyramid upsampling: a wide map at the finest map's resolution, from the maps of a backbone that is not dilated.

"FastFCN: Rethinking Dilated Convolution in the Backbone for Semantic Segmentation" (Wu et al., 2019),
https://arxiv.org/abs/1903.11816, as mmsegmentation's ``JPU`` (https://github.com/open-mmlab/mmsegmentation).
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from segzoo.auto import register_neck
from segzoo.base import ConvBlockConfig, Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import SeparableConv, concatenate
from segzoo.necks.base import MapRangeNeckConfig, Neck


@strict
class JPUNeckConfig(ConvBlockConfig, MapRangeNeckConfig):
    """Options of ``JPUNeck``, besides those of its conv blocks.

    Args:
        in_channels, first_map, end_map: as in ``MapRangeNeckConfig``.
        channels: width to which each map is projected, and of each dilated convolution.
        dilations: of the separable convolutions that read all projected maps, side by side.
        align_corners: whether resizing the coarser maps aligns the centres of the corner pixels.

    Raises:
        SegZooError: ``first_map`` and ``end_map`` name no map, or there are no dilations.
    """

    model_type = "segzoo_jpu_neck"

    channels: int = 512
    dilations: Ints = (1, 2, 4, 8)
    align_corners: bool = False

    def check(self) -> None:
        """The maps that are used exist, and there is a dilation."""
        super().check()
        if not self.dilations:
            raise SegZooError("JPUNeckConfig: dilations is empty; give one at least, such as [1, 2, 4, 8]")

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[8, 16, 24], channels=8, dilations=[1, 3])


class JPUNeck(Neck):
    """Returns the maps that are used, untouched, with the fused map in place of the coarsest."""

    config: JPUNeckConfig

    def __init__(self, config: JPUNeckConfig):
        super().__init__(config)
        used, width = config.in_channels[config.used], config.channels
        self.projections = nn.ModuleList(config.block(channels, width, 3, padding=1) for channels in used)
        self.dilated_convs = nn.ModuleList(
            SeparableConv(
                len(used) * width,
                width,
                3,
                padding=dilation,
                dilation=dilation,
                depthwise={"activation": None},
                **config.block_options,
            )
            for dilation in config.dilations
        )
        self.out_channels = [*used[:-1], len(config.dilations) * width]
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, in_channels[i], H_i, W_i) -> those used but the coarsest, and (B, len(dilations) * channels, H, W).

        H and W are those of the first map that is used.

        Raises:
            SegZooError: there are other maps than the config says, or they have other channels.
        """
        self.check_channels(feature_maps)
        used = feature_maps[self.config.used]
        projected = [conv(x) for conv, x in zip(self.projections, used, strict=True)]
        x = concatenate(projected, self.config.align_corners)
        return *used[:-1], torch.cat([conv(x) for conv in self.dilated_convs], dim=1)


register_neck(JPUNeckConfig, JPUNeck)
