"""CCNet's head: each pixel attends to those of its row and its column, several times over.

From "CCNet: Criss-Cross Attention for Semantic Segmentation" (Huang et al., 2019), https://arxiv.org/abs/1811.11721, as
mmsegmentation's ``CCHead`` trains it.
"""

from typing import Self

import torch
from torch import Tensor, nn
from transformers import initialization as init

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.context import ContextHead, ContextHeadConfig
from segzoo.layers.conv import Conv2d
from segzoo.layers.initial import reset_as_torch

_REDUCTION = 8  # of the widths of queries and keys


@strict
class CCHeadConfig(ContextHeadConfig):
    """Options of ``CCHead``, besides those of ``FCNHeadConfig``.

    Args:
        recurrence: how many times the same attention is applied; after two every pixel has met every other.

    Raises:
        SegZooError: ``channels`` is less than 8.
    """

    model_type = "segzoo_cc_head"

    recurrence: int = 2

    def check(self) -> None:
        """Queries and keys have a channel at least."""
        super().check()
        if self.channels < _REDUCTION:
            raise SegZooError(
                f"CCHeadConfig: channels={self.channels}, of which queries and keys have an eighth; give {_REDUCTION} at least"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, num_labels=5)


class CrissCrossAttention(nn.Module):
    """``x + gamma * (mean of the values of a pixel's row and column, weighted for the pixel)``; at first ``x`` itself.

    Every pixel has one softmax over both lines, in which it occurs once; there are height + width weights for each.

    Args:
        channels: channels of the map.
        recurrence: how many times it is applied.
    """

    def __init__(self, channels: int, recurrence: int):
        super().__init__()
        self.recurrence = recurrence
        self.query = Conv2d(channels, channels // _REDUCTION, 1)
        self.key = Conv2d(channels, channels // _REDUCTION, 1)
        self.value = Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))  # of one dimension, because scalars cannot be sharded

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)."""
        for _ in range(self.recurrence):
            x = x + self.gamma * self.attend(x)
        return x

    def attend(self, x: Tensor) -> Tensor:
        """The weighted means of a map (B, channels, H, W), of its shape."""
        query, key, value = (part.permute(0, 2, 3, 1) for part in (self.query(x), self.key(x), self.value(x)))
        down = query.transpose(1, 2) @ key.permute(0, 2, 3, 1)  # (B, W, H, H)
        across = query @ key.mT  # (B, H, W, W)
        itself = torch.eye(x.shape[2], dtype=torch.bool, device=x.device)
        down = down.masked_fill(itself, float("-inf")).transpose(1, 2)
        weights = torch.cat([down, across], dim=-1).softmax(dim=-1)
        down, across = weights.split([x.shape[2], x.shape[3]], dim=-1)
        columns = down.transpose(1, 2) @ value.transpose(1, 2)  # (B, W, H, channels)
        return (columns.transpose(1, 2) + across @ value).permute(0, 3, 1, 2)

    def reset(self) -> None:
        """Initialise the layers as the original does."""
        for conv in (self.query, self.key, self.value):
            reset_as_torch(conv)
        init.zeros_(self.gamma)


class CCHead(ContextHead):
    """`ContextHead` with `CrissCrossAttention`."""

    config: CCHeadConfig

    def build_context(self, config: CCHeadConfig) -> CrissCrossAttention:
        return CrissCrossAttention(config.channels, config.recurrence)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CrissCrossAttention):
            module.reset()


register_head(CCHeadConfig, CCHead)
