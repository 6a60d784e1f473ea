"""Attention within square windows of a grid of tokens, which every second block shifts by half a window.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (Liu et al., 2021),
https://arxiv.org/abs/2103.14030.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from segzoo.layers.relative_position import offset_pairs
from segzoo.layers.vit import Attention

_HIDDEN = -100.0  # added to the scores between tokens that only the shift has made neighbours, as in the original


class Windows(NamedTuple):
    """Where the tokens of a grid stand in windows. The grid is padded at the right and bottom to whole windows.

    Attributes:
        side: side of the windows, in tokens.
        into: (windows * side * side,), for each place the token that stands there, or the number of tokens for padding.
        back: (tokens,), for each token its place.
        kinds: (windows,), for each window its row in ``hidden``; None without a shift.
        hidden: (4, side * side, side * side), what is added to the scores in windows inside the grid, in its last
            column, in its last row, and in both; None without a shift.
    """

    side: int
    into: Tensor
    back: Tensor
    kinds: Tensor | None = None
    hidden: Tensor | None = None


def windows_of(grid: tuple[int, int], side: int, shift: int, device: torch.device) -> Windows:
    """The windows of a grid; what the size decides is computed with tensors, so that traced programs take any size.

    Args:
        grid: (height, width) in tokens.
        side: side of the windows.
        shift: tokens by which the grid is rolled up and to the left before it is cut; 0 for none.
        device: where the tensors are made.
    """
    height, width = grid
    rows, columns, area = (height + side - 1) // side, (width + side - 1) // side, side * side
    # All in one axis: an axis of one window would be a case of its own for traced programs.
    window, place = _divided(torch.arange(rows * columns * area, device=device), area)
    row, column = _divided(window, columns)
    y, x = _divided(place, side)
    y, x = _rolled(row * side + y, shift, rows * side), _rolled(column * side + x, shift, columns * side)
    into = torch.where((y < height) & (x < width), y * width + x, height * width)
    y, x = _divided(torch.arange(height * width, device=device), width)
    row, y = _divided(_rolled(y, -shift, rows * side), side)
    column, x = _divided(_rolled(x, -shift, columns * side), side)
    back = (row * columns + column) * area + y * side + x
    if shift == 0:
        return Windows(side, into, back)
    row, column = _divided(torch.arange(rows * columns, device=device), columns)
    kinds = 2 * (row == rows - 1).long() + (column == columns - 1)
    return Windows(side, into, back, kinds, _hidden(side, shift, device))


def _divided(x: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder of whole numbers; ONNX has no remainder for a size that is free."""
    quotient = x // by
    return quotient, x - quotient * by


def _rolled(x: Tensor, shift: int, length: int) -> Tensor:
    """Places on an axis after a shift by less than its length."""
    if shift == 0:
        return x
    x = x + shift
    return torch.where(x >= length, x - length, x) if shift > 0 else torch.where(x < 0, x + length, x)


def _hidden(side: int, shift: int, device: torch.device) -> Tensor:
    """`Windows.hidden`: in the last row or column, tokens that were rolled there do not see those that were not."""
    rolled = torch.arange(side, device=device) >= side - shift
    below, beside = rolled.repeat_interleave(side), rolled.repeat(side)
    rows, columns = below[:, None] != below, beside[:, None] != beside
    return _HIDDEN * torch.stack([torch.zeros_like(rows), columns, rows, rows | columns]).float()


class WindowAttention(Attention):
    """Attention within windows, with a learned bias for each offset between two tokens of a window.

    Args:
        config: the model's config, which names the implementation of attention.
        channels: width of the tokens.
        num_heads: number of heads.
        side: side of the windows, in tokens.
        qkv_bias: queries, keys and values have a bias.
        dropout: probability of dropping an attention weight, while training.
    """

    def __init__(
        self, config: PreTrainedConfig, channels: int, num_heads: int, side: int, *, qkv_bias: bool, dropout: float
    ):
        super().__init__(config, channels, num_heads, qkv_bias="all" if qkv_bias else "none", dropout=dropout)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, num_heads))

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Mix the tokens (B, N, C) of a grid within ``windows``.

        Padding is zero before the projection, and as in the original it takes part in the attention.
        """
        side = windows.side
        # The projections of padding are those of one more token, and of no more: grids of the last stages are small.
        qkv = self.qkv(F.pad(x, (0, 0, 0, 1))).index_select(1, windows.into)
        bias = self.position_bias(windows, x.shape[0], qkv.dtype)
        mixed = self.mix(qkv.unflatten(1, (-1, side * side)).flatten(0, 1), bias)
        return self.proj(mixed.unflatten(0, (x.shape[0], -1)).flatten(1, 2).index_select(1, windows.back))

    def position_bias(self, windows: Windows, batch: int, dtype: torch.dtype) -> Tensor:
        """What is added to the scores, (1 or batch * windows, heads, side * side, side * side)."""
        side = windows.side
        table = self.relative_position_bias_table.t().unflatten(1, (2 * side - 1, 2 * side - 1))
        bias = offset_pairs(table, (side, side)).unsqueeze(0)
        if windows.kinds is None or windows.hidden is None:
            return bias.to(dtype)
        # Of four kinds first, and then of all windows: most of the time is for writing the latter.
        kinds = (bias + windows.hidden[:, None].to(bias.dtype)).to(dtype)
        return kinds.index_select(0, windows.kinds.repeat(batch))


def resize_window_table(table: Tensor, side: int) -> Tensor:
    """Resize a table of offsets (rows, heads) to windows of another side as the original does, bicubic."""
    old = round(table.shape[0] ** 0.5)
    if old == 2 * side - 1:
        return table
    grid = table.t().unflatten(1, (old, old)).unsqueeze(0)
    return F.interpolate(grid, size=(2 * side - 1, 2 * side - 1), mode="bicubic").flatten(2)[0].t().contiguous()
