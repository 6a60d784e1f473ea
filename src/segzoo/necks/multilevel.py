"""Maps of several scales from the maps of a plain ViT, by interpolation between two convolutions.

mmsegmentation's ``MultiLevelNeck`` (https://github.com/open-mmlab/mmsegmentation), behind ViT and DeiT with UPerNet.
"""

from collections.abc import Sequence
from typing import Literal, Self

from torch import Tensor, nn

from segzoo.auto import register_neck
from segzoo.base import Activation, ConvBlockConfig, strict
from segzoo.errors import SegZooError
from segzoo.layers import rescale
from segzoo.necks.base import Neck, NeckConfig


@strict
class MultiLevelNeckConfig(ConvBlockConfig, NeckConfig):
    """Options of ``MultiLevelNeck``.

    Args:
        in_channels: channels of one map, which then feeds all scales, or of a map for each scale.
        channels: channels of every returned map; None for those of the first map.
        scales: factor on the side of each map.
        norm, norm_eps, activation: what follows each convolution; nothing by default.

    Raises:
        SegZooError: a scale or ``channels`` is not above 0, or there are neither one map nor as many as scales.
    """

    model_type = "segzoo_multilevel_neck"

    channels: int | None = None
    scales: list[float] | tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    norm: Literal["batch_norm", "group_norm"] | None = None
    activation: Activation | None = None

    def check(self) -> None:
        """The scales and the channels are above 0, and the neck reads one map or one for each scale."""
        super().check()
        if not self.scales or min(self.scales) <= 0 or (self.channels is not None and self.channels < 1):
            raise SegZooError(
                f"MultiLevelNeckConfig: scales={list(self.scales)} and channels={self.channels} must be above 0"
            )
        if self.in_channels is not None and len(self.in_channels) not in (1, len(self.scales)):
            count = len(self.scales)
            raise SegZooError(
                f"MultiLevelNeckConfig takes one map or {count}, but in_channels={self.in_channels}; "
                f"set the backbone's out_indices to one layer or {count}"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[16, 16, 16, 16], channels=8)


class MultiLevelNeck(Neck):
    """A 1x1 convolution, bilinear resizing by ``config.scales``, and a 3x3 convolution, for each map."""

    config: MultiLevelNeckConfig

    def __init__(self, config: MultiLevelNeckConfig):
        super().__init__(config)
        width = config.channels or config.in_channels[0]
        self.out_channels = [width] * len(config.scales)
        self.laterals = nn.ModuleList(config.block(channels, width, 1) for channels in config.in_channels)
        self.convs = nn.ModuleList(config.block(width, width, 3, padding=1) for _ in config.scales)
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, C, H, W), or one for each scale -> maps of the scales times H x W, rounded down.

        Raises:
            SegZooError: the number of maps is not the config's, or one is too small for its scale.
        """
        config = self.config
        self.check_count(feature_maps)
        maps = [lateral(x) for lateral, x in zip(self.laterals, feature_maps, strict=True)]
        maps = maps * (len(config.scales) // len(maps))
        return tuple(conv(rescale(x, scale)) for conv, x, scale in zip(self.convs, maps, config.scales, strict=True))


register_neck(MultiLevelNeckConfig, MultiLevelNeck)
