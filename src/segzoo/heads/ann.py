"""ANN's head: attention of all pixels to the cells of a few pooled grids, across two maps and within one.

From "Asymmetric Non-local Neural Networks for Semantic Segmentation" (Zhu et al., 2019),
https://arxiv.org/abs/1908.07678, as mmsegmentation's ``ANNHead`` trains it.
"""

from typing import Self

import torch
from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig
from segzoo.layers import ConvNormAct, SelfAttention
from segzoo.layers.conv import Conv2d


@strict
class ANNHeadConfig(HeadConfig):
    """Options of ``ANNHead``, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the two maps, the finer or earlier one first.
        project_channels: width of queries, keys and values.
        key_pool_scales: sides of the grids to which keys and values are pooled, in cells.
        num_stages: number of attentions in each block, whose results are added.

    Raises:
        SegZooError: the head would not read two maps, or there is no grid or no attention.
    """

    model_type = "segzoo_ann_head"

    in_index: Ints | None = (-2, -1)
    channels: int = 512
    project_channels: int = 256
    key_pool_scales: Ints = (1, 3, 6, 8)
    num_stages: int = 1

    def check(self) -> None:
        """The head reads two maps, and attends once at least, to one grid at least."""
        super().check()
        maps = self.in_channels or self.in_index
        if maps is None or len(maps) != 2:
            raise SegZooError(
                f"{type(self).__name__} reads two maps, but in_index={self.in_index} and "
                f"in_channels={self.in_channels}; name the two, the one with keys and values first"
            )
        if not self.key_pool_scales or self.num_stages < 1:
            raise SegZooError(
                f"{type(self).__name__}: key_pool_scales={self.key_pool_scales} must name a grid, and "
                f"num_stages={self.num_stages} be 1 at least"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[16, 32],
            in_index=[1, 2],
            channels=16,
            project_channels=32,
            key_pool_scales=[1, 2],
            num_labels=5,
        )


class PooledAttention(nn.Module):
    """Fuses a map with what its pixels find in the cells of another one, or of itself.

    Args:
        config: of the head.
        channels: of the map.
        source: channels of the other map; None for the map itself, whose keys are its queries.
        activation: of the fusion.
    """

    def __init__(self, config: ANNHeadConfig, channels: int, source: int | None, activation: str | None) -> None:
        super().__init__()
        inner = config.project_channels
        self.stages = nn.ModuleList(
            SelfAttention(
                query=config.block(channels, inner, 1),
                key=None if source is None else config.block(source, inner, 1),
                value=Conv2d(channels if source is None else source, inner, 1),
                output=Conv2d(inner, channels, 1),
                pool_scales=config.key_pool_scales,
            )
            for _ in range(config.num_stages)
        )
        self.fusion = ConvNormAct(2 * channels, channels, 1, **{**config.block_options, "activation": activation})

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """A map (B, C, H, W), in the context of ``source`` (B, D, h, w) or its own: (B, C, H, W)."""
        context = sum(stage(x, source) for stage in self.stages)
        return self.fusion(torch.cat([context, x], dim=1))


class ANNHead(Head):
    """Reads two maps, and returns logits at the resolution of the second, whose pixels attend to cells of the first.

    The norm that queries and keys of ``within`` share enters a batch into its running statistics once; the original
    computes it twice, so that with momentum m they move by 1 - (1 - m)**2 a step there, to the same mean in the long run.
    """

    config: ANNHeadConfig

    def __init__(self, config: ANNHeadConfig):
        super().__init__(config)
        low, high = config.in_channels
        self.across = PooledAttention(config, high, low, activation=None)
        self.conv = config.block(high, config.channels, 3, padding=1)
        self.within = PooledAttention(config, config.channels, None, activation=config.activation)
        self.post_init()

    def features(self, low: Tensor, high: Tensor) -> Tensor:
        return self.within(self.conv(self.dropout(self.across(high, low))))


register_head(ANNHeadConfig, ANNHead)
