"""Maps as the tokens of a transformer, and back. Both are views where the map is channels-last in memory."""

from torch import Tensor


def to_tokens(x: Tensor) -> Tensor:
    """A map (B, C, H, W) as tokens (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (B, H * W, C) as a map (B, C, H, W) of ``size`` (H, W)."""
    # Not transposed first: of a single image that would leave strides by which operators do not see channels-last.
    return x.unflatten(1, size).permute(0, 3, 1, 2)
