"""SETR's neck of multi-level aggregation (MLA): maps of one size, summed from the deepest on.

From "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers" (Zheng et al., 2021),
https://arxiv.org/abs/2012.15840, as mmsegmentation's ``MLANeck`` trains it.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, Self

from torch import Tensor, nn

from segzoo.auto import register_neck
from segzoo.base import Activation, ConvBlockConfig, strict
from segzoo.errors import SegZooError
from segzoo.layers import ChannelNorm
from segzoo.necks.base import Neck, NeckConfig


@strict
class MLANeckConfig(ConvBlockConfig, NeckConfig):
    """Options of ``MLANeck``.

    Args:
        channels: channels of every returned map.
        layer_norm_eps: epsilon of the layer norms of the input maps.
        norm, norm_eps, activation: what follows each convolution; nothing by default.
    """

    model_type = "segzoo_mla_neck"

    channels: int = 256
    layer_norm_eps: float = 1e-6
    norm: Literal["batch_norm", "group_norm"] | None = None
    activation: Activation | None = None

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[16, 16, 16, 16], channels=8, norm="batch_norm", activation="relu")


class MLANeck(Neck):
    """A layer norm and a 1x1 convolution for each map, sums from the deepest map on, and a 3x3 convolution for each sum.

    The maps are returned in the order of the sums, the deepest first.
    """

    config: MLANeckConfig

    def __init__(self, config: MLANeckConfig):
        super().__init__(config)
        width = config.channels
        self.out_channels = [width] * len(config.in_channels)
        self.norms = nn.ModuleList(ChannelNorm(channels, eps=config.layer_norm_eps) for channels in config.in_channels)
        self.projections = nn.ModuleList(config.block(channels, width, 1) for channels in config.in_channels)
        self.convs = nn.ModuleList(config.block(width, width, 3, padding=1) for _ in config.in_channels)
        self.post_init()

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C, H, W) of one size -> as many maps (B, channels, H, W); the first is of the last map alone.

        Raises:
            SegZooError: the number of maps is not the config's, or they differ in size.
        """
        count, sizes = len(self.projections), [tuple(x.shape[-2:]) for x in feature_maps]
        if len(sizes) != count or any(size != sizes[0] for size in sizes):
            raise SegZooError(
                f"MLANeck was built for {count} maps of one size, but was given maps of {sizes}; use it behind a "
                "backbone of one resolution, such as ViT"
            )
        projected = [
            project(norm(x)) for x, norm, project in zip(feature_maps, self.norms, self.projections, strict=True)
        ]
        sums = accumulate(reversed(projected), lambda total, x: total + x)
        return tuple(conv(x) for conv, x in zip(self.convs, sums, strict=True))


register_neck(MLANeckConfig, MLANeck)
