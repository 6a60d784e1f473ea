"""SETR's head of multi-level aggregation (MLA): maps of one size, each convolved twice and enlarged, side by side.

From "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers" (Zheng et al., 2021),
https://arxiv.org/abs/2012.15840, as mmsegmentation's ``SETRMLAHead`` trains it. It reads the maps of ``MLANeck``.
"""

from typing import Self

from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig
from segzoo.layers import concatenate, enlarge


@strict
class SETRMLAHeadConfig(HeadConfig):
    """Options of ``SETRMLAHead``, besides those of ``HeadConfig``.

    Args:
        channels: width of the concatenated maps, of which each has an equal part.
        up_scale: factor on both sides of every map.

    Raises:
        SegZooError: ``channels`` does not divide into the maps.
    """

    model_type = "segzoo_setr_mla_head"

    channels: int = 512
    up_scale: int = 4

    def check(self) -> None:
        """``channels`` is a multiple of the number of maps."""
        super().check()
        if self.in_channels and self.channels % len(self.in_channels):
            raise SegZooError(
                f"SETRMLAHeadConfig: channels={self.channels} does not divide into {len(self.in_channels)} maps; give "
                "a multiple"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[16, 24], channels=16, up_scale=2, num_labels=5)


class SETRMLAHead(Head):
    """Reads several maps of one size, and returns logits ``up_scale`` times as large."""

    config: SETRMLAHeadConfig

    def __init__(self, config: SETRMLAHeadConfig):
        super().__init__(config)
        width = config.channels // len(config.in_channels)
        self.convs = nn.ModuleList(
            nn.Sequential(
                config.block(channels, width, 3, padding=1),
                config.block(width, width, 3, padding=1),
            )
            for channels in config.in_channels
        )
        self.post_init()

    def features(self, *maps: Tensor) -> Tensor:
        config = self.config
        return concatenate(
            [
                enlarge(convs(x), config.up_scale, align_corners=config.align_corners)
                for convs, x in zip(self.convs, maps, strict=True)
            ],
            align_corners=config.align_corners,
        )


register_head(SETRMLAHeadConfig, SETRMLAHead)
