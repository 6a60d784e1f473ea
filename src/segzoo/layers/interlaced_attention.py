"""Attention of pixels to those that lie far apart, then to their neighbours, in place of attention to all.

"Interlaced Sparse Self-Attention for Semantic Segmentation" (Huang et al., 2019), https://arxiv.org/abs/1907.12273.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers.conv import Conv2d, ConvNormAct
from segzoo.layers.self_attention import SelfAttention


def interlaced_relation(
    block: Callable[..., ConvNormAct], channels: int, inner: int, *, convs: int = 2
) -> SelfAttention:
    """The attention of one of the two steps, with `ConvNormAct`s for queries, keys and output.

    Args:
        block: makes the blocks, such as ``config.block``.
        channels: of the map.
        inner: width of queries and keys.
        convs: number of blocks that make queries, and of those that make keys.
    """

    def project() -> nn.Module:
        return nn.Sequential(*(block(inner if i else channels, inner, 1) for i in range(convs)))

    return SelfAttention(
        query=project(), key=project(), value=Conv2d(channels, channels, 1), output=block(channels, channels, 1)
    )


def interlaced_attention(x: Tensor, far: nn.Module, near: nn.Module, size: Sequence[int]) -> Tensor:
    """Cut a map into blocks; let pixels at the same place of all blocks attend to each other, then those of a block.

    Args:
        x: (B, C, H, W); zeros around it make its blocks whole, the smaller half above and left.
        far, near: the attention of each step, from maps (N, C, h, w) to the same shape.
        size: (height, width) of a block, in pixels.

    Returns:
        (B, C, H, W).
    """
    batch, _, height, width = x.shape
    rows, columns = size
    down, across = (height + rows - 1) // rows, (width + columns - 1) // columns  # the number of blocks
    more_rows, more_columns = down * rows - height, across * columns - width
    top, left = more_rows // 2, more_columns // 2
    x = F.pad(x, (left, more_columns - left, top, more_rows - top))
    x = x.unflatten(3, (across, columns)).unflatten(2, (down, rows))
    # (B, rows, columns, C, down, across): a map of one pixel of each block, for every place in a block
    x = far(x.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)).unflatten(0, (batch, rows, columns))
    # (B, down, across, C, rows, columns): a map of one block, for every block
    x = near(x.permute(0, 4, 5, 3, 1, 2).flatten(0, 2)).unflatten(0, (batch, down, across))
    x = x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    # Not a slice: whether that is contiguous depends on the size, and an export holds for sizes of one kind only.
    x = x.index_select(2, torch.arange(top, top + height, device=x.device))
    return x.index_select(3, torch.arange(left, left + width, device=x.device))
