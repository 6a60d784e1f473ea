"""ISANet's head: attention among pixels that lie far apart, then among neighbours.

From "Interlaced Sparse Self-Attention for Semantic Segmentation" (Huang et al., 2019),
https://arxiv.org/abs/1907.12273, as mmsegmentation's ``ISAHead`` trains it.
"""

from typing import Self

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.auto import register_head
from segzoo.base import Ints
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers import SelfAttention
from segzoo.layers.conv import Conv2d


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

        def project() -> nn.Module:
            return nn.Sequential(config.block(width, inner, 1), config.block(inner, inner, 1))

        self.far, self.near = (
            SelfAttention(
                query=project(), key=project(), value=Conv2d(width, width, 1), output=config.block(width, width, 1)
            )
            for _ in range(2)
        )
        self.out_conv = config.block(2 * width, width, 1)
        self.post_init()

    def features(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        return self.out_conv(torch.cat([self._in_context(x), x], dim=1))

    def _in_context(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); zeros around the map make its blocks whole, the smaller half above and left."""
        batch, _, height, width = x.shape
        rows, columns = self.config.down_factor
        down, across = (height + rows - 1) // rows, (width + columns - 1) // columns  # the number of blocks
        more_rows, more_columns = down * rows - height, across * columns - width
        top, left = more_rows // 2, more_columns // 2
        x = F.pad(x, (left, more_columns - left, top, more_rows - top))
        x = x.unflatten(3, (across, columns)).unflatten(2, (down, rows))
        # (B, rows, columns, C, down, across): a map of one pixel of each block, for every place in a block
        x = self.far(x.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)).unflatten(0, (batch, rows, columns))
        # (B, down, across, C, rows, columns): a map of one block, for every block
        x = self.near(x.permute(0, 4, 5, 3, 1, 2).flatten(0, 2)).unflatten(0, (batch, down, across))
        x = x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        # Not a slice: whether that is contiguous depends on the size, and an export holds for sizes of one kind only.
        x = x.index_select(2, torch.arange(top, top + height, device=x.device))
        return x.index_select(3, torch.arange(left, left + width, device=x.device))


register_head(ISAHeadConfig, ISAHead)
