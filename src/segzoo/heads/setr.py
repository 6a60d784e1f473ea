"""SETR's naive and progressive (PUP) heads: convolutions over one map, each of which enlarges it.

From "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers" (Zheng et al., 2021),
https://arxiv.org/abs/2012.15840, as mmsegmentation's ``SETRUPHead`` trains it.
"""

from typing import Self

from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers import ChannelNorm, enlarge


@strict
class SETRUPHeadConfig(OneMapHeadConfig):
    """Options of ``SETRUPHead``, besides those of ``OneMapHeadConfig``; the defaults are those of the PUP head.

    Args:
        num_convs: number of convolutions; 0 leaves the normalised map as it is.
        kernel_size: side of their kernels, odd; the naive head's is 1.
        up_scale: factor on both sides of the map after every convolution; the naive head's single one enlarges by 4.
        layer_norm_eps: epsilon of the layer norm before the first convolution.

    Raises:
        SegZooError: ``kernel_size`` is even, or without convolutions ``channels`` is not the input's.
    """

    model_type = "segzoo_setr_up_head"

    num_convs: int = 4
    kernel_size: int = 3
    up_scale: int = 2
    layer_norm_eps: float = 1e-6

    def check(self) -> None:
        """``kernel_size`` is odd, and without convolutions ``channels`` is the input's width."""
        super().check()
        if self.kernel_size % 2 == 0:
            raise SegZooError(f"SETRUPHeadConfig: kernel_size={self.kernel_size} must be odd")
        if self.num_convs == 0 and self.in_channels is not None and sum(self.in_channels) != self.channels:
            raise SegZooError(
                f"SETRUPHeadConfig: with num_convs=0 the head's channels={self.channels} must equal the "
                f"{sum(self.in_channels)} of its input"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, num_convs=2, num_labels=5)


class SETRUPHead(Head):
    """Reads one map, or the concatenation of several, and returns logits ``up_scale ** num_convs`` times as large."""

    config: SETRUPHeadConfig

    def __init__(self, config: SETRUPHeadConfig):
        super().__init__(config)
        in_channels, width = sum(config.in_channels), config.channels
        self.norm = ChannelNorm(in_channels, eps=config.layer_norm_eps)
        self.convs = nn.ModuleList(
            config.block(width if i else in_channels, width, config.kernel_size, padding=config.kernel_size // 2)
            for i in range(config.num_convs)
        )
        self.post_init()

    def features(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        for conv in self.convs:
            x = enlarge(conv(x), self.config.up_scale, align_corners=self.config.align_corners)
        return x


register_head(SETRUPHeadConfig, SETRUPHead)
