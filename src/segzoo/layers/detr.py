"""Transformer layers over all tokens of a map, and over queries that look at them.

From "End-to-End Object Detection with Transformers" (Carion et al., 2020), https://arxiv.org/abs/2005.12872.
"""

from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.layers.masked_attention import Attention
from segzoo.layers.pixel_decoder import FeedForward


def _reset(layer: nn.Module, *attentions: Attention) -> None:
    """Initialise attentions and feed-forward net of a layer as the original does."""
    for part in (*attentions, layer.feed_forward):
        part.reset()
        for weight in (weight for weight in part.parameters() if weight.ndim > 1):
            init.xavier_uniform_(weight)


class DetrEncoderLayer(GradientCheckpointingLayer):
    """Self-attention over all tokens of a map and a feed-forward net, each followed by its norm."""

    def __init__(self, channels: int, *, num_heads: int, hidden_channels: int, dropout: float, norm_eps: float):
        super().__init__()
        self.attention = Attention(channels, num_heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(channels, eps=norm_eps)
        self.feed_forward = FeedForward(channels, hidden_channels, dropout)
        self.norm2 = nn.LayerNorm(channels, eps=norm_eps)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """The next tokens (B, S, C); ``positions`` (1, S, C) are added to them where they are compared."""
        placed = x + positions
        x = self.norm1(x + self.dropout(self.attention(placed, placed, x)))
        return self.norm2(self.feed_forward(x))

    def reset(self) -> None:
        """Initialise the weights as the original does."""
        _reset(self, self.attention)


class DetrDecoderLayer(GradientCheckpointingLayer):
    """Self-attention among the queries, cross-attention and a feed-forward net, each followed by its norm."""

    def __init__(self, channels: int, *, num_heads: int, hidden_channels: int, dropout: float, norm_eps: float):
        super().__init__()
        self.self_attention = Attention(channels, num_heads, dropout)
        self.norm1 = nn.LayerNorm(channels, eps=norm_eps)
        self.cross_attention = Attention(channels, num_heads, dropout)
        self.norm2 = nn.LayerNorm(channels, eps=norm_eps)
        self.feed_forward = FeedForward(channels, hidden_channels, dropout)
        self.norm3 = nn.LayerNorm(channels, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, query_positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The next queries.

        Args:
            queries: (B, Q, C).
            query_positions: (B, Q, C), added to the queries wherever they attend.
            keys: the values with their positions, (B, S, C).
            values: (B, S, C).
        """
        placed = queries + query_positions
        queries = self.norm1(queries + self.dropout(self.self_attention(placed, placed, queries)))
        x = self.cross_attention(queries + query_positions, keys, values)
        return self.norm3(self.feed_forward(self.norm2(queries + self.dropout(x))))

    def reset(self) -> None:
        """Initialise the weights as the original does."""
        _reset(self, self.self_attention, self.cross_attention)
