"""ISANet's head: attention among pixels that lie far apart, then among neighbours.

From "Interlaced Sparse Self-Attention for Semantic Segmentation" (Huang et al., 2019),
https://arxiv.org/abs/1907.12273, as mmsegmentation's ``ISAHead`` trains it.
"""

from typing import Self

import torch
from torch import Tensor

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers.interlaced_attention import interlaced_attention, interlaced_relation


@strict
class ISAHeadConfig(OneMapHeadConfig):
    """Options of ``ISAHead``, besides those of ``OneMapHeadConfig``.

    Args:
        isa_channels: width of queries and keys.
        down_factor: (height, width) of a group of neighbours, in pixels of the map.

    Raises:
        SegZooError: ``down_factor`` is not two numbers.
    """

    model_type = "segzoo_isa_head"

    channels: int = 512
    isa_channels: int = 256
    down_factor: Ints = (8, 8)

    def check(self) -> None:
        """``down_factor`` has a height and a width."""
        super().check()
        if len(self.down_factor) != 2:
            raise SegZooError(f"{type(self).__name__}: down_factor={self.down_factor} must be a height and a width")

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, isa_channels=32, down_factor=[2, 3], num_labels=5)


class ISAHead(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution.

    The map is cut into blocks of ``down_factor`` pixels. Each pixel attends to those at the same place of all blocks,
    then to those of its own block.
    """

    config: ISAHeadConfig

    def __init__(self, config: ISAHeadConfig):
        super().__init__(config)
        width, inner = config.channels, config.isa_channels
        self.in_conv = config.block(sum(config.in_channels), width, 3, padding=1)
        self.far, self.near = (interlaced_relation(config.block, width, inner) for _ in range(2))
        self.out_conv = config.block(2 * width, width, 1)
        self.post_init()

    def features(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        found = interlaced_attention(x, self.far, self.near, self.config.down_factor)
        return self.out_conv(torch.cat([found, x], dim=1))


register_head(ISAHeadConfig, ISAHead)
