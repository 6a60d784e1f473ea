"""The parts of plain vision transformers: attention with its variants, feed-forward, residual block.

"An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), https://arxiv.org/abs/2010.11929. Attention goes through
transformers' attention interface, so ``attn_implementation`` chooses how it is computed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from segzoo.layers.drop_path import DropPath
from segzoo.layers.pointwise import PointwiseLinear


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention in plain matrix products, with the signature of transformers' attention functions.

    Args:
        module: the attention module; dropout acts while it is training.
        query, key, value: (B, heads, N, C / heads).
        attention_mask: added to the scores, broadcast to (B, heads, N, N); None adds nothing.
        scaling: factor on the scores.
        dropout: probability of dropping an attention weight.
        kwargs: ignored; other attention functions take them.

    Returns:
        the mixed values (B, N, heads, C / heads), and the attention weights (B, heads, N, N).
    """
    scores = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(scores.softmax(-1), dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, or within windows of them.

    Args:
        config: the model's config, which names the implementation of attention.
        channels: width of the tokens.
        num_heads: number of heads.
        qkv_bias: which projections have a bias: "all", "query_value" (BEiT: keys have none) or "none".
        window: side of the square windows, in patches; 0 for attention over all tokens.
        dropout: probability of dropping an attention weight, while training.
    """

    is_causal = False

    def __init__(
        self,
        config: PreTrainedConfig,
        channels: int,
        num_heads: int,
        *,
        qkv_bias: str = "all",
        window: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.config, self.num_heads, self.window, self.dropout = config, num_heads, window, dropout
        self.scaling = (channels // num_heads) ** -0.5
        self.recorded: list[Tensor] | None = None  # gets the attention weights, while a backbone is asked for them
        self.qkv = PointwiseLinear(channels, 3 * channels, bias=qkv_bias == "all")
        if qkv_bias == "query_value":
            self.q_bias = nn.Parameter(torch.zeros(channels))
            self.v_bias = nn.Parameter(torch.zeros(channels))
        else:
            self.q_bias = self.v_bias = None
        self.proj = PointwiseLinear(channels, channels)

    def forward(self, x: Tensor, grid: tuple[int, int], position_bias: Tensor | None = None) -> Tensor:
        """Mix tokens (B, N, C).

        Args:
            x: the tokens; with windows, those of the grid's patches and no others.
            grid: (height, width) of the patches.
            position_bias: (1, heads, N, N), added to the scores; None adds nothing.
        """
        if self.q_bias is None:
            qkv = self.qkv(x)
        else:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
            # What an adapter or a quantiser puts in the layer's place takes no bias.
            qkv = self.qkv(x, bias) if isinstance(self.qkv, PointwiseLinear) else self.qkv(x) + bias
        if self.window:
            qkv = into_windows(qkv, grid, self.window)
        mixed = self.mix(qkv, position_bias)
        if self.window:
            mixed = from_windows(mixed, grid, self.window)
        return self.proj(mixed)

    def mix(self, qkv: Tensor, position_bias: Tensor | None = None) -> Tensor:
        """Projections (B, N, 3 * C) -> mixed values (B, N, C); ``position_bias`` as in `forward`."""
        query, key, value = self.heads(qkv)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        mixed, weights = attend(
            self,
            query,
            key,
            value,
            position_bias,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
        )
        if self.recorded is not None:
            self.recorded.append(weights)
        return mixed.flatten(2)

    def heads(self, qkv: Tensor) -> Sequence[Tensor]:
        """Projections (B, N, 3 * C) -> queries, keys and values of all heads, each (B, heads, N, C / heads)."""
        return qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)


def into_windows(x: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Cut the tokens (B, h * w, C) of a grid (h, w) into square windows: (B * windows, side * side, C).

    The grid is padded with zeros on the right and at the bottom; as in ViT-Adapter these take part in the attention.
    """
    height, width = grid
    x = F.pad(x.unflatten(1, grid), (0, 0, 0, -width % side, 0, -height % side))
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # B, rows, side, columns, side, C
    return x.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def from_windows(x: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Undo `into_windows`: the tokens (B, h * w, C) of the grid, without its padding."""
    rows, columns = -(-grid[0] // side), -(-grid[1] // side)
    x = x.unflatten(1, (side, side)).unflatten(0, (-1, rows, columns))
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # B, rows * side, columns * side, C
    return x[:, : grid[0], : grid[1]].flatten(1, 2)


class FeedForward(nn.Module):
    """Two linear layers over tokens or channels-last maps, with GELU between them and dropout after each."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = PointwiseLinear(channels, hidden)
        self.activation = nn.GELU()
        self.fc2 = PointwiseLinear(hidden, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(self.activation(self.fc1(x)))))


class GatedFeedForward(nn.Module):
    """Two linear layers over tokens; one half of what the first gives, through SiLU, gates the other (SwiGLU).

    From "GLU Variants Improve Transformer" (Shazeer, 2020), https://arxiv.org/abs/2002.05202.

    Args:
        channels: width of the tokens.
        hidden: width of what is gated.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = PointwiseLinear(channels, 2 * hidden)
        self.fc2 = PointwiseLinear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate, hidden = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * hidden)


class ViTBlock(GradientCheckpointingLayer):
    """Attention and feed-forward, each after a norm, in a residual branch that a learned factor per channel may scale.

    Args:
        attention: the module that mixes the tokens, called with normalised tokens (B, N, C) and the grid.
        channels: width of the tokens.
        hidden: width inside the feed-forward part.
        gated: the feed-forward part is a `GatedFeedForward`, which has no dropout.
        norm_eps: epsilon of the norms.
        norm: ``norm(channels, eps=...)`` makes a norm of tokens.
        layer_scale: initial value of the factors; None for no factors.
        dropout: probability of dropping a value of the attention's output or of the feed-forward part, while training.
        drop_path: probability of dropping a whole branch, while training.
        attention_drop_path: that of the branch with the attention; None is ``drop_path``.
    """

    def __init__(
        self,
        attention: nn.Module,
        channels: int,
        hidden: int,
        *,
        norm_eps: float,
        gated: bool = False,
        norm: Callable[..., nn.Module] = nn.LayerNorm,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        attention_drop_path: float | None = None,
    ):
        super().__init__()
        self.layer_scale = layer_scale
        self.norm1 = norm(channels, eps=norm_eps)
        self.attention = attention
        self.norm2 = norm(channels, eps=norm_eps)
        self.mlp = GatedFeedForward(channels, hidden) if gated else FeedForward(channels, hidden, dropout)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)
        self.attention_drop_path = DropPath(drop_path if attention_drop_path is None else attention_drop_path)
        if layer_scale is None:
            self.scale1 = self.scale2 = None
        else:
            self.scale1 = nn.Parameter(torch.full((channels,), layer_scale))
            self.scale2 = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Tensor, grid: Any) -> Tensor:
        """Tokens (B, N, C) -> tokens of the same shape.

        Args:
            x: the tokens.
            grid: passed on to the attention: the (height, width) of the patches among the tokens, or their windows.
        """
        mixed = self.dropout(self.attention(self.norm1(x), grid))
        x = x + self.attention_drop_path(mixed if self.scale1 is None else mixed * self.scale1)
        hidden = self.mlp(self.norm2(x))
        return x + self.drop_path(hidden if self.scale2 is None else hidden * self.scale2)


def drop_path_rates(largest: float, layers: int, *, uniform: bool = False) -> list[float]:
    """One drop path probability per layer, growing linearly from 0 to ``largest``; a single layer gets 0.

    With ``uniform`` all of them are ``largest``.
    """
    if uniform:
        return [largest] * layers
    return [largest * i / max(layers - 1, 1) for i in range(layers)]
