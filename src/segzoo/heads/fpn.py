"""Semantic FPN's head: each map of a feature pyramid is brought to the finest one's size step by step, and all are added.

From "Panoptic Feature Pyramid Networks" (Kirillov et al., 2019), https://arxiv.org/abs/1901.02446, as mmsegmentation's
``FPNHead`` trains it.
"""

from typing import Self

from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig
from segzoo.layers import ConvNormAct, resize


@strict
class FPNHeadConfig(HeadConfig):
    """Options of ``FPNHead``, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the maps to read, finest first; None reads all.
        strides: stride of each map that is read, in pixels. A map has as many convolutions as its stride can be halved
            until the first one's, one at least, and is doubled after each of them. None: each map is half as fine as the
            one before it.

    Raises:
        SegZooError: there are not as many strides as maps, or the first one is not the smallest.
    """

    model_type = "segzoo_fpn_head"

    channels: int = 128
    strides: Ints | None = None

    def check(self) -> None:
        """Every map has a stride, and none is finer than the first."""
        super().check()
        strides = self.strides
        if strides is not None and (not strides or min(strides) != strides[0]):
            raise SegZooError(f"FPNHeadConfig: strides={strides} must begin with the smallest, that of the finest map")
        maps = self.in_channels or self.in_index
        if strides is not None and maps is not None and len(maps) != len(strides):
            raise SegZooError(
                f"FPNHeadConfig: strides={strides} are {len(strides)} for {len(maps)} maps; give one for each map"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[8, 16, 32, 32], channels=16, strides=[4, 8, 16, 16], num_labels=5)


class Branch(nn.Sequential):
    """Convolutions of one map, each followed by a resize to twice the size if ``double`` is set."""

    def __init__(self, *convs: ConvNormAct, double: bool, align_corners: bool):
        super().__init__(*convs)
        self.doubles, self.align_corners = double, align_corners

    def forward(self, x: Tensor) -> Tensor:
        for conv in self:
            x = conv(x)
            if self.doubles:
                x = resize(x, (2 * x.shape[-2], 2 * x.shape[-1]), align_corners=self.align_corners)
        return x


class FPNHead(Head):
    """Reads maps from fine to coarse, and returns logits at the resolution of the finest."""

    config: FPNHeadConfig

    def __init__(self, config: FPNHeadConfig):
        super().__init__(config)
        width = config.channels
        strides = config.strides or [2**i for i in range(len(config.in_channels))]
        self.branches = nn.ModuleList()
        for channels, stride in zip(config.in_channels, strides, strict=True):
            halvings = (stride // strides[0]).bit_length() - 1
            convs = (config.block(c, width, 3, padding=1) for c in [channels, *[width] * (halvings - 1)])
            self.branches.append(
                Branch(*convs, double=stride != strides[0], align_corners=config.align_corners),
            )
        self.post_init()

    def features(self, *maps: Tensor) -> Tensor:
        fused, *coarser = (branch(x) for branch, x in zip(self.branches, maps, strict=True))
        for x in coarser:
            fused = fused + resize(x, fused.shape[-2:], align_corners=self.config.align_corners)
        return fused


register_head(FPNHeadConfig, FPNHead)
