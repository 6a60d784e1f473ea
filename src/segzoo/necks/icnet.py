"""ICNet's cascade of fusions, from the coarsest of three maps to the finest.

"ICNet for Real-Time Semantic Segmentation on High-Resolution Images" (Zhao et al., 2018),
https://arxiv.org/abs/1704.08545, as mmsegmentation's ``ICNeck`` (https://github.com/open-mmlab/mmsegmentation).
"""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.auto import register_neck
from segzoo.base import ConvBlockConfig, strict
from segzoo.errors import SegZooError
from segzoo.layers import resize
from segzoo.necks.base import Neck, NeckConfig


@strict
class ICNeckConfig(ConvBlockConfig, NeckConfig):
    """Options of ``ICNeck``.

    Args:
        in_channels: channels of the three maps, from fine to coarse.
        channels: channels of the returned maps.
        align_corners: whether resizing a coarser map aligns the centres of the corner pixels.
        activation: of the convolutions; each sum of two maps has a ReLU.

    Raises:
        SegZooError: there are not three maps.
    """

    model_type = "segzoo_ic_neck"

    channels: int = 128
    align_corners: bool = False

    def check(self) -> None:
        """The neck reads three maps."""
        super().check()
        if self.in_channels is not None and len(self.in_channels) != 3:
            raise SegZooError(
                f"ICNeckConfig takes three maps, from fine to coarse, but in_channels={self.in_channels}"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[8, 16, 24], channels=8)


class CascadeFusion(nn.Module):
    """Adds a coarse map to a fine one, both projected.

    Args:
        config: gives the channels of the result, norm and activation.
        coarse, fine: channels of the two maps.
    """

    def __init__(self, config: ICNeckConfig, coarse: int, fine: int):
        super().__init__()
        self.align_corners = config.align_corners
        self.coarse = config.block(coarse, config.channels, 3, padding=2, dilation=2)
        self.fine = config.block(fine, config.channels, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) and (B, D, H, W) -> the sum and its coarse part, for an auxiliary head, (B, channels, H, W)."""
        guided = self.coarse(resize(coarse, fine.shape[-2:], align_corners=self.align_corners))
        return F.relu(guided + self.fine(fine), inplace=True), guided


class ICNeck(Neck):
    """Reads the maps of ICNet; returns the coarse part of both fusions, for auxiliary heads, and the last sum."""

    config: ICNeckConfig

    def __init__(self, config: ICNeckConfig):
        super().__init__(config)
        full, half, quarter = config.in_channels
        self.fusions = nn.ModuleList(
            [CascadeFusion(config, quarter, half), CascadeFusion(config, config.channels, full)]
        )
        self.out_channels = [config.channels] * 3
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Three maps (B, C, H, W), from fine to coarse -> one of the second map's size, and two of the first one's.

        Raises:
            SegZooError: there are not three maps, or they have other channels than the config says.
        """
        self.check_channels(feature_maps)
        full, half, quarter = feature_maps
        x, of_half = self.fusions[0](quarter, half)
        x, of_full = self.fusions[1](x, full)
        return of_half, of_full, x


register_neck(ICNeckConfig, ICNeck)
