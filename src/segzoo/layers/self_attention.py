"""Attention between the pixels of maps, which several heads build their context of."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from segzoo.compat import is_exporting
from segzoo.layers.initial import reset_as_torch
from segzoo.layers.pyramid_pooling import pool_to_grid
from segzoo.layers.tokens import to_map, to_tokens


class SelfAttention(nn.Module):
    """Each pixel of a map reads a mean of the values of all pixels, of its own map or of another.

    Args:
        query, value: layers from a map to one of the same size.
        key: layer to maps with the query's channels; None projects keys as queries, with the same weights. Of one map this
            is done once, so that running statistics of norms move once a step, where originals project twice and move
            them twice.
        output: layer after the attention; None for none.
        pool_scales: sides of the grids to whose cells keys and values are pooled, side by side; empty keeps the pixels.
        scaled: divide the products of queries and keys by the square root of their channels.
    """

    def __init__(
        self,
        *,
        query: nn.Module,
        value: nn.Module,
        key: nn.Module | None = None,
        output: nn.Module | None = None,
        pool_scales: Sequence[int] = (),
        scaled: bool = True,
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = query, key, value, output
        self.pool_scales = tuple(pool_scales)
        self.scaled = scaled

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """What the pixels of ``x`` (B, C, H, W) find in ``source`` (B, D, h, w), by default ``x``: (B, E, H, W)."""
        source = x if source is None else source
        query, value = self.query(x), self.value(source)
        if self.key is not None:
            key = self.key(source)
        else:  # the same layer of the same map
            key = query if source is x else self.query(source)
        if self.pool_scales:
            key, value = self._pooled(key), self._pooled(value)
        found = attend(query, key, value, scale=None if self.scaled else 1.0)
        return found if self.output is None else self.output(found)

    def _pooled(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, cells of all grids)."""
        return torch.cat([pool_to_grid(x, side).flatten(2) for side in self.pool_scales], dim=2)

    def reset(self) -> None:
        """Initialise plain convolutions as the originals do: as PyTorch, and a plain output with zeros."""
        for layer in (self.query, self.key, self.value):
            if isinstance(layer, nn.Conv2d):
                reset_as_torch(layer)
        if isinstance(self.output, nn.Conv2d):
            init.zeros_(self.output.weight)
            init.zeros_(self.output.bias)


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Tensor:
    """For each pixel the mean of the values, weighted with the softmax of its query's products with the keys.

    Args:
        query: (B, C, H, W).
        key: (B, C, ...), a map or any other arrangement of places.
        value: (B, D, ...), of the same places.
        scale: factor on the products; None is ``C**-0.5``.

    Returns:
        (B, D, H, W).
    """
    size, channels = query.shape[-2:], query.shape[1]
    scale = channels**-0.5 if scale is None else scale
    # One head, which exports ask for. The operators that never hold all products at once want each token's numbers side
    # by side, and on CPUs equal widths of queries and values; zeros add nothing to a product.
    query, key, value = (to_tokens(x).unsqueeze(1).contiguous() for x in (query, key, value))
    missing = value.shape[-1] - channels
    if missing > 0 and query.device.type == "cpu" and not is_exporting():
        query, key = F.pad(query, (0, missing)), F.pad(key, (0, missing))
    return to_map(F.scaled_dot_product_attention(query, key, value, scale=scale).squeeze(1), size)
