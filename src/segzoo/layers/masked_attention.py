"""Mask2Former's decoder layers: queries that look where their own masks are.

From "Masked-attention Mask Transformer for Universal Image Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2112.01527.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.layers.pixel_decoder import FeedForward


class PackedLinear(nn.Linear):
    """Three projections of the same width whose weights are one: of queries, of keys and of values, in this order.

    Args:
        channels: width of the input and of each projection.
    """

    def __init__(self, channels: int):
        super().__init__(channels, 3 * channels)

    def forward(self, x: Tensor, part: int | None = None) -> Tensor:
        """Project (..., C) to (..., 3 * C), or to (..., C) with the projection ``part`` (0, 1 or 2) alone."""
        if part is None:
            return super().forward(x)
        rows = slice(
            part * self.in_features, (part + 1) * self.in_features
        )  # which quantised weights know, not chunks
        return F.linear(x, self.weight[rows], self.bias[rows])


class Attention(nn.Module):
    """Multi-head attention with the weights of ``torch.nn.MultiheadAttention``.

    That module copies a mask in float32 for every head, which at Mask2Former's sizes is by far its largest tensor;
    here one boolean mask serves all heads.

    Args:
        channels: width of queries, keys and values, a multiple of ``num_heads``.
        num_heads: number of heads.
        dropout: probability of dropping an attention weight, while training.
    """

    def __init__(self, channels: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj = PackedLinear(channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> Tensor:
        """Mix the values for each query.

        Args:
            query: (B, Q, C).
            key, value: (B, S, C).
            visible: booleans (B, Q, S), True where a query may look, which must be somewhere; None lets all look
                everywhere.

        Returns:
            (B, Q, C).
        """
        projected = (self._project(x, part) for part, x in enumerate((query, key, value)))
        q, k, v = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in projected)
        mask = None if visible is None else visible[:, None]
        x = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=self.dropout if self.training else 0.0)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor, part: int) -> Tensor:
        if isinstance(self.in_proj, PackedLinear):
            return self.in_proj(x, part)
        # An adapter's wrapper or a quantised layer stands in its place, which only knows how to make all three.
        return self.in_proj(x).chunk(3, dim=-1)[part]

    def reset(self) -> None:
        """Initialise the weights as the original does."""
        for layer in (self.in_proj, self.out_proj):
            init.xavier_normal_(layer.weight)
            init.zeros_(layer.bias)


class MaskedDecoderLayer(GradientCheckpointingLayer):
    """Masked cross-attention, self-attention among the queries and a feed-forward net, each followed by its norm."""

    def __init__(self, channels: int, *, num_heads: int, hidden_channels: int, dropout: float, norm_eps: float):
        super().__init__()
        self.cross_attention = Attention(channels, num_heads, dropout)
        self.norm1 = nn.LayerNorm(channels, eps=norm_eps)
        self.self_attention = Attention(channels, num_heads, dropout)
        self.norm2 = nn.LayerNorm(channels, eps=norm_eps)
        self.feed_forward = FeedForward(channels, hidden_channels, dropout)
        self.norm3 = nn.LayerNorm(channels, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Tensor, query_positions: Tensor, keys: Tensor, values: Tensor, visible: Tensor
    ) -> Tensor:
        """The next queries.

        Args:
            queries: (B, Q, C).
            query_positions: (B, Q, C), added to the queries wherever they attend.
            keys: the values with their positions, (B, S, C).
            values: (B, S, C).
            visible: booleans (B, Q, S), True where a query may look.
        """
        x = self.cross_attention(queries + query_positions, keys, values, visible)
        queries = self.norm1(queries + self.dropout(x))
        placed = queries + query_positions
        queries = self.norm2(queries + self.dropout(self.self_attention(placed, placed, queries)))
        return self.norm3(self.feed_forward(queries))

    def reset(self) -> None:
        """Initialise the weights as the original does."""
        self.cross_attention.reset()
        self.self_attention.reset()
        self.feed_forward.reset()
